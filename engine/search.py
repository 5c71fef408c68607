"""The parallel search: every running lane makes one step at a time, and all their pairs are scored in one call.

A lane scores its seeds, then by turns the neighbours of its best and what their gradients point at in the whole
catalogue (`engine.rounds`), or the neighbours alone where their links reach far enough (`engine.depth`); if that is not
enough to fill what it was asked for, it walks on over the graph. Within a lane many candidates are expanded at once,
across lanes a step is one batch: the hierarchical parallel search of GMP-GR (arXiv 2502.11490).
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from engine.depth import rounds_of, seeds_of
from engine.errors import InvalidQuery
from engine.hops import TorchHops
from engine.index import ItemIndex
from engine.kernels.admission import any_outside
from engine.kernels.stages import FAR, advance
from engine.kernels.steps import CompiledHops
from engine.lanes import Given, Lanes
from engine.query import Answer, Query, SearchParams, Stop

QUIET_ROUNDS = 2
"""A lane ends its rounds early when so many of them, one near and one far, brought nothing new among its results."""

EXACT_ROWS = 10_000
"""A filter that matches no more rows than this, and than the budget, is answered by scoring all that match."""

THREAD_SECONDS = 0.0001
"""A thread more is called in for so much work; for less, waiting for it takes as long as what it does."""

_SMOOTHING = 0.1


class ParallelSearch:
    """Searches one index for many queries at once. Not thread-safe: one thread steps it and changes the index."""

    def __init__(self, index: ItemIndex, lanes: int = 64) -> None:
        self.index = index
        self.lanes = Lanes(lanes, index)
        self._hops = TorchHops(index.device) if index.sketch is None else CompiledHops(lanes)
        self._scanned = False
        self._lane_seconds = 0.0

    def admit(self, queries: Sequence[Query]) -> list[int]:
        """Put queries that `check` has let through into free lanes; returns the lane of each.

        Raises InvalidQuery when there are more queries than free lanes.
        """
        free = self.lanes.free()
        if len(queries) > len(free):
            raise InvalidQuery("queries", f"{len(queries)} for {len(free)} free lanes")
        if len(queries) == 0:
            return []
        chosen = free[: len(queries)]
        self.lanes.fit(self.index)
        rounds = rounds_of(self.index, queries)
        self.index.metric.encode_users(queries, self.index.state, self.lanes.users, chosen)
        self.lanes.admit(chosen, queries, [self._given(*pair) for pair in zip(queries, rounds, strict=True)])
        numbers: list[int] = chosen.tolist()
        return numbers

    @property
    def free_lanes(self) -> int:
        """How many more queries can be admitted."""
        return self.lanes.count - int(np.count_nonzero(self.lanes.running))

    def step(self) -> list[tuple[int, Answer]]:
        """One hop for every running lane; returns the lanes that are done, with their answers, and frees them.

        A lane whose time is up makes no hop: its best so far is the answer.
        """
        late = (self.lanes.deadlines <= time.monotonic()).nonzero()[0]
        answers = self._retire(late, Stop.DEADLINE) if len(late) else []
        running = self._moving()
        if len(running) == 0:
            return answers
        self.lanes.fit(self.index)
        spent, converged = advance(*self._hop(running), self.lanes.progress, QUIET_ROUNDS)
        for done, stop in ((spent, Stop.BUDGET), (converged, Stop.CONVERGED)):
            if len(done):
                answers += self._retire(done, stop)
        return answers

    def cancel(self, lane: int) -> None:
        """Free a lane whose answer nobody wants any more."""
        self.lanes.release([lane])

    def check(self, query: Query) -> None:
        """Raise `InvalidQuery` for a query that does not fit this index; one that does still will when it has grown."""
        if query.vector is not None and query.vector.shape != (self.index.metric.dimensions,):
            raise InvalidQuery("vector", f"has {query.vector.size} dimensions, not {self.index.metric.dimensions}")
        for name in ("history_rows", "excluded"):
            rows = getattr(query, name)
            if any_outside(np.ascontiguousarray(rows, np.int64), self.index.rows):
                raise InvalidQuery(name, f"a row outside of 0 … {self.index.rows - 1}")
        if query.mask is not None and len(query.mask) > self.index.rows:
            raise InvalidQuery("mask", f"covers {len(query.mask)} rows of {self.index.rows}")

    def _given(self, query: Query, rounds: int) -> Given:
        """What the first steps of a query score: all that its filter lets through, where that is little, or seeds."""
        if query.mask is not None:
            matching = np.flatnonzero(query.mask)
            if len(matching) <= min(query.params.budget, EXACT_ROWS):
                return Given((matching,), rounds=0)
        return Given((query.history_rows, seeds_of(self.index, query)), rounds)

    # -- level 2 ---------------------------------------------------------------------------------------------------

    def _moving(self) -> np.ndarray:
        """The lanes that make this hop, int64[n]: all, but after a scan those that look far wait once for the others.

        A scan costs much the same for one lane as for many; lanes that waited once look far together from then on.
        Where a third looks far already, waiting would make steps uneven and save little.
        """
        running = self.lanes.running.nonzero()[0]
        far = self.lanes.stages[running] == FAR
        several = int(np.count_nonzero(far))
        self._scanned = several > 0 and (not self._scanned or 3 * several >= len(far))
        return running if self._scanned else running[~far]

    def _hop(self, running: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Choose, score and merge for lanes int64[n]: see `engine.kernels.steps.CompiledHops`."""
        worth = int(len(running) * self._lane_seconds / THREAD_SECONDS)
        threads = max(1, min(torch.get_num_threads(), len(running), worth))
        began = time.perf_counter()
        outcome = self._hops.hop(self.index, self.lanes, running, threads)
        seconds = (time.perf_counter() - began) * threads / len(running)
        self._lane_seconds += _SMOOTHING * (seconds - self._lane_seconds)
        return outcome

    # -- retirement ------------------------------------------------------------------------------------------------

    def _retire(self, done: np.ndarray, stop: Stop) -> list[tuple[int, Answer]]:
        """Free lanes int64[n]; each with its results, less the rows whose item changed or went since it was scored."""
        lanes = self.lanes
        results = self._hops.results(self.index, lanes, done)
        counted = lanes.evaluations[done].tolist(), lanes.steps[done].tolist()
        answers = [
            Answer(rows, scores, evaluations, steps, stop)
            for (rows, scores), evaluations, steps in zip(results, *counted, strict=True)
        ]
        lanes.release(done)
        return list(zip(done.tolist(), answers, strict=True))


def search(index: ItemIndex, queries: Sequence[Query], lanes: int = 64) -> list[Answer]:
    """Answer queries offline, in lanes of their own; answers in the order of the queries."""
    return answered(ParallelSearch(index, lanes), queries)


def answered(running: ParallelSearch, queries: Sequence[Query]) -> list[Answer]:
    """Answer queries in lanes that are free, refilling them as they become so; answers in the order of the queries."""
    for query in queries:
        running.check(query)
    answers: dict[int, Answer] = {}
    owner: dict[int, int] = {}
    waiting = iter(range(len(queries)))
    while len(answers) < len(queries):
        batch = [number for _, number in zip(range(running.free_lanes), waiting, strict=False)]
        owner.update(zip(running.admit([queries[number] for number in batch]), batch, strict=True))
        for lane, answer in running.step():
            answers[owner[lane]] = answer
    return [answers[number] for number in range(len(queries))]


def exhaustive(index: ItemIndex, queries: list[Query]) -> list[Answer]:
    """Score every live row for every query: what a search is measured against.

    The same tiles and the same order as the search, so that equal scores compare equal.
    """
    everything = torch.nonzero(index.live[: index.rows])[:, 0].cpu().numpy()
    running = ParallelSearch(index, lanes=1)
    running.lanes.fit(index)
    answers: list[Answer] = []
    for query in queries:
        unlimited = replace(query, params=SearchParams(k=query.params.k, beam=query.params.k))
        lane = np.zeros(1, dtype=np.int64)
        index.metric.encode_users([query], index.state, running.lanes.users, lane)
        running.lanes.admit(lane, [unlimited], [Given((everything,), rounds=0)])
        while running.free_lanes == 0:
            answers.extend(answer for _, answer in running.step())
    return answers
