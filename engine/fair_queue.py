"""Who waits, and whose turn it is."""

import heapq
from collections import OrderedDict
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from engine.costs import Cost
from engine.query import Query

Ticket = TypeVar("Ticket", bound=Hashable)


class Priority(Enum):
    """How much a query counts when lanes are short: the value is its share of the work against another's."""

    HIGH = 8
    NORMAL = 1


Flow = tuple[Priority, int]
"""Queries that wait in one line: of one priority and weight."""


@dataclass(frozen=True, slots=True)
class Waiting(Generic[Ticket]):
    """A query that waits. since: seconds on the monotonic clock."""

    ticket: Ticket
    query: Query
    cost: Cost
    priority: Priority
    since: float

    @property
    def weight(self) -> int:
        """Its work, about: each weight stands for four times the work of the one below."""
        return self.cost.evaluations.bit_length() // 2

    @property
    def flow(self) -> Flow:
        """The line that it waits in."""
        return self.priority, self.weight

    def expired(self, now: float) -> bool:
        """Its time is up."""
        return self.query.deadline is not None and now >= self.query.deadline

    def stale(self, now: float) -> bool:
        """Half of its time is gone."""
        deadline = self.query.deadline
        return deadline is not None and now - self.since > deadline - now


class FairQueue(Generic[Ticket]):
    """Shares the engine's work out among flows: self-clocked fair queueing (Golestani, INFOCOM 1994).

    While they have queries waiting, flows of one priority get equal shares of the *work*, so one huge query is worth
    many small ones; a flow of high priority gets eight times the share of a normal one. No flow starves.

    Within a flow the first come is served first, until half of its time is gone. Then the newest goes first: under
    overload, whoever has waited long would be answered too late, and so would everybody behind.

    waiting: the estimated work of all that wait, in evaluations, by priority.
    """

    def __init__(self) -> None:
        self.waiting = dict.fromkeys(Priority, 0)
        self._entries: dict[Ticket, Waiting[Ticket]] = {}
        self._lines: dict[Flow, OrderedDict[Ticket, Waiting[Ticket]]] = {}
        self._finish: dict[Flow, float] = {}
        self._clock = 0.0
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._added = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, ticket: object) -> bool:
        return ticket in self._entries

    def add(self, entry: Waiting[Ticket]) -> None:
        """Let a query wait; its ticket is not among those that do."""
        line = self._lines.setdefault(entry.flow, OrderedDict())
        if not line:
            self._finish[entry.flow] = max(self._clock, self._finish.get(entry.flow, 0.0))
        line[entry.ticket] = entry
        self._entries[entry.ticket] = entry
        self.waiting[entry.priority] += entry.cost.evaluations
        self._added += 1
        if entry.query.deadline is not None:
            heapq.heappush(self._deadlines, (entry.query.deadline, self._added, entry.ticket))

    def first(self, now: float, passed_over: Collection[Flow]) -> Waiting[Ticket] | None:
        """Whose turn it is, among the flows that are not passed over."""
        heads = [self._head(line, now) for flow, line in self._lines.items() if line and flow not in passed_over]
        return min(heads, key=self._finish_of, default=None)

    def take(self, entry: Waiting[Ticket]) -> None:
        """It is served: its flow pays for it."""
        self._finish[entry.flow] = self._finish_of(entry)
        self._clock = max(self._clock, self._finish[entry.flow])
        self.discard(entry.ticket)

    def discard(self, ticket: Ticket) -> None:
        """It waits no more, and was not served."""
        entry = self._entries.pop(ticket)
        del self._lines[entry.flow][ticket]
        self.waiting[entry.priority] -= entry.cost.evaluations

    def expire(self, now: float) -> list[Ticket]:
        """Discard those whose time is up."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            *_, ticket = heapq.heappop(self._deadlines)
            if ticket in self and self._entries[ticket].expired(now):
                self.discard(ticket)
                expired.append(ticket)
        return expired

    def _head(self, line: OrderedDict[Ticket, Waiting[Ticket]], now: float) -> Waiting[Ticket]:
        oldest = next(iter(line.values()))
        return next(reversed(line.values())) if oldest.stale(now) else oldest

    def _finish_of(self, entry: Waiting[Ticket]) -> float:
        """When it would be done, in evaluations, if every flow made headway at its share."""
        return self._finish[entry.flow] + entry.cost.evaluations / entry.priority.value
