"""The parallel graph search: every running lane makes one hop per step, and all their pairs are scored in one call.

Level 1 scores the rows that the user's own items point at; level 2 is a best-first beam search over the graph, guided
by the metric. Within a lane `width` candidates are expanded at once, across lanes a step is one batch: the
hierarchical parallel search of GMP-GR (arXiv 2502.11490).
"""

import time
from dataclasses import replace

import numpy as np
import torch

from engine import tiles
from engine.errors import InvalidQuery
from engine.index import NO_NEIGHBOR, ItemIndex
from engine.lanes import NO_ROW, Lanes
from engine.query import Answer, Query, SearchParams, Stop

EXACT_ROWS = 10_000
"""A filter that matches no more rows than this, and than the budget, is answered by scoring all that match."""


class ParallelSearch:
    """Searches one index for many queries at once. Not thread-safe: one thread steps it and changes the index."""

    def __init__(self, index: ItemIndex, lanes: int = 64) -> None:
        self.index = index
        self.lanes = Lanes(lanes, index)

    def admit(self, queries: list[Query]) -> list[int]:
        """Put queries into free lanes; returns the lane of each.

        Raises InvalidQuery for rows that do not exist or when there are more queries than free lanes.
        """
        free = self.lanes.free()
        if len(queries) > len(free):
            raise InvalidQuery("queries", f"{len(queries)} for {len(free)} free lanes")
        for query in queries:
            self.check(query)
        self.lanes.fit(self.index)
        self.index.metric.encode_users(queries, self.index.state, self.lanes.users, free[: len(queries)])
        for lane, query in zip(free, queries, strict=False):
            seeds, walks = self._seeds(query)
            self.lanes.admit(lane, query, seeds, walks=walks)
        return free[: len(queries)]

    @property
    def free_lanes(self) -> int:
        """How many more queries can be admitted."""
        return len(self.lanes.free())

    def step(self) -> list[tuple[int, Answer]]:
        """One hop for every running lane; returns the lanes that are done, with their answers, and frees them.

        A lane whose time is up makes no hop: its best so far is the answer.
        """
        expired = self._expired()
        running = self.lanes.running()
        if len(running) == 0:
            return expired
        self.lanes.fit(self.index)
        pair_lanes, rows = self._next_pairs(running)
        pair_lanes, rows = self._within_budget(pair_lanes, rows)
        self._score_and_merge(pair_lanes, rows)
        self.lanes.steps[running] += 1
        return expired + self._retire(running)

    def cancel(self, lane: int) -> None:
        """Free a lane whose answer nobody wants any more."""
        self.lanes.release(lane)

    # -- level 1 ---------------------------------------------------------------------------------------------------

    def check(self, query: Query) -> None:
        """Raise `InvalidQuery` for a query that does not fit this index as it is now."""
        if query.vector is not None and query.vector.shape != (self.index.metric.dimensions,):
            raise InvalidQuery("vector", f"has {query.vector.size} dimensions, not {self.index.metric.dimensions}")
        for name in ("history_rows", "excluded"):
            rows = getattr(query, name)
            if rows.size and not 0 <= rows.min() <= rows.max() < self.index.rows:
                raise InvalidQuery(name, f"a row outside of 0 … {self.index.rows - 1}")
        if query.mask is not None and len(query.mask) > self.index.rows:
            raise InvalidQuery("mask", f"covers {len(query.mask)} rows of {self.index.rows}")

    def _seeds(self, query: Query) -> tuple[torch.Tensor, bool]:
        """The rows that the first step scores, and whether the search walks on from there."""
        index = self.index
        if query.mask is not None:
            matching = np.flatnonzero(query.mask)
            if len(matching) <= min(query.params.budget, EXACT_ROWS):
                return torch.from_numpy(matching).to(index.device), False
        own = torch.from_numpy(query.history_rows).to(index.device)
        if len(own) == 0:
            return index.seeds, True
        nearest = max(1, query.params.seed_fanout // len(own))
        around = index.neighbors[own, :nearest].T.reshape(-1).long()
        return torch.cat([own, around, index.seeds]), True

    # -- level 2 ---------------------------------------------------------------------------------------------------

    def _next_pairs(self, running: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """The unvisited rows to score next, int64[pairs] each: lane and row, grouped by lane, first come first."""
        lanes = self.lanes
        chosen_lanes, parents = self._select(torch.from_numpy(running).to(self.index.device))
        found = self.index.neighbors[parents].long()
        pair_lanes = [chosen_lanes.repeat_interleave(self.index.degree)]
        rows = [found.reshape(-1)]
        idle = set(running) - set(torch.unique(chosen_lanes).tolist())
        for lane in sorted(idle):
            more = lanes.pending.pop(lane) if lane in lanes.pending else self._lowest_unvisited(lane)
            pair_lanes.append(torch.full_like(more, lane))
            rows.append(more)
        return self._unvisited(torch.cat(pair_lanes), torch.cat(rows))

    def _select(self, running: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The best `width` unexpanded beam entries of every lane, int64[n] each: lane and row; marks them expanded."""
        lanes = self.lanes
        width = int(lanes.beam.sizes[running].max())
        unexpanded = lanes.unexpanded[running, :width]
        chosen = unexpanded & (unexpanded.cumsum(dim=1) <= lanes.widths[running, None])
        lanes.unexpanded[running, :width] = unexpanded & ~chosen
        which, place = torch.nonzero(chosen, as_tuple=True)
        return running[which], lanes.beam.rows[running[which], place]

    def _lowest_unvisited(self, lane: int) -> torch.Tensor:
        """One tile of rows for a lane whose frontier is empty though it has room for more: so nothing stays unseen."""
        left = self.index.live & self.lanes.returnable[lane] & ~self.lanes.visited[lane]
        return torch.nonzero(left)[: tiles.TILE_ROWS, 0]

    def _unvisited(self, pair_lanes: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Drop what is empty, dead, visited or there twice, and group the rest by lane."""
        lanes = self.lanes
        wanted = rows != NO_NEIGHBOR
        wanted &= (self.index.versions[rows] > 0) & ~lanes.visited[pair_lanes, rows]
        pair_lanes, rows = pair_lanes[wanted], rows[wanted]
        key, order = torch.sort(pair_lanes * len(self.index.versions) + rows, stable=True)
        first = torch.ones_like(key, dtype=torch.bool)
        first[1:] = key[1:] != key[:-1]
        arrival = torch.sort(order[first]).values
        arrival = arrival[torch.sort(pair_lanes[arrival], stable=True).indices]
        pair_lanes, rows = pair_lanes[arrival], rows[arrival]
        return pair_lanes, rows

    def _within_budget(self, pair_lanes: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut each lane's pairs to what is left of its budget: the first to come stay."""
        lanes = self.lanes
        counts = np.bincount(pair_lanes.cpu().numpy(), minlength=lanes.count)
        left = lanes.budgets - lanes.evaluations
        if (counts > left).any():
            rank = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
            keep = torch.from_numpy(rank < np.repeat(left, counts)).to(rows.device)
            pair_lanes, rows = pair_lanes[keep], rows[keep]
            counts = np.minimum(counts, left)
        lanes.visited[pair_lanes, rows] = True
        lanes.evaluations += counts
        return pair_lanes, rows

    def _score_and_merge(self, pair_lanes: torch.Tensor, rows: torch.Tensor) -> None:
        """Score all pairs in one call and merge them into their lanes' beams and results."""
        if len(rows) == 0:
            return
        lanes = self.lanes
        active, group, counts = torch.unique_consecutive(pair_lanes, return_inverse=True, return_counts=True)
        place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[group]
        new_rows = torch.full((len(active), int(counts.max())), NO_ROW, dtype=torch.int64, device=rows.device)
        new_rows[group, place] = rows
        new_scores = self.index.metric.score(self.index.state, new_rows, lanes.users, active)
        self._merge_beam(active, new_scores, new_rows)
        barred = ~lanes.returnable[active[:, None], new_rows] | (new_rows == NO_ROW)
        self._merge_results(active, new_scores.masked_fill(barred, -torch.inf), new_rows.masked_fill(barred, NO_ROW))

    def _merge_beam(self, active: torch.Tensor, scores: torch.Tensor, rows: torch.Tensor) -> None:
        lanes = self.lanes
        walks = torch.from_numpy(lanes.walks).to(rows.device)[active]
        fresh = (rows != NO_ROW) & walks[:, None]
        places = lanes.beam.merge(active, scores, rows)
        width = places.shape[1]
        unexpanded = torch.cat([lanes.unexpanded[active, :width], fresh], dim=1).gather(1, places)
        lanes.unexpanded[active, :width] = unexpanded & (lanes.beam.rows[active, :width] != NO_ROW)

    def _merge_results(self, active: torch.Tensor, scores: torch.Tensor, rows: torch.Tensor) -> None:
        lanes = self.lanes
        places = lanes.results.merge(active, scores, rows)
        width = places.shape[1]
        versions = torch.cat([lanes.result_versions[active, :width], self.index.versions[rows]], dim=1)
        lanes.result_versions[active, :width] = versions.gather(1, places)

    # -- retirement ------------------------------------------------------------------------------------------------

    def _expired(self) -> list[tuple[int, Answer]]:
        """The lanes whose time is up, freed, with the best that they have."""
        now = time.monotonic()
        expired = []
        for lane, query in enumerate(self.lanes.queries):
            if query is not None and query.deadline is not None and now >= query.deadline:
                expired.append((lane, self._answer(lane, Stop.DEADLINE)))
                self.lanes.release(lane)
        return expired

    def _retire(self, running: np.ndarray) -> list[tuple[int, Answer]]:
        lanes = self.lanes
        frontier = lanes.unexpanded.any(dim=1).cpu().numpy()
        full = (lanes.beam.full() & lanes.results.full()).cpu().numpy()
        done = []
        for lane in running.tolist():
            stop = self._stop(lane, frontier=bool(frontier[lane]), full=bool(full[lane]))
            if stop is not None:
                done.append((lane, self._answer(lane, stop)))
                lanes.release(lane)
        return done

    def _stop(self, lane: int, *, frontier: bool, full: bool) -> Stop | None:
        lanes = self.lanes
        if lanes.evaluations[lane] >= lanes.budgets[lane]:
            return Stop.BUDGET
        if lanes.walks[lane] and (frontier or not (full or len(self._lowest_unvisited(lane)) == 0)):
            return None
        return Stop.CONVERGED

    def _answer(self, lane: int, stop: Stop) -> Answer:
        """The lane's results, without rows whose item changed or went away since they were scored."""
        lanes = self.lanes
        rows = lanes.results.rows[lane]
        same = (rows != NO_ROW) & (lanes.result_versions[lane] == self.index.versions[rows])
        return Answer(
            rows=rows[same].cpu().numpy(),
            scores=lanes.results.scores[lane][same].cpu().numpy(),
            evaluations=int(lanes.evaluations[lane]),
            steps=int(lanes.steps[lane]),
            stop=stop,
        )


def search(index: ItemIndex, queries: list[Query], lanes: int = 64) -> list[Answer]:
    """Answer queries offline, refilling lanes as they become free; answers in the order of the queries."""
    running = ParallelSearch(index, lanes)
    answers: dict[int, Answer] = {}
    owner: dict[int, int] = {}
    waiting = iter(range(len(queries)))
    while len(answers) < len(queries):
        batch = [number for _, number in zip(running.lanes.free(), waiting, strict=False)]
        owner.update(zip(running.admit([queries[number] for number in batch]), batch, strict=True))
        for lane, answer in running.step():
            answers[owner[lane]] = answer
    return [answers[number] for number in range(len(queries))]


def exhaustive(index: ItemIndex, queries: list[Query]) -> list[Answer]:
    """Score every live row for every query: what a search is measured against.

    The same tiles and the same order as the search, so that equal scores compare equal.
    """
    everything = torch.nonzero(index.versions[: index.rows] > 0)[:, 0]
    running = ParallelSearch(index, lanes=1)
    running.lanes.fit(index)
    answers: list[Answer] = []
    for query in queries:
        unlimited = replace(query, params=SearchParams(k=query.params.k, beam=query.params.k))
        index.metric.encode_users([query], index.state, running.lanes.users, [0])
        running.lanes.admit(0, unlimited, everything, walks=False)
        answers.extend(answer for _, answer in running.step())
    return answers
