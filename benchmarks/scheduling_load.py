"""An open loop: queries arrive by a schedule drawn beforehand, whether or not the engine keeps up."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from benchmarks.scheduling_policies import Policy
from engine.query import Answer, Query, Stop
from engine.scheduler import Search


@dataclass(frozen=True, slots=True)
class Load:
    """Queries and the seconds at which each arrives, counted from the start of the run, rising."""

    queries: Sequence[Query]
    arrivals: np.ndarray

    @classmethod
    def poisson(cls, queries: Sequence[Query], rate: float, seed: int) -> "Load":
        """Arrivals at random, ``rate`` a second on average."""
        gaps = np.random.default_rng(seed).exponential(1 / rate, len(queries))
        return cls(queries, np.cumsum(gaps))

    @classmethod
    def at_once(cls, queries: Sequence[Query]) -> "Load":
        """All there from the start."""
        return cls(queries, np.zeros(len(queries)))


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a load. latencies: float64[queries], seconds from the *scheduled* arrival to the answer.

    complete: bool[queries], which were not cut short by their deadline. seconds: from the start to the last answer.
    computed_late: lane-steps that were begun after their query's time was up.
    """

    latencies: np.ndarray
    complete: np.ndarray
    seconds: float
    computed_late: int

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """Of the latencies, in seconds."""
        return float(np.percentile(self.latencies, percent))

    def row(self, policy: str, load: float, offered: float) -> "Row":
        """What the table shows of it."""
        return Row(policy, load, offered, self.rate, self.percentile(50) * 1000, self.percentile(99) * 1000)

    def in_time(self, timeout: float) -> np.ndarray:
        """bool[queries]: answered in full, and before the time was up."""
        return self.complete & (self.latencies <= timeout)


@dataclass(frozen=True, slots=True)
class Row:
    """One policy under one load: rates in queries/s, latencies from the scheduled arrival in ms. load: in peaks."""

    policy: str
    load: float
    offered: float
    answered: float
    p50_ms: float
    p99_ms: float


class WatchedSearch:
    """A search that counts the lane-steps which it begins after their query's time was up."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._running: dict[int, tuple[float, int]] = {}
        self.computed_late = 0

    @property
    def free_lanes(self) -> int:
        """As of the search itself."""
        return self._search.free_lanes

    def check(self, query: Query) -> None:
        """As of the search itself."""
        self._search.check(query)

    def admit(self, queries: list[Query]) -> list[int]:
        """As of the search itself."""
        lanes = self._search.admit(queries)
        deadlines = [inf if query.deadline is None else query.deadline for query in queries]
        self._running.update((lane, (deadline, 0)) for lane, deadline in zip(lanes, deadlines, strict=True))
        return lanes

    def cancel(self, lane: int) -> None:
        """As of the search itself."""
        self._search.cancel(lane)
        del self._running[lane]

    def step(self) -> list[tuple[int, Answer]]:
        """One step. Of a lane whose time is up it makes none if the answer counts the steps before only."""
        now = time.monotonic()
        finished = self._search.step()
        unhurt = {lane for lane, answer in finished if answer.steps <= self._running[lane][1]}
        self.computed_late += sum(
            now >= deadline for lane, (deadline, _) in self._running.items() if lane not in unhurt
        )
        for lane, _ in finished:
            del self._running[lane]
        self._running = {lane: (deadline, steps + 1) for lane, (deadline, steps) in self._running.items()}
        return finished


def run(policy: Policy, search: WatchedSearch, load: Load, timeout: float | None = None) -> Run:
    """Offer a load to a policy, which runs on this search; every query has ``timeout`` seconds from its arrival.

    For a policy that waits for batches to fill, the queries must fill the last one.
    """
    count = len(load.queries)
    done, complete = np.zeros(count), np.zeros(count, dtype=bool)
    already_late = search.computed_late
    start = time.monotonic()
    arrivals = start + load.arrivals
    submitted = answered = 0
    while answered < count:
        now = time.monotonic()
        while submitted < count and arrivals[submitted] <= now:
            deadline = None if timeout is None else float(arrivals[submitted]) + timeout
            policy.submit(submitted, replace(load.queries[submitted], deadline=deadline))
            submitted += 1
        next_arrival = float(arrivals[submitted]) if submitted < count else None
        wakes_at = min((at for at in (policy.wakes_at, next_arrival) if at is not None), default=None)
        if wakes_at is None:
            raise RuntimeError(f"{answered} of {count} queries are answered, and nobody works on the rest")
        if wakes_at > now:
            time.sleep(max(0.0, wakes_at - time.monotonic()))
            continue
        for number, answer in policy.step():
            done[number] = time.monotonic()
            complete[number] = answer.stop is not Stop.DEADLINE
            answered += 1
    return Run(done - arrivals, complete, float(done.max() - start), search.computed_late - already_late)
