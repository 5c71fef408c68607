import numpy as np
import pytest

from engine.costs import QueryCosts, StepTimes
from engine.query import Answer, Query, SearchParams, Stop


def answer(evaluations: int, steps: int, stop: Stop = Stop.CONVERGED) -> Answer:
    """An answer that took so much."""
    return Answer(np.empty(0, np.int64), np.empty(0, np.float32), evaluations, steps, stop)


def test_each_kind_costs_what_its_own_cost() -> None:
    """Queries with unlike parameters are told apart, and with them those with and without a filter."""
    kinds = [Query(SearchParams(k=10)), Query(SearchParams(k=200, beam=400)), Query(mask=np.ones(5, bool))]
    costs = QueryCosts()
    for _ in range(10):
        for query, evaluations in zip(kinds, (500, 6_000, 40), strict=True):
            costs.learn(query, answer(evaluations, steps=evaluations // 20))
    expected = [costs.expected(query) for query in kinds]
    assert [cost.evaluations for cost in expected] == [500, 6_000, 40]
    assert [cost.steps for cost in expected] == pytest.approx([25, 300, 2])


def test_a_query_costs_no_more_than_its_budget() -> None:
    """Known kind or not."""
    costs = QueryCosts()
    assert costs.expected(Query(SearchParams(budget=30))).evaluations == 30
    costs.learn(Query(SearchParams(budget=900)), answer(900, steps=9, stop=Stop.BUDGET))
    assert costs.expected(Query(SearchParams(budget=600))).evaluations == 600


def test_old_costs_fade() -> None:
    """After an index has grown, its costs are the new ones."""
    costs, query = QueryCosts(), Query()
    for evaluations in (100, 1_000):
        for _ in range(200):
            costs.learn(query, answer(evaluations, steps=10))
    assert costs.expected(query).evaluations == pytest.approx(1_000, rel=0.01)


def test_a_kind_that_is_always_cut_short_is_thought_to_need_more() -> None:
    """Though no answer ever tells how much; one that was cut short early says nothing."""
    costs, query = QueryCosts(), Query(SearchParams(budget=50_000))
    for _ in range(100):
        costs.learn(query, answer(3_000, steps=30, stop=Stop.DEADLINE))
    assert costs.expected(query).evaluations > 5_900
    costs.learn(query, answer(20, steps=1, stop=Stop.DEADLINE))
    assert costs.expected(query).evaluations > 5_900


def test_the_time_of_a_step_is_a_line_over_its_pairs() -> None:
    """Overhead and seconds a pair, from steps of unlike sizes."""
    rng, times = np.random.default_rng(0), StepTimes()
    assert times.expected(1_000) == 0
    for pairs in rng.uniform(100, 5_000, 200):
        times.learn(pairs, 0.01 + 2e-6 * pairs)
    assert [times.expected(pairs) for pairs in (100, 5_000)] == pytest.approx([0.0102, 0.02], rel=0.02)


def test_the_time_of_a_step_follows_a_slower_machine() -> None:
    """Under a load that never varies, too; more pairs never take less time, and never more than in proportion."""
    times = StepTimes()
    for seconds in (0.01, 0.05):
        for _ in range(200):
            times.learn(1_000, seconds)
    assert times.expected(1_000) == pytest.approx(0.05, rel=0.01)
    assert 0.05 <= times.expected(2_000) <= 0.1001
