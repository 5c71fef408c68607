import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidQuery, QueueFull
from engine.query import Query, SearchParams, Stop
from engine.scheduler import Scheduler
from engine.search import ParallelSearch, search
from tests.engine.indexes import mlp_metric, random_index, random_query

INDEX = random_index(mlp_metric(), rows=300)


@given(st.integers(0, 2**32), st.integers(1, 5), st.lists(st.integers(0, 6), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_every_query_is_answered_once_and_right(seed: int, lanes: int, arrivals: list[int]) -> None:
    """Queries that come in bursts between steps each get the answer that they would get alone."""
    rng = np.random.default_rng(seed)
    scheduler: Scheduler[int] = Scheduler(ParallelSearch(INDEX, lanes))
    queries: list[Query] = []
    answers: dict[int, np.ndarray] = {}
    waves = iter(arrivals)
    while (wave := next(waves, None)) is not None or not scheduler.idle:
        for _ in range(wave or 0):
            queries.append(random_query(rng, INDEX, SearchParams(beam=int(rng.integers(10, 60)))))
            scheduler.submit(len(queries) - 1, queries[-1])
        for ticket, answer in scheduler.step():
            assert ticket not in answers
            answers[ticket] = answer.rows
    assert sorted(answers) == list(range(len(queries)))
    expected = search(INDEX, queries, lanes=1)
    assert all(np.array_equal(answers[number], answer.rows) for number, answer in enumerate(expected))


def test_a_lane_is_refilled_before_the_next_step() -> None:
    """A short query's lane goes to a waiting one while a long query still runs."""
    scheduler: Scheduler[str] = Scheduler(ParallelSearch(INDEX, lanes=2))
    scheduler.submit("long", Query(SearchParams(beam=300, width=1)))
    for number in range(4):
        scheduler.submit(f"short {number}", Query(SearchParams(budget=1, beam=10)))
    order = []
    while not scheduler.idle:
        order += [ticket for ticket, _ in scheduler.step()]
    assert order == ["short 0", "short 1", "short 2", "short 3", "long"]


def test_the_queue_is_bounded_by_work() -> None:
    """Wide queries fill the queue sooner than narrow ones; a full queue says how full."""
    scheduler: Scheduler[int] = Scheduler(ParallelSearch(INDEX, lanes=1), max_waiting=1_000)
    for number in range(10):
        scheduler.submit(number, Query(SearchParams(budget=100)))
    with pytest.raises(QueueFull, match="1000 evaluations are waiting"):
        scheduler.submit(10, Query(SearchParams(budget=100)))
    scheduler.step()
    scheduler.submit(10, Query(SearchParams(budget=100)))


def test_a_query_that_waited_too_long_is_not_computed() -> None:
    """Its time was up before a lane was free: an empty answer without an evaluation, and its work counts no more."""
    scheduler: Scheduler[str] = Scheduler(ParallelSearch(INDEX, lanes=1))
    scheduler.submit("late", Query(deadline=time.monotonic() - 1))
    scheduler.submit("in time", Query(SearchParams(budget=20)))
    answers = dict(scheduler.step())
    assert answers["late"].stop is Stop.DEADLINE
    assert (answers["late"].evaluations, len(answers["late"].rows)) == (0, 0)
    assert answers["in time"].evaluations == 20
    assert scheduler.waiting_evaluations == 0


def test_a_query_that_does_not_fit_is_refused_alone() -> None:
    """A wrong vector is refused when it is submitted; what waits beside it is answered."""
    scheduler: Scheduler[str] = Scheduler(ParallelSearch(INDEX, lanes=4))
    scheduler.submit("good", Query(SearchParams(budget=20)))
    with pytest.raises(InvalidQuery, match="vector"):
        scheduler.submit("bad", Query(vector=np.zeros(3, dtype=np.float32)))
    assert [ticket for ticket, _ in scheduler.step()] == ["good"]
