"""Times of contestants that take turns, so that what slows the machine down for a while slows all of them alike."""

import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Self, TypeVar

Name = TypeVar("Name", bound=Hashable)

Run = Callable[[], float]
"""One run of a contestant; returns its seconds."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The seconds of a contestant's runs, in the order of the rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """How far the rounds lie apart: (slowest − fastest) / median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of two contestants, taken round by round: its median, lowest and highest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, above: Timing, below: Timing) -> Self:
        """Seconds of ``above`` over seconds of ``below``; ValueError when they did not run the same rounds."""
        ratios = [a / b for a, b in zip(above.seconds, below.seconds, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))


class Stopwatch:
    """Times a piece of work, repeated so often that one run lasts ``shortest`` seconds, and gives seconds per repeat.

    How often is learned from the run before; the first one, the warm-up, is a single repeat.
    """

    def __init__(self, work: Callable[[], object], shortest: float = 0.1) -> None:
        self._work = work
        self._shortest = shortest
        self._repeats = 1

    def __call__(self) -> float:
        """Seconds of one repeat."""
        start = time.perf_counter()
        for _ in range(self._repeats):
            self._work()
        seconds = (time.perf_counter() - start) / self._repeats
        self._repeats = max(1, math.ceil(self._shortest / seconds))
        return seconds


def alternate(contestants: Mapping[Name, Run], rounds: int = 5, warm_ups: int = 1) -> dict[Name, Timing]:
    """Let contestants take turns, A B C A B C …, after ``warm_ups`` rounds that do not count."""
    for _ in range(warm_ups):
        for run in contestants.values():
            run()
    seconds: dict[Name, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            seconds[name].append(run())
    return {name: Timing(tuple(values)) for name, values in seconds.items()}
