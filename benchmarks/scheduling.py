"""Continuous batching beside what is usual, over the same engine step: `python -m benchmarks.scheduling --json OUT`.

Queries arrive at random, half of them with a small budget, half with one thirty times as large; the figures of other
mixtures stand beside, under names of their own. One at a time, fixed batches that wait until they are full, fixed
batches with a time-out, and hopstream's scheduler answer them in the same lanes. Then everybody is in a hurry, and
three times as many come as can be served.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import THREADS, Machine, bound_threads
from benchmarks.report import Figures, Report
from benchmarks.scheduling_budgets import Mixture
from benchmarks.scheduling_drawing import draw
from benchmarks.scheduling_load import Load, Row, Run, WatchedSearch, run
from benchmarks.scheduling_policies import Continuous, FixedBatches, Policy
from engine import search
from engine.graph import GraphParams, plan_insert
from engine.index import ItemIndex
from engine.metric import InnerProduct
from engine.query import Query, SearchParams
from engine.search import ParallelSearch
from engine.warm_up import warm_up

ONE, FULL, TIMED, OURS = "one at a time", "full batches", "batches with a time-out", "hopstream"
PATIENCES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Time-outs of a batch that are tried, in unloaded median latencies."""

LOADS = (0.1, 0.2, 0.4, 0.6, 0.8, 0.9)
"""Offered loads of the drawing, in peaks of the time-out policy; the policies are compared at COMPARED."""

COMPARED, OVERLOAD, TIMEOUT = 0.8, 3.0, 5.0
"""OVERLOAD: times our peak that are offered. TIMEOUT: the time a query has there, in unloaded median latencies."""

# With `search.QUIET_ROUNDS` out of reach: a search ends when its budget is spent, not when it has converged.
_ROUNDS = 1_000

_BESIDE = ("peak_ratio", "p99_ratio", "throughput_ratio", "goodput_share_at_3x", "computed_late")


@dataclass(frozen=True)
class Bench:
    """The policies over one engine, in the same lanes: every run leaves them empty.

    seconds: about how long a run lasts. rounds: how many runs of each policy there are; these take turns. mixture: of
    two budgets in equal parts, unless said otherwise: "1 : 30" names two, and no reading is harder on us.
    """

    engine: ParallelSearch
    seconds: float
    rounds: int
    mixture: Mixture = Mixture.HALVES

    def policy(self, name: str, watched: WatchedSearch, patience: float) -> Policy:
        """A policy by its name. patience: seconds, of the batches with a time-out."""
        if name == OURS:
            return Continuous(watched)
        return FixedBatches(watched, 1 if name == ONE else self.engine.lanes.count, patience if name == TIMED else None)

    def run(self, name: str, load: Load, patience: float = 0.0, timeout: float | None = None) -> Run:
        """One policy under one load."""
        watched = WatchedSearch(self.engine)
        return run(self.policy(name, watched, patience), watched, load, timeout)

    def queries(self, rate: float, seed: int) -> list[Query]:
        """Queries for one run at a rate, in whole batches."""
        rng = np.random.default_rng(seed)
        lanes, dimensions = self.engine.lanes.count, self.engine.index.metric.dimensions
        count = lanes * max(4, round(rate * self.seconds / lanes))
        budgets = self.mixture.budgets(count, rng)
        vectors = rng.normal(size=(count, dimensions)).astype(np.float32)
        params = [SearchParams(clusters=4, rounds=_ROUNDS, budget=int(budget)) for budget in budgets]
        return [Query(each, vector=vector) for each, vector in zip(params, vectors, strict=True)]

    def offered(self, rate: float, seed: int) -> Load:
        """Arrivals at a rate for one run."""
        return Load.poisson(self.queries(rate, seed), rate, seed)

    def unloaded_median(self) -> float:
        """The median latency, in seconds, of queries that find the engine idle."""
        latencies = [self.run(OURS, Load.at_once([query])).seconds for query in self.queries(1, seed=0)]
        return statistics.median(latencies)

    def peaks(self) -> dict[str, float]:
        """What every policy answers in a second when all queries are there from the start."""
        rates: dict[str, list[float]] = {ONE: [], TIMED: [], OURS: []}
        guess = self.run(TIMED, Load.at_once(self.queries(1, seed=0))).rate
        for seed in range(self.rounds):
            for name, found in rates.items():
                found.append(self.run(name, Load.at_once(self.queries(guess / (4 if name == ONE else 1), seed))).rate)
        return {name: statistics.median(found) for name, found in rates.items()}

    def best_patience(self, rate: float, unloaded: float) -> float:
        """The time-out of a batch, in seconds, with which the 99th percentile at a rate is lowest."""
        load = self.offered(rate, seed=0)
        tails = {wait * unloaded: self.run(TIMED, load, wait * unloaded).percentile(99) for wait in PATIENCES}
        return min(tails, key=tails.__getitem__)

    def sweep(self, peaks: Mapping[str, float], patience: float) -> list[Row]:
        """Latency against offered load, for every policy as far as it keeps up."""
        rows = []
        for share in LOADS:
            rate = share * peaks[TIMED]
            load = self.offered(rate, seed=1)
            able = [name for name in (ONE, FULL, TIMED, OURS) if rate < peaks.get(name, peaks[TIMED])]
            rows += [self.run(name, load, patience).row(name, share, rate) for name in able]
        return rows

    def compared(self, rate: float, patience: float) -> dict[str, list[Run]]:
        """Runs of the time-out policy and of ours at a rate, in turns."""
        runs: dict[str, list[Run]] = {TIMED: [], OURS: []}
        for seed in range(self.rounds):
            load = self.offered(rate, seed)
            for name, found in runs.items():
                found.append(self.run(name, load, patience))
        return runs

    def hurried(self, peak: float, timeout: float) -> dict[str, float]:
        """Three times our peak, everybody with the same little time."""
        goodput, work, late = [], [], 0
        for seed in range(self.rounds):
            load = self.offered(OVERLOAD * peak, seed)
            result = self.run(OURS, load, timeout=timeout)
            in_time = result.in_time(timeout)
            budgets = np.array([query.params.budget for query in load.queries])
            goodput.append(in_time.sum() / result.seconds / peak)
            work.append(budgets[in_time].sum() / result.seconds / (peak * budgets.mean()))
            late += result.computed_late
        return {
            "goodput_share_at_3x": statistics.median(goodput),
            "goodput_work_share_at_3x": statistics.median(work),
            "computed_late": late,
        }


@dataclass(frozen=True)
class Verdict:
    """What a mixture showed. patience: seconds, the best time-out of a batch."""

    peaks: Mapping[str, float]
    patience: float
    figures: Figures


def judged(bench: Bench) -> Verdict:
    """Ours beside the batches with a time-out, under the mixture of the bench."""
    unloaded = bench.unloaded_median()
    peaks = bench.peaks()
    rate = COMPARED * peaks[TIMED]
    patience = bench.best_patience(rate, unloaded)
    runs = bench.compared(rate, patience)
    tails = [a.percentile(99) / b.percentile(99) for a, b in zip(runs[OURS], runs[TIMED], strict=True)]
    rates = [a.rate / b.rate for a, b in zip(runs[OURS], runs[TIMED], strict=True)]
    figures: dict[str, float | None] = {
        "unloaded_median_ms": unloaded * 1000,
        "patience_ms": patience * 1000,
        **{f"peak of {name}": peak for name, peak in peaks.items()},
        "peak_ratio": peaks[OURS] / peaks[TIMED],
        "p99_ratio": statistics.median(tails),
        "throughput_ratio": statistics.median(rates),
        **bench.hurried(peaks[OURS], TIMEOUT * unloaded),
    }
    return Verdict(peaks, patience, figures)


def measure(bench: Bench) -> tuple[list[Row], Figures]:
    """All rows and figures; those of the other mixtures have the mixture in their names."""
    verdict = judged(bench)
    figures = dict(verdict.figures)
    for mixture in Mixture:
        if mixture is not bench.mixture:
            beside = judged(replace(bench, mixture=mixture)).figures
            figures |= {name + mixture.suffix: beside[name] for name in _BESIDE}
    return bench.sweep(verdict.peaks, verdict.patience), figures


def synthetic_index(items: int, dimensions: int = 64) -> ItemIndex:
    """Normally distributed items under the inner product."""
    vectors = np.random.default_rng(0).normal(size=(items, dimensions)).astype(np.float32)
    index, rows = ItemIndex(InnerProduct(dimensions), degree=16), np.arange(items)
    change = plan_insert(index, rows, torch.from_numpy(vectors), GraphParams(candidates=32))
    writes: dict[str, np.ndarray] = {
        "vectors": vectors,
        "versions": np.ones((items, 1), np.int64),
        "neighbors": change.neighbors,
    }
    index.apply({name: [(rows, values)] for name, values in writes.items()}, items)
    return index


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduling", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the report to this file, and the drawing beside it")
    parser.add_argument("--items", type=int, default=40_000)
    parser.add_argument("--lanes", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0, help="about how long one run lasts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mixture", type=Mixture, choices=list(Mixture), default=Mixture.HALVES)
    options = parser.parse_args(arguments)
    bound_threads()
    search.QUIET_ROUNDS = _ROUNDS
    index = synthetic_index(options.items)
    warm_up(index.metric)
    bench = Bench(ParallelSearch(index, options.lanes), options.seconds, options.rounds, options.mixture)
    rows, figures = measure(bench)
    report = Report("Scheduling: latency against offered load", Machine.here(THREADS), rows, figures)
    report.print()
    if options.json is not None:
        report.write_json(options.json)
        draw(rows, options.json.with_suffix(""), f"Budgets mixed 1 : 30 ({bench.mixture}), Poisson arrivals")


if __name__ == "__main__":
    main()
