import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scheduling import OURS, Bench, measure, synthetic_index
from benchmarks.scheduling_budgets import Mixture
from benchmarks.scheduling_drawing import draw
from benchmarks.scheduling_load import Load, WatchedSearch, run
from benchmarks.scheduling_policies import Continuous, FixedBatches
from engine.query import Query, SearchParams
from engine.search import ParallelSearch
from tests.engine.fake_search import FakeSearch


def query(steps: int = 1, deadline: float | None = None) -> Query:
    """A query that the fake search answers after so many steps."""
    return Query(SearchParams(budget=100 * steps, width=1), deadline=deadline)


@pytest.mark.parametrize(
    ("mixture", "large", "work_of_large"),
    [(Mixture.HALVES, 1 / 2, 30 / 31), (Mixture.ONE_IN_31, 1 / 31, 1 / 2), (Mixture.LOG_UNIFORM, 0.0, 0.0)],
)
def test_budgets_are_mixed_one_to_thirty(mixture: Mixture, large: float, work_of_large: float) -> None:
    """Two budgets in the shares that are meant, or everything between; the same seed draws the same."""
    budgets = mixture.budgets(3_100, np.random.default_rng(0))
    assert np.array_equal(budgets, mixture.budgets(3_100, np.random.default_rng(0)))
    largest = budgets == 1_500
    assert (budgets.min(), budgets.max()) == (50, pytest.approx(1_500, rel=0.01))
    assert largest.mean() == pytest.approx(large, abs=0.001)
    assert budgets[largest].sum() / budgets.sum() == pytest.approx(work_of_large, abs=0.001)


def test_a_fixed_batch_waits_until_it_is_full_and_returns_at_once() -> None:
    """Two of three queries do not start; with the third they run, and leave together when the longest is done."""
    policy = FixedBatches(FakeSearch(lanes=3), size=3, patience=None)
    for number, steps in enumerate((1, 2)):
        policy.submit(number, query(steps))
    assert policy.wakes_at is None
    policy.submit(2, query(3))
    policy.submit(3, query())
    assert [len(policy.step()) for _ in range(4)] == [0, 0, 3, 0]


def test_a_batch_with_a_time_out_starts_when_its_first_query_has_waited() -> None:
    """Not before, and with those that are there."""
    patient = FixedBatches(FakeSearch(lanes=3), size=3, patience=1000.0)
    patient.submit(0, query())
    assert patient.step() == []
    assert time.monotonic() + 900 < (patient.wakes_at or 0) <= time.monotonic() + 1000
    hasty = FixedBatches(FakeSearch(lanes=3), size=3, patience=0.0)
    hasty.submit(0, query())
    assert [number for number, _ in hasty.step()] == [0]


def test_arrivals_are_drawn_beforehand() -> None:
    """The same seed draws the same; on average they come at the rate asked for."""
    queries = [query()] * 2_000
    first, second = Load.poisson(queries, 50.0, seed=1), Load.poisson(queries, 50.0, seed=1)
    assert np.array_equal(first.arrivals, second.arrivals)
    assert 2_000 / first.arrivals[-1] == pytest.approx(50, rel=0.1)


def test_latency_counts_from_the_scheduled_arrival() -> None:
    """A query that came while the engine was busy has waited from then on, and not from when somebody looked."""

    class Slow(FakeSearch):
        def step(self):  # type: ignore[no-untyped-def]
            until = time.monotonic() + 0.02
            while time.monotonic() < until:
                pass
            return super().step()

    watched = WatchedSearch(Slow(lanes=1))
    result = run(FixedBatches(watched, 1, None), watched, Load.at_once([query()] * 5))
    assert (np.diff(np.sort(result.latencies)) >= 0.02).all()
    assert result.complete.all()


def test_steps_for_a_query_whose_time_is_up_are_counted() -> None:
    """A search that goes on after the deadline is found out; one that stops is not."""

    class Stubborn(FakeSearch):
        def admit(self, queries: list[Query]) -> list[int]:
            return super().admit([Query(each.params) for each in queries])

    for search, late in ((Stubborn(lanes=1), 3), (FakeSearch(lanes=1, now=time.monotonic() + 1), 0)):
        watched = WatchedSearch(search)
        watched.admit([query(3, deadline=time.monotonic())])
        for _ in range(3):
            watched.step()
        assert watched.computed_late == late


def test_every_query_is_answered_once_under_our_policy() -> None:
    """And none is cut short where there is no hurry."""
    watched = WatchedSearch(FakeSearch(lanes=3))
    load = Load.poisson([query(1 + number % 7) for number in range(50)], 5_000.0, seed=0)
    result = run(Continuous(watched), watched, load)
    assert (result.latencies > 0).all()
    assert result.complete.all()


def test_the_benchmark_measures_and_draws(tmp_path: Path) -> None:
    """On a small index, in a moment: every figure of the issue is there, and nothing was computed late."""
    rows, figures = measure(Bench(ParallelSearch(synthetic_index(300), lanes=2), seconds=0.01, rounds=1))
    named = {"peak_ratio", "p99_ratio", "throughput_ratio", "goodput_share_at_3x", "computed_late"}
    assert named <= figures.keys()
    assert {"p99_ratio_log_uniform", "p99_ratio_one_in_31"} <= figures.keys()
    assert figures["computed_late"] == 0
    assert OURS in {row.policy for row in rows}
    assert all(path.stat().st_size > 1_000 for path in draw(rows, tmp_path / "scheduling", "title"))
