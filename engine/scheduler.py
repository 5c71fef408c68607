"""Who runs: queries wait here until a lane is free, and no longer."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Generic, Protocol

import numpy as np

from engine.costs import Cost, QueryCosts, StepTimes
from engine.errors import InvalidQuery, QueueFull
from engine.fair_queue import FairQueue, Flow, Priority, Ticket, Waiting
from engine.query import Answer, Query, Stop

UNANSWERED = Answer(np.empty(0, np.int64), np.empty(0, np.float32), evaluations=0, steps=0, stop=Stop.DEADLINE)
"""The answer to a query whose time was up before a lane was free."""

_RESERVED_SHARE = 1 / 8


class Search(Protocol):
    """What the scheduler needs of a `ParallelSearch`."""

    @property
    def free_lanes(self) -> int:
        """How many queries can be admitted."""

    def check(self, query: Query) -> None:
        """Raise `InvalidQuery` for a query that cannot be run."""

    def admit(self, queries: list[Query]) -> list[int]:
        """Put queries, each checked before, into free lanes; returns the lane of each."""

    def step(self) -> list[tuple[int, Answer]]:
        """One hop for every lane whose time is not up; the lanes that are done, and free again, with their answers."""

    def cancel(self, lane: int) -> None:
        """Free a lane."""


@dataclass(slots=True)
class _Running(Generic[Ticket]):
    """A query in a lane. ends_at: how many steps will have been made when it is done, as expected."""

    ticket: Ticket
    query: Query
    cost: Cost
    ends_at: float


@dataclass(frozen=True, slots=True)
class _Step:
    """A step that was made: when it began, how long it took, and whether there was work for another behind it."""

    pairs: float = 0.0
    began: float = 0.0
    seconds: float = 0.0
    another: bool = False


class Scheduler(Generic[Ticket]):
    """Admits queries into lanes as these become free; never waits for a batch to fill or to finish.

    The queue is bounded by estimated work, not by a count: a hundred narrow queries may cost less than one wide one.
    Whose turn it is, `FairQueue` says. Into a free lane goes only who can still be ready in time there, and who does
    not slow the step down so much that others are late: work that ends too late is the first to be left out. The last
    lanes, one in eight, are for the lightest queries, so that these never wait for heavy ones to end.

    max_waiting: metric evaluations, as estimated, of each priority, that may wait for a lane. clock: seconds, as in
    `Query.deadline`.
    """

    def __init__(
        self, search: Search, max_waiting: int = 10_000_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._search, self._max_waiting, self._clock = search, max_waiting, clock
        self._reserved = int(search.free_lanes * _RESERVED_SHARE)
        self._queue: FairQueue[Ticket] = FairQueue()
        self._running: dict[int, _Running[Ticket]] = {}
        self._lanes: dict[Ticket, int] = {}
        self._costs, self._step_times = QueryCosts(), StepTimes()
        self._lightest = inf
        self._steps = 0
        self._last = _Step()

    def submit(self, ticket: Ticket, query: Query, priority: Priority = Priority.NORMAL) -> None:
        """Queue a query; its answer leaves `step` with the ticket.

        Raises `QueueFull` when too much work waits, `InvalidQuery` for a query that does not fit the index.
        """
        if ticket in self._queue or ticket in self._lanes:
            raise InvalidQuery("ticket", f"{ticket} is in work already: submit it again when it is answered")
        self._search.check(query)
        cost, waiting = self._costs.expected(query), self._queue.waiting[priority]
        if waiting + cost.evaluations > self._max_waiting:
            raise QueueFull(waiting, self._max_waiting)
        entry = self._queue.add(ticket, query, cost, priority, self._clock())
        self._lightest = min(self._lightest, entry.flow.weight)

    def cancel(self, ticket: Ticket) -> bool:
        """Forget a query, waiting or running: it gets no answer. False if it is not in work."""
        if ticket in self._queue:
            self._queue.discard(ticket)
            return True
        lane = self._lanes.pop(ticket, None)
        if lane is None:
            return False
        self._search.cancel(lane)
        del self._running[lane]
        return True

    def step(self) -> list[tuple[Ticket, Answer]]:
        """Schedule, run, retire. A query whose time is up before a lane is free is answered without computing."""
        began = self._clock()
        self._learn_step(began)
        answers = [(ticket, UNANSWERED) for ticket in self._queue.expire(began)]
        pairs = self._admit(began)
        answers += [self._retired(lane, answer) for lane, answer in self._search.step()]
        self._steps += 1
        self._last = _Step(pairs, began, self._clock() - began, another=not self.idle)
        return answers

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return not self._running and not self._queue

    @property
    def load(self) -> tuple[int, int]:
        """Queries that run and that wait."""
        return len(self._running), len(self._queue)

    @property
    def waiting(self) -> Mapping[Priority, int]:
        """Metric evaluations, as estimated, of the queries of each priority that wait."""
        return self._queue.waiting

    @property
    def waiting_evaluations(self) -> int:
        """Those of all together."""
        return sum(self._queue.waiting.values())

    # -- policy ----------------------------------------------------------------------------------------------------

    def _admit(self, now: float) -> float:
        """Fill free lanes with those whose turn it is; returns the pairs that the step is expected to score."""
        batch: list[Waiting[Ticket]] = []
        passed_over: set[Flow[Ticket]] = set()
        free, (pairs, longest) = self._search.free_lanes, self._running_step(now)
        while len(batch) < free and (entry := self._queue.first(now, passed_over)) is not None:
            affordable = _seconds_a_step(entry.query, entry.cost.steps, now)
            seconds = self._step_times.expected(pairs + entry.cost.pairs)
            alone = pairs == 0  # there will be no better moment, and an estimate that is wrong gets corrected
            if not self._has_lane(entry, free - len(batch)) or (seconds > affordable and not alone):
                passed_over.add(entry.flow)
                continue
            if seconds > longest:
                break
            self._queue.take(entry)
            batch.append(entry)
            pairs, longest = pairs + entry.cost.pairs, min(longest, affordable)
        lanes = self._search.admit([entry.query for entry in batch]) if batch else []
        for lane, entry in zip(lanes, batch, strict=True):
            self._running[lane] = _Running(entry.ticket, entry.query, entry.cost, self._steps + entry.cost.steps)
            self._lanes[entry.ticket] = lane
        return pairs

    def _running_step(self, now: float) -> tuple[float, float]:
        """The pairs that the running queries will have in a step, and the seconds it may take for all to be in time.

        Those whose time is up make none. Whom even a step without newcomers makes late is not waited for.
        """
        pairs, longest = 0.0, inf
        for each in self._running.values():
            if each.query.deadline is None:
                pairs += each.cost.pairs
                continue
            pace = _seconds_a_step(each.query, max(1.0, each.ends_at - self._steps), now)
            if pace > 0:
                pairs += each.cost.pairs
            if pace < longest and pace > self._step_times.expected(each.cost.pairs):
                longest = pace
        return pairs, longest

    def _learn_step(self, now: float) -> None:
        """Take in how long it was from the last step to this one.

        Queries wait for what is done between two steps as well, such as taking in those that come: under overload that
        is half of the time. It counts as much as the step itself at most, for the index is not changed at every step.
        """
        last = self._last
        if last.pairs:
            seconds = min(now - last.began, 2 * last.seconds) if last.another else last.seconds
            self._step_times.learn(last.pairs, seconds)

    def _has_lane(self, entry: Waiting[Ticket], free: int) -> bool:
        """Whether one of the free lanes is for queries as heavy as this one."""
        return free > self._reserved or entry.flow.weight <= self._lightest

    def _retired(self, lane: int, answer: Answer) -> tuple[Ticket, Answer]:
        running = self._running.pop(lane)
        del self._lanes[running.ticket]
        self._costs.learn(running.query, answer)
        return running.ticket, answer


def _seconds_a_step(query: Query, steps: float, now: float) -> float:
    """How long each of its steps may take if so many are to be made in time."""
    return inf if query.deadline is None else (query.deadline - now) / steps
