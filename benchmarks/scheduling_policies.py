"""The ways to batch queries that hopstream's scheduler is compared with, over the same engine step."""

import time
from collections import deque
from typing import Protocol

from engine.query import Answer, Query
from engine.scheduler import Scheduler, Search


class Policy(Protocol):
    """Decides which queries run together; a query is known by its number."""

    def submit(self, number: int, query: Query) -> None:
        """Take a query."""

    def step(self) -> list[tuple[int, Answer]]:
        """Run one step of what should run now; returns the queries that are answered."""

    @property
    def wakes_at(self) -> float | None:
        """When there is something to do, on the monotonic clock: now, later, or not before the next query (None)."""


class Continuous:
    """hopstream's own: queries enter and leave between any two steps."""

    def __init__(self, search: Search) -> None:
        self._scheduler: Scheduler[int] = Scheduler(search, max_waiting=2**62)

    def submit(self, number: int, query: Query) -> None:
        """Queue it."""
        self._scheduler.submit(number, query)

    def step(self) -> list[tuple[int, Answer]]:
        """Schedule, run, retire."""
        return self._scheduler.step()

    @property
    def wakes_at(self) -> float | None:
        """Whenever there is a query."""
        return None if self._scheduler.idle else 0.0


class FixedBatches:
    """Batches of a fixed size, as of a batched call: it returns when every query is answered, and then the next starts.

    size: queries of a batch; 1 is one at a time. patience: seconds after which a batch that is not full starts all the
    same, counted from its first query; None to wait until it is full.
    """

    def __init__(self, search: Search, size: int, patience: float | None) -> None:
        self._search, self._size, self._patience = search, size, patience
        self._waiting: deque[tuple[int, Query, float]] = deque()
        self._running: dict[int, int] = {}
        self._answered: list[tuple[int, Answer]] = []

    def submit(self, number: int, query: Query) -> None:
        """Let it wait for a batch."""
        self._search.check(query)
        self._waiting.append((number, query, time.monotonic()))

    def step(self) -> list[tuple[int, Answer]]:
        """Start the next batch if it is time to, and make one step."""
        if not self._running and (wakes_at := self.wakes_at) is not None and time.monotonic() >= wakes_at:
            self._start()
        self._answered += [(self._running.pop(lane), answer) for lane, answer in self._search.step()]
        if self._running:
            return []
        answered, self._answered = self._answered, []
        return answered

    @property
    def wakes_at(self) -> float | None:
        """While a batch runs or is full, now; otherwise when the first query has waited enough."""
        if self._running or len(self._waiting) >= self._size:
            return 0.0
        if self._patience is None or not self._waiting:
            return None
        return self._waiting[0][2] + self._patience

    def _start(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
        lanes = self._search.admit([query for _, query, _ in batch])
        self._running = {lane: number for lane, (number, _, _) in zip(lanes, batch, strict=True)}
