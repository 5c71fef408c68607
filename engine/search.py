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
from torch.nn.utils.rnn import pad_sequence

from engine import tiles
from engine.errors import InvalidQuery
from engine.index import ItemIndex
from engine.lanes import NO_ROW, Lanes, Stage
from engine.pairs import merge, take
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
        chosen, candidates = self._candidates(running)
        self._score(chosen, take(self.index, self.lanes, chosen, candidates))
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

    def _candidates(self, running: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """What may be scored next: lanes int64[n], each of those running once, and rows int64[n, c], −1 for none."""
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
        """Candidates int64[n, c] outside of rounds: what is pending, else neighbours of the best, else any."""
        candidates = self._neighbors_of_best(chosen)
        idle = (candidates == NO_ROW).all(dim=1).tolist() if candidates.shape[1] else [True] * len(chosen)
        lines = [
            self._others(lane) if nothing else candidates[line]
            for line, (lane, nothing) in enumerate(zip(chosen.tolist(), idle, strict=True))
        ]
        return pad_sequence(lines, batch_first=True, padding_value=NO_ROW) if lines else candidates

    def _neighbors_of_best(self, chosen: torch.Tensor) -> torch.Tensor:
        """What the best `width` unexpanded beam entries of every lane link to, int64[n, c]; these are expanded now."""
        lanes = self.lanes
        unexpanded = lanes.unexpanded[chosen]
        best = unexpanded & (unexpanded.cumsum(dim=1) <= lanes.widths[chosen, None])
        lanes.unexpanded[chosen] = unexpanded & ~best
        if not best.any():
            return torch.full((len(chosen), 0), NO_ROW, dtype=torch.int64, device=chosen.device)
        parents = lanes.beam.rows[chosen].masked_fill(~best, NO_ROW)[:, : int(best.nonzero()[:, 1].max()) + 1]
        found = self.index.neighbors[parents].long().masked_fill((parents == NO_ROW)[:, :, None], NO_ROW)
        return found.flatten(start_dim=1)

    def _others(self, lane: int) -> torch.Tensor:
        """The seeds of a lane that begins; else a tile of rows, so that nothing stays unseen while there is room."""
        pending = self.lanes.pending.pop(lane, None)
        return self._lowest_unvisited(lane) if pending is None else pending

    def _lowest_unvisited(self, lane: int) -> torch.Tensor:
        return torch.nonzero(self.index.live & (self.lanes.marks[lane] == 0))[: tiles.TILE_ROWS, 0]

    def _score(self, chosen: torch.Tensor, rows: torch.Tensor) -> None:
        """Score all pairs, with tangents for the lanes whose rounds are not over, and merge them."""
        index, users = self.index, self.lanes.users
        derive = self.lanes.rounds[chosen.cpu().numpy()] > 0
        order = torch.from_numpy(np.argsort(~derive, kind="stable")).to(rows.device)
        chosen, rows, split = chosen[order], rows[order], int(derive.sum())
        scores, tangents = index.metric.score_with_tangents(index.state, rows[:split], users, chosen[:split])
        rest = index.metric.score(index.state, rows[split:], users, chosen[split:])
        merge(index, self.lanes, chosen, rows, torch.cat([scores, rest]), tangents)

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
        rows = lanes.results.rows[lane].cpu().numpy()
        scores = lanes.results.scores[lane].cpu().numpy()
        versions = lanes.result_versions[lane].cpu().numpy()
        same = (rows != NO_ROW) & (versions == self.index.versions.cpu().numpy()[rows])
        return Answer(
            rows=rows[same],
            scores=scores[same],
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
