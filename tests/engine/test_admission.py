"""Who is admitted when, over a search that computes nothing and has a clock of its own."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidQuery, QueueFull
from engine.fair_queue import Priority
from engine.query import Answer, Query, SearchParams, Stop
from engine.scheduler import Scheduler
from tests.engine.fake_search import PAIRS, FakeSearch

SMALL, HUGE = 100, 3_000
"""Budgets: one step and thirty."""


def query(budget: int = SMALL, deadline: float | None = None, width: int = 1) -> Query:
    """A query that spends its budget, a hundred evaluations a step if it is narrow."""
    return Query(SearchParams(budget=budget, width=width), deadline=deadline)


def stage(search: FakeSearch, max_waiting: int = 10**9) -> Scheduler[int]:
    """A scheduler over a search, with its clock."""
    return Scheduler(search, max_waiting, search.clock)


def answered(scheduler: Scheduler[int], steps: int = 10_000) -> list[int]:
    """The tickets in the order of their answers, of so many steps or until nothing is left to do."""
    order: list[int] = []
    while not scheduler.idle and steps > 0:
        order += [ticket for ticket, _ in scheduler.step()]
        steps -= 1
    return order


def trained(search: FakeSearch, *budgets: int) -> Scheduler[int]:
    """A scheduler that has seen queries of these budgets."""
    scheduler = stage(search)
    for number, budget in enumerate(budgets, start=1):
        scheduler.submit(-number, query(budget))
    answered(scheduler)
    return scheduler


EVENTS = st.one_of(
    st.tuples(
        st.just("submit"),
        st.sampled_from([1, 50, SMALL, 700, HUGE]),
        st.none() | st.floats(-1, 30),
        st.sampled_from(Priority),
    ),
    st.tuples(st.just("cancel"), st.integers(0, 60)),
    st.tuples(st.just("step")),
    st.tuples(st.just("pause"), st.floats(0, 20)),
)


@given(st.integers(1, 9), st.integers(0, 4_000), st.sampled_from([0.0, 0.01]), st.lists(EVENTS, max_size=60))
@settings(max_examples=200, deadline=None)
def test_every_ticket_has_exactly_one_outcome(
    lanes: int, max_waiting: int, seconds_a_pair: float, events: list[tuple]
) -> None:
    """Refused, cancelled or answered, whatever happens in which order; and the work that waits stays in its bounds."""
    search = FakeSearch(lanes, seconds_a_pair=seconds_a_pair)
    scheduler = stage(search, max_waiting)
    deadlines: dict[int, float] = {}
    in_work: set[int] = set()

    def take(answers: list[tuple[int, Answer]]) -> None:
        for ticket, answer in answers:
            in_work.remove(ticket)
            assert (answer.stop is Stop.DEADLINE) <= (search.now >= deadlines[ticket])

    for event in events:
        if event[0] == "submit":
            ticket, (_, budget, patience, priority) = len(deadlines), event
            deadlines[ticket] = np.inf if patience is None else search.now + patience
            try:
                scheduler.submit(ticket, query(budget, None if patience is None else deadlines[ticket]), priority)
            except QueueFull:
                assert scheduler.waiting[priority] + budget > max_waiting
            else:
                in_work.add(ticket)
        elif event[0] == "cancel":
            assert scheduler.cancel(event[1]) == (event[1] in in_work)
            in_work.discard(event[1])
        elif event[0] == "step":
            take(scheduler.step())
        else:
            search.now += event[1]
        assert max(scheduler.waiting.values()) <= max_waiting
        assert sum(scheduler.load) == len(in_work)
    for _ in range(2_000):
        if scheduler.idle:
            break
        take(scheduler.step())
    assert not in_work
    assert scheduler.waiting_evaluations == 0
    assert search.free_lanes == lanes


def test_a_ticket_in_work_is_not_taken_twice() -> None:
    """Waiting or running: the second one is refused, and the first gets its answer."""
    scheduler = stage(FakeSearch(lanes=1))
    scheduler.submit(1, query(700))
    scheduler.step()
    scheduler.submit(2, query())
    for ticket in (1, 2):
        with pytest.raises(InvalidQuery, match="ticket"):
            scheduler.submit(ticket, query())
    assert answered(scheduler) == [1, 2]


def test_a_cancelled_query_makes_room() -> None:
    """A running one gives its lane to who waits; a waiting one is never run."""
    scheduler = stage(FakeSearch(lanes=1))
    scheduler.submit(0, query(HUGE))
    scheduler.step()
    for ticket in (1, 2):
        scheduler.submit(ticket, query())
    assert scheduler.cancel(0)
    assert scheduler.cancel(1)
    assert not scheduler.cancel(1)
    assert answered(scheduler, steps=1) == [2]


def test_high_priority_goes_first() -> None:
    """Queries of high priority pass one of normal priority that came before them, until that has its share."""
    scheduler = trained(FakeSearch(lanes=1), SMALL)
    for ticket in range(20):
        scheduler.submit(ticket, query(), Priority.HIGH if ticket else Priority.NORMAL)
    assert answered(scheduler) == [*range(1, 8), 0, *range(8, 20)]


@pytest.mark.parametrize("patience", [None, 3.0])
def test_nobody_starves(patience: float | None) -> None:
    """A huge query of normal priority is answered though others of high priority never stop to come.

    Also where those are in a hurry, two steps of 1.2 s in 3 s, and it slows each step down by 0.8 s.
    """
    search = FakeSearch(lanes=3, seconds_a_pair=0.001)
    scheduler = stage(search)
    for number, known in enumerate([query(8 * HUGE, width=8), query(2 * SMALL)] * 5, start=1):
        scheduler.submit(-number, known)
        answered(scheduler)
    scheduler.submit(0, query(8 * HUGE, width=8))
    for ticket in range(1, 1_500):
        deadline = None if patience is None else search.now + patience
        scheduler.submit(ticket, query(2 * SMALL, deadline), Priority.HIGH)
        if 0 in [ticket for ticket, _ in scheduler.step()]:
            return
    pytest.fail("so many steps, and the huge query still has no answer")


def test_a_flow_that_paused_saves_nothing_up() -> None:
    """After a long time of small queries alone, huge ones that come get their share from then on and no more."""
    scheduler = trained(FakeSearch(lanes=8), SMALL, HUGE)
    for ticket in range(2_000):
        scheduler.submit(ticket, query(SMALL))
    answered(scheduler, steps=200)
    for ticket in range(2_000, 2_100):
        scheduler.submit(ticket, query(HUGE))
    done = Counter(ticket < 2_000 for ticket in answered(scheduler, steps=60))
    assert done[True] > 8 * done[False]


def test_flows_share_the_work() -> None:
    """While both wait, small queries get as much work done as huge ones, thirty times as many."""
    scheduler = trained(FakeSearch(lanes=8), SMALL, HUGE)
    budgets = [HUGE, SMALL] * 1_000
    for ticket, budget in enumerate(budgets):
        scheduler.submit(ticket, query(budget))
    done = Counter(budgets[ticket] for ticket in answered(scheduler, steps=200))
    assert 20 < done[SMALL] / done[HUGE] < 45


def test_a_small_query_finds_a_lane_among_huge_ones() -> None:
    """However many huge queries run and wait, a small one is in a lane before the next step."""
    scheduler = trained(FakeSearch(lanes=8), SMALL, HUGE)
    for ticket in range(50):
        scheduler.submit(ticket, query(HUGE))
    scheduler.step()
    assert scheduler.load == (7, 43)
    scheduler.submit(100, query(SMALL))
    assert answered(scheduler, steps=1) == [100]


def test_queries_all_alike_use_every_lane() -> None:
    """No lane is kept for lighter queries where there are none."""
    scheduler = stage(FakeSearch(lanes=16))
    for ticket in range(20):
        scheduler.submit(ticket, query(700))
    scheduler.step()
    assert scheduler.load == (16, 4)


def test_the_newest_goes_first_once_the_first_has_waited_half_its_time() -> None:
    """In line by arrival, until the head of the line is stale."""
    search = FakeSearch(lanes=1)
    scheduler = trained(search, SMALL)
    for ticket in range(6):
        scheduler.submit(ticket, query(SMALL, search.now + 10.5))
    assert answered(scheduler, steps=3) == [0, 1, 2]
    search.now += 3
    assert answered(scheduler) == [5, 4, 3]


def test_who_would_be_late_is_not_begun() -> None:
    """A query whose steps do not fit into its time beside what runs leaves the lane to one whose steps do."""
    search = FakeSearch(lanes=2)
    scheduler = trained(search, SMALL, HUGE)
    scheduler.submit(0, query(HUGE))
    scheduler.step()
    scheduler.submit(1, query(HUGE, search.now + 20))
    scheduler.submit(2, query(SMALL, search.now + 20))
    assert answered(scheduler, steps=1) == [2]
    answers = dict(answer for _ in range(30) for answer in scheduler.step())
    assert (answers[1].stop, answers[1].evaluations) == (Stop.DEADLINE, 0)
    assert answers[0].evaluations == HUGE


def test_newcomers_do_not_make_others_late() -> None:
    """A lane stays empty while whoever went into it would slow a running query down beyond its deadline."""
    search = FakeSearch(lanes=2, overhead=0.001, seconds_a_pair=0.01)
    scheduler = trained(search, HUGE)
    scheduler.submit(0, query(HUGE, search.now + 1.2 * HUGE * 0.01))
    scheduler.step()
    scheduler.submit(1, query(HUGE))
    finished = dict(answer for _ in range(29) for answer in scheduler.step())
    assert finished[0].stop is Stop.BUDGET
    assert sum(scheduler.load) == 1


@pytest.mark.parametrize(
    ("pause", "patience", "begun"), [(0.0, 5.0, True), (0.3, 5.0, False), (0.3, 7.0, True), (50.0, 9.0, True)]
)
def test_what_is_done_between_steps_counts(pause: float, patience: float, begun: bool) -> None:
    """Four steps of 1 s fit into 5 s, unless whoever calls is away in between; a pause counts at most as the step."""
    search = FakeSearch(lanes=2, overhead=0.0, seconds_a_pair=0.5 / PAIRS)
    scheduler = trained(search, 4 * SMALL)
    scheduler.submit(0, query(1_000 * SMALL))
    for _ in range(300):
        scheduler.step()
        search.now += pause
    scheduler.submit(1, query(4 * SMALL, search.now + patience))
    answers = dict(answer for _ in range(12) for answer in scheduler.step())
    assert (answers[1].evaluations > 0) == begun


@pytest.mark.parametrize(("overhead", "seconds_a_pair"), [(8e-3, 1e-5), (1e-4, 1e-6)])
def test_goodput_holds_under_overload(overhead: float, seconds_a_pair: float) -> None:
    """Of three times the peak, all with little time, as many are answered in time as at the peak; little is wasted."""
    rng = np.random.default_rng(0)

    def budgets(number: int) -> list[int]:
        return (SMALL * np.exp(rng.uniform(0, np.log(30), number))).astype(int).tolist()

    search = FakeSearch(32, overhead, seconds_a_pair)
    scheduler = trained(search, *budgets(1_000))
    peak = 1_000 / search.now
    unloaded = np.median(budgets(1_000)) / PAIRS * (overhead + PAIRS * seconds_a_pair)
    offered, start, good, wasted, spent = budgets(3_000), search.now, 0, 0, 0
    arrivals = start + np.cumsum(rng.exponential(1 / (3 * peak), len(offered)))
    ticket = 0
    for _ in range(100_000):
        while ticket < len(offered) and arrivals[ticket] <= search.now:
            scheduler.submit(ticket, query(offered[ticket], arrivals[ticket] + 5 * unloaded))
            ticket += 1
        if scheduler.idle and ticket == len(offered):
            break
        if scheduler.idle:
            search.now = max(search.now, arrivals[ticket])
        for number, answer in scheduler.step():
            in_time = answer.stop is Stop.BUDGET and search.now <= arrivals[number] + 5 * unloaded
            good += in_time
            spent += answer.evaluations
            wasted += 0 if in_time else answer.evaluations
    assert good / (search.now - start) >= 0.9 * peak
    assert wasted / spent < 0.1
