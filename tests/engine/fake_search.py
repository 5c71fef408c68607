"""A search that computes nothing and moves a clock of its own: what a scheduler does with it can be foreseen."""

from dataclasses import dataclass, field

import numpy as np

from engine.query import Answer, Query, Stop

PAIRS = 100
"""Metric evaluations that a running query of width 1 makes in a step."""


@dataclass
class FakeSearch:
    """Every query spends its whole budget; a step takes ``overhead`` and ``seconds_a_pair`` for each pair of all."""

    lanes: int
    overhead: float = 1.0
    seconds_a_pair: float = 0.0
    now: float = 0.0
    running: dict[int, tuple[Query, int]] = field(default_factory=dict)

    def clock(self) -> float:
        """The time."""
        return self.now

    @property
    def free_lanes(self) -> int:
        """Lanes without a query."""
        return self.lanes - len(self.running)

    def check(self, query: Query) -> None:
        """Anything goes."""

    def admit(self, queries: list[Query]) -> list[int]:
        """Into the lowest free lanes."""
        free = [lane for lane in range(self.lanes) if lane not in self.running][: len(queries)]
        self.running.update((lane, (query, 0)) for lane, query in zip(free, queries, strict=True))
        return free

    def cancel(self, lane: int) -> None:
        """Free a lane."""
        del self.running[lane]

    def step(self) -> list[tuple[int, Answer]]:
        """Advance every query whose time is not up, and the clock with them."""
        began, done, pairs = self.now, [], 0
        for lane, (query, steps) in list(self.running.items()):
            if query.deadline is not None and began >= query.deadline:
                done.append((lane, _answer(query, steps, Stop.DEADLINE)))
                continue
            self.running[lane] = query, steps + 1
            pairs += PAIRS * query.params.width
            if (steps + 1) * PAIRS * query.params.width >= query.params.budget:
                done.append((lane, _answer(query, steps + 1, Stop.BUDGET)))
        if pairs:
            self.now += self.overhead + pairs * self.seconds_a_pair
        for lane, _ in done:
            del self.running[lane]
        return done


def _answer(query: Query, steps: int, stop: Stop) -> Answer:
    evaluations = min(query.params.budget, steps * PAIRS * query.params.width)
    return Answer(np.empty(0, np.int64), np.empty(0, np.float32), evaluations, steps, stop)
