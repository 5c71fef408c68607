"""Who runs: queries wait here until a lane is free, and no longer."""

import time
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

import numpy as np

from engine.errors import QueueFull
from engine.query import Answer, Query, Stop
from engine.search import ParallelSearch

Ticket = TypeVar("Ticket", bound=Hashable)

UNANSWERED = Answer(np.empty(0, np.int64), np.empty(0, np.float32), evaluations=0, steps=0, stop=Stop.DEADLINE)
"""The answer to a query whose time was up before a lane was free."""

_FIRST_ESTIMATE = 1_000
_SMOOTHING = 0.05


class Scheduler(Generic[Ticket]):
    """Admits queries into lanes as these become free; never waits for a batch to fill or to finish.

    The queue is bounded by estimated work, not by a count: a hundred narrow queries may cost less than one wide one.

    max_waiting: metric evaluations, as estimated, that may wait for a lane.
    """

    def __init__(self, search: ParallelSearch, max_waiting: int = 10_000_000) -> None:
        self._search = search
        self._max_waiting = max_waiting
        self._queue: deque[tuple[Ticket, Query, int]] = deque()
        self._running: dict[int, Ticket] = {}
        self._estimate = float(_FIRST_ESTIMATE)
        self.waiting_evaluations = 0

    def submit(self, ticket: Ticket, query: Query) -> None:
        """Queue a query; its answer leaves `step` with the ticket.

        Raises `QueueFull` when too much work waits, `InvalidQuery` for a query that does not fit the index.
        """
        self._search.check(query)
        work = min(query.params.budget, int(self._estimate))
        if self.waiting_evaluations + work > self._max_waiting:
            raise QueueFull(self.waiting_evaluations, self._max_waiting)
        self._queue.append((ticket, query, work))
        self.waiting_evaluations += work

    def step(self) -> list[tuple[Ticket, Answer]]:
        """Schedule, run, retire. A query whose time is up before a lane is free is answered without computing."""
        expired = self._admit()
        finished = self._search.step()
        return expired + [self._retired(lane, answer) for lane, answer in finished]

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return not self._running and not self._queue

    @property
    def load(self) -> tuple[int, int]:
        """Queries that run and that wait."""
        return len(self._running), len(self._queue)

    def _admit(self) -> list[tuple[Ticket, Answer]]:
        batch: list[tuple[Ticket, Query]] = []
        expired: list[tuple[Ticket, Answer]] = []
        free, now = self._search.free_lanes, time.monotonic()
        while self._queue and len(batch) < free:
            ticket, query, work = self._queue.popleft()
            self.waiting_evaluations -= work
            if query.deadline is not None and now >= query.deadline:
                expired.append((ticket, UNANSWERED))
            else:
                batch.append((ticket, query))
        lanes = self._search.admit([query for _, query in batch])
        self._running.update((lane, ticket) for lane, (ticket, _) in zip(lanes, batch, strict=True))
        return expired

    def _retired(self, lane: int, answer: Answer) -> tuple[Ticket, Answer]:
        self._estimate += _SMOOTHING * (answer.evaluations - self._estimate)
        return self._running.pop(lane), answer
