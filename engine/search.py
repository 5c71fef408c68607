"""The parallel search: every running lane makes one step at a time, and all their pairs are scored in one call.

A lane scores its seeds, then by turns the neighbours of its best and what their gradients point at in the whole
catalogue (`engine.rounds`); if that is not enough to fill what it was asked for, it walks on over the graph. Within a
lane many candidates are expanded at once, across lanes a step is one batch: the hierarchical parallel search of GMP-GR
(arXiv 2502.11490).
"""

import time
from dataclasses import replace

import numpy as np
import torch

from engine import tiles
from engine.errors import InvalidQuery
from engine.index import NO_NEIGHBOR, ItemIndex
from engine.lanes import BARRED, NO_ROW, NO_SLOT, SLOTS, VISITED, Lanes, Stage
from engine.query import Answer, Query, SearchParams, Stop
from engine.rounds import choose_far, choose_near

QUIET_ROUNDS = 2
"""A lane ends its rounds early when so many of them, one near and one far, brought nothing new among its results."""

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
        chosen, rows = self._next_rows(running)
        self._score(chosen, self._within_budget(chosen, rows))
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
        """The rows that the first step scores, and whether the search goes on from there."""
        index = self.index
        if query.mask is not None:
            matching = np.flatnonzero(query.mask)
            if len(matching) <= min(query.params.budget, EXACT_ROWS):
                return torch.from_numpy(matching).to(index.device), False
        return torch.cat([torch.from_numpy(query.history_rows).to(index.device), index.seeds]), True

    # -- level 2 ---------------------------------------------------------------------------------------------------

    def _next_rows(self, running: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """The unvisited rows to score next: lanes int64[n], each of those running once, and rows int64[n, p]."""
        stages = self.lanes.stages[running]
        near, far, other = (
            torch.from_numpy(running[chosen]).to(self.index.device)
            for chosen in (stages == Stage.NEAR, stages == Stage.FAR, np.isin(stages, (Stage.SEEDS, Stage.FILL)))
        )
        tables = [
            choose_near(self.index, self.lanes, near),
            choose_far(self.index, self.lanes, far),
            self._fill(other),
        ]
        widest = max(table.shape[1] for table in tables)
        rows = [torch.nn.functional.pad(table, (0, widest - table.shape[1]), value=NO_ROW) for table in tables]
        return torch.cat([near, far, other]), torch.cat(rows)

    def _fill(self, chosen: torch.Tensor) -> torch.Tensor:
        """Rows for lanes without rounds, or before them: what is pending, else the neighbours of the best, else any."""
        lanes = self.lanes
        parents_of, parents = self._select(chosen)
        pair_lanes = [parents_of.repeat_interleave(self.index.degree)]
        rows = [self.index.neighbors[parents].long().reshape(-1)]
        for lane in sorted(set(chosen.tolist()) - set(parents_of.tolist())):
            more = lanes.pending.pop(lane) if lane in lanes.pending else self._lowest_unvisited(lane)
            pair_lanes.append(torch.full_like(more, lane))
            rows.append(more)
        return _as_table(chosen, *self._unvisited(torch.cat(pair_lanes), torch.cat(rows)))

    def _select(self, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The best `width` unexpanded beam entries of every lane, int64[n] each: lane and row; marks them expanded."""
        lanes = self.lanes
        unexpanded = lanes.unexpanded[chosen]
        best = unexpanded & (unexpanded.cumsum(dim=1) <= lanes.widths[chosen, None])
        lanes.unexpanded[chosen] = unexpanded & ~best
        which, place = torch.nonzero(best, as_tuple=True)
        return chosen[which], lanes.beam.rows[chosen[which], place]

    def _lowest_unvisited(self, lane: int) -> torch.Tensor:
        """One tile of rows for a lane whose frontier is empty though it has room for more: so nothing stays unseen."""
        return torch.nonzero(self.index.live & (self.lanes.marks[lane] == 0))[: tiles.TILE_ROWS, 0]

    def _unvisited(self, pair_lanes: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Drop what is empty, dead, visited or there twice, and group the rest by lane."""
        lanes = self.lanes
        wanted = rows != NO_NEIGHBOR
        wanted &= (self.index.versions[rows] > 0) & (lanes.marks[pair_lanes, rows] & VISITED == 0)
        pair_lanes, rows = pair_lanes[wanted], rows[wanted]
        key, order = torch.sort(pair_lanes * len(self.index.versions) + rows, stable=True)
        first = torch.ones_like(key, dtype=torch.bool)
        first[1:] = key[1:] != key[:-1]
        arrival = torch.sort(order[first]).values
        arrival = arrival[torch.sort(pair_lanes[arrival], stable=True).indices]
        return pair_lanes[arrival], rows[arrival]

    def _within_budget(self, chosen: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Cut each lane's rows to what is left of its budget, the first to come stay; those are visited from now on."""
        lanes = self.lanes
        mine = chosen.cpu().numpy()
        left = torch.from_numpy(lanes.budgets[mine] - lanes.evaluations[mine]).to(rows.device)
        places = torch.arange(rows.shape[1], device=rows.device)
        rows = rows.masked_fill(places >= left[:, None], NO_ROW)
        line, place = torch.nonzero(rows != NO_ROW, as_tuple=True)
        lanes.marks[chosen[line], rows[line, place]] |= VISITED
        return rows

    def _score(self, chosen: torch.Tensor, rows: torch.Tensor) -> None:
        """Score all pairs, with gradients for the lanes whose rounds are not over, and merge them."""
        lanes, index = self.lanes, self.index
        mine = chosen.cpu().numpy()
        derive = lanes.rounds[mine] > 0
        order = torch.from_numpy(np.argsort(~derive, kind="stable")).to(rows.device)
        chosen, rows = chosen[order], rows[order]
        counts = (rows != NO_ROW).sum(dim=1)
        split = int(derive.sum())
        scores, gradients = index.metric.score_with_gradients(index.state, rows[:split], lanes.users, chosen[:split])
        rest = index.metric.score(index.state, rows[split:], lanes.users, chosen[split:])
        slots = self._keep_gradients(chosen, rows, gradients)
        entered = self._merge(chosen, torch.cat([scores, rest]), rows, slots).cpu().numpy()
        mine = chosen.cpu().numpy()
        lanes.evaluations[mine] += counts.cpu().numpy()
        lanes.quiet[mine] = np.where(entered, 0, lanes.quiet[mine] + 1)

    def _keep_gradients(self, chosen: torch.Tensor, rows: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        """Store the gradients float32[d, p, S] of the first d lanes; returns their slots int64[n, p]."""
        lanes = self.lanes
        slots = torch.full_like(rows, NO_SLOT)
        for line, lane in enumerate(chosen[: len(gradients)].tolist()):
            first = int(lanes.evaluations[lane])
            count = min(int((rows[line] != NO_ROW).sum()), max(0, SLOTS - first))
            lanes.gradients[lane, first : first + count] = gradients[line, :count]
            slots[line, :count] = torch.arange(first, first + count, device=rows.device)
        return slots

    def _merge(
        self, chosen: torch.Tensor, scores: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor
    ) -> torch.Tensor:
        """Merge new pairs into the beams and the results; returns bool[n], whether a lane's results changed."""
        lanes = self.lanes
        walks = torch.from_numpy(lanes.walks).to(rows.device)[chosen]
        places = lanes.beam.merge(chosen, scores, rows)
        width = places.shape[1]
        fresh = (rows != NO_ROW) & walks[:, None]
        unexpanded = torch.cat([lanes.unexpanded[chosen, :width], fresh], dim=1).gather(1, places)
        lanes.unexpanded[chosen, :width] = unexpanded & (lanes.beam.rows[chosen, :width] != NO_ROW)
        lanes.slots[chosen, :width] = torch.cat([lanes.slots[chosen, :width], slots], dim=1).gather(1, places)

        barred = (
            (rows == NO_ROW) | (lanes.marks[chosen[:, None], rows] & BARRED != 0) | (self.index.versions[rows] <= 0)
        )
        scores, rows = scores.masked_fill(barred, -torch.inf), rows.masked_fill(barred, NO_ROW)
        places = lanes.results.merge(chosen, scores, rows)
        width = places.shape[1]
        versions = torch.cat([lanes.result_versions[chosen, :width], self.index.versions[rows]], dim=1)
        lanes.result_versions[chosen, :width] = versions.gather(1, places)
        return ((places >= width) & (lanes.results.rows[chosen, :width] != NO_ROW)).any(dim=1)

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
        """Free the lanes that are done; the others go on to their next stage."""
        lanes = self.lanes
        full = (lanes.beam.full() & lanes.results.full()).cpu().numpy()
        done = []
        for lane in running.tolist():
            stop = self._stop(lane, full=bool(full[lane]))
            if stop is not None:
                done.append((lane, self._answer(lane, stop)))
                lanes.release(lane)
        return done

    def _stop(self, lane: int, *, full: bool) -> Stop | None:
        """Why a lane is done, or None: then its next stage is set."""
        lanes = self.lanes
        if lanes.evaluations[lane] >= lanes.budgets[lane]:
            return Stop.BUDGET
        if not lanes.walks[lane]:
            return Stop.CONVERGED
        stage = lanes.stages[lane]
        lanes.rounds[lane] -= stage != Stage.SEEDS
        if lanes.rounds[lane] > 0 and lanes.quiet[lane] < QUIET_ROUNDS:
            lanes.stages[lane] = Stage.FAR if stage == Stage.NEAR else Stage.NEAR
            return None
        lanes.stages[lane] = Stage.FILL
        return Stop.CONVERGED if full or len(self._lowest_unvisited(lane)) == 0 else None

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


def _as_table(chosen: torch.Tensor, pair_lanes: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Pairs grouped by lane, int64[pairs] each, as lines of the lanes chosen: int64[n, p], −1 behind the last."""
    line_of = torch.full((int(chosen.max()) + 1 if len(chosen) else 0,), NO_ROW, device=rows.device)
    line_of[chosen] = torch.arange(len(chosen), device=rows.device)
    lines = line_of[pair_lanes]
    counts = torch.bincount(lines, minlength=len(chosen))
    _, group, sizes = torch.unique_consecutive(lines, return_inverse=True, return_counts=True)
    places = torch.arange(len(rows), device=rows.device) - (sizes.cumsum(0) - sizes)[group]
    table = torch.full((len(chosen), int(counts.max()) if len(chosen) else 0), NO_ROW, device=rows.device)
    table[lines, places] = rows
    return table


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
