"""Searches that take turns on one bench, with the floor of all arithmetic beside them in every round."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Self

from benchmarks import matrix_product
from benchmarks.search_bench import Bench, Method, Outcome
from benchmarks.search_figures import OURS, Measured
from benchmarks.timing import Name, Timing, alternate
from engine.query import SearchParams

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Lines = Mapping[str, Sequence["DataclassInstance"]]

LANES = (1, 8, 32, 128)
_FLOOR = -1
"""Its number among the contestants of a round."""


@dataclass(frozen=True)
class Contestant:
    """A method at one setting, which answers a bench's first ``queries`` in a run. size, params: see `Measured`."""

    bench: Bench
    method: str
    setting: str
    run: Method
    queries: int
    size: int = 0
    params: SearchParams | None = None

    @classmethod
    def ours(cls, bench: Bench, params: SearchParams, lanes: int = LANES[-1]) -> Self:
        """The engine at one setting."""
        run = partial(bench.ours, [replace(query, params=params) for query in bench.queries], lanes)
        return cls(bench, OURS, described(params), run, len(bench.queries), params=params)


@dataclass(frozen=True)
class FloorRow:
    """The best library of one round."""

    library: str
    shape: str
    multiply_adds_per_second: float


@dataclass
class Floor:
    """The best matrix-product rate of any library, round by round."""

    lines: list[FloorRow] = field(default_factory=list)

    def measure(self) -> float:
        """Seconds of one multiply-add, now."""
        best = matrix_product.measure(rounds=3)[0]
        self.lines.append(FloorRow(best.library, best.shape, best.multiply_adds_per_second))
        return 1 / best.multiply_adds_per_second

    @property
    def seconds(self) -> Timing:
        """Of one multiply-add, in each round."""
        return Timing(tuple(1 / line.multiply_adds_per_second for line in self.lines))


@dataclass(frozen=True)
class LaneRow:
    """The same search with so many lanes."""

    lanes: int
    recall_at_50: float
    queries_per_second: float


def described(params: SearchParams) -> str:
    """A setting in words."""
    return f"{params.rounds} rounds, {params.clusters} clusters, {params.pairs} pairs, width {params.width}"


def compete(contestants: Sequence[Contestant], rounds: int) -> tuple[list[Measured], Floor]:
    """What everybody finds and takes, counted once, which is the warm-up too, and the times of so many rounds."""
    outcomes = [one.bench.outcome(one.run) for one in contestants]
    floor = Floor()
    runs = {number: timed(one.run, one.queries) for number, one in enumerate(contestants)}
    timings = alternate({_FLOOR: floor.measure, **runs}, rounds, warm_ups=0)
    results = [
        Measured(
            one.method,
            one.setting,
            recall=outcome.recall(one.bench.exact),
            catalogue_share=outcome.evaluations / one.bench.index.rows,
            work_share=outcome.multiply_adds / one.bench.everything(one.queries),
            multiply_adds=outcome.multiply_adds,
            choosing=outcome.choosing,
            seconds=timings[number],
            size=one.size,
            params=one.params,
        )
        for number, (one, outcome) in enumerate(zip(contestants, outcomes, strict=True))
    ]
    return results, floor


def lane_rows(bench: Bench, params: SearchParams, rounds: int) -> list[LaneRow]:
    """One setting with fewer lanes and more."""
    found = by_turns(bench, {lanes: Contestant.ours(bench, params, lanes).run for lanes in LANES}, rounds)
    return [
        LaneRow(lanes, outcome.recall(bench.exact), 1 / timing.median) for lanes, (outcome, timing) in found.items()
    ]


def by_turns(bench: Bench, methods: Mapping[Name, Method], rounds: int) -> dict[Name, tuple[Outcome, Timing]]:
    """What methods find for the bench's queries, counted once, which is the warm-up too, and their times by turns."""
    outcomes = {name: bench.outcome(method) for name, method in methods.items()}
    runs = {name: timed(method, len(bench.queries)) for name, method in methods.items()}
    timings = alternate(runs, rounds, warm_ups=0)
    return {name: (outcomes[name], timings[name]) for name in methods}


def timed(method: Callable[[], object], queries: int) -> Callable[[], float]:
    """A run that gives seconds per query."""

    def run() -> float:
        start = time.perf_counter()
        method()
        return (time.perf_counter() - start) / queries

    return run
