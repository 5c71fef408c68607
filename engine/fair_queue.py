"""Who waits, and whose turn it is."""

import heapq
from collections import OrderedDict
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Generic, TypeVar

from engine.costs import Cost
from engine.query import Query

Ticket = TypeVar("Ticket", bound=Hashable)


class Priority(Enum):
    """How much a query counts when lanes are short: the value is its share of the work against another's."""

    HIGH = 8
    NORMAL = 1


@dataclass(slots=True, eq=False)
class Flow(Generic[Ticket]):
    """Queries that wait in one line: of one priority and weight.

    finish: when those served so far would be done, in evaluations, if every flow made headway at its share.
    """

    priority: Priority
    weight: int
    line: "OrderedDict[Ticket, Waiting[Ticket]]" = field(default_factory=OrderedDict)
    finish: float = 0.0

    def head(self, now: float) -> "Waiting[Ticket]":
        """Who is next in line, where somebody is."""
        oldest = next(iter(self.line.values()))
        return next(reversed(self.line.values())) if oldest.stale(now) else oldest

    def finish_with(self, entry: "Waiting[Ticket]") -> float:
        """`finish` once this one is served too."""
        return self.finish + entry.cost.evaluations / self.priority.value


@dataclass(frozen=True, slots=True)
class Waiting(Generic[Ticket]):
    """A query that waits. since: seconds on the monotonic clock."""

    ticket: Ticket
    query: Query
    cost: Cost
    flow: Flow[Ticket]
    since: float

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
        self._flows: dict[tuple[Priority, int], Flow[Ticket]] = {}
        self._clock = 0.0
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._added = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, ticket: object) -> bool:
        return ticket in self._entries

    def add(self, ticket: Ticket, query: Query, cost: Cost, priority: Priority, now: float) -> Waiting[Ticket]:
        """Let a query wait from now on; its ticket is not among those that do."""
        flow = self._flow_of(priority, cost)
        if not flow.line:
            flow.finish = max(self._clock, flow.finish)
        entry = Waiting(ticket, query, cost, flow, now)
        self._entries[ticket] = flow.line[ticket] = entry
        self.waiting[priority] += cost.evaluations
        self._added += 1
        if query.deadline is not None:
            heapq.heappush(self._deadlines, (query.deadline, self._added, ticket))
        return entry

    def first(self, now: float, passed_over: Collection[Flow[Ticket]]) -> Waiting[Ticket] | None:
        """Whose turn it is, among the flows that are not passed over."""
        first, earliest = None, inf
        for flow in self._flows.values():
            if flow.line and flow not in passed_over:
                head = flow.head(now)
                finish = flow.finish_with(head)
                if finish < earliest:
                    first, earliest = head, finish
        return first

    def take(self, entry: Waiting[Ticket]) -> None:
        """It is served: its flow pays for it."""
        entry.flow.finish = entry.flow.finish_with(entry)
        self._clock = max(self._clock, entry.flow.finish)
        self.discard(entry.ticket)

    def discard(self, ticket: Ticket) -> None:
        """It waits no more, and was not served."""
        entry = self._entries.pop(ticket)
        del entry.flow.line[ticket]
        self.waiting[entry.flow.priority] -= entry.cost.evaluations

    def expire(self, now: float) -> list[Ticket]:
        """Discard those whose time is up."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            *_, ticket = heapq.heappop(self._deadlines)
            if ticket in self and self._entries[ticket].expired(now):
                self.discard(ticket)
                expired.append(ticket)
        return expired

    def _flow_of(self, priority: Priority, cost: Cost) -> Flow[Ticket]:
        """The flow of queries like this one: each weight stands for four times the work of the one below."""
        weight = cost.evaluations.bit_length() // 2
        if (flow := self._flows.get((priority, weight))) is None:
            flow = self._flows[priority, weight] = Flow(priority, weight)
        return flow
