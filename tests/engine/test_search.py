import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.errors import InvalidColumns, InvalidQuery
from engine.graph import GraphParams
from engine.index import ItemIndex
from engine.kernels.hops import TOGETHER, Hop, deal
from engine.kernels.marks import HIGHEST_FLOOR, STEP
from engine.kernels.stages import FAR, GIVEN_ROWS, NEAR
from engine.metric import InnerProduct, Users
from engine.query import Answer, Query, SearchParams, Stop
from engine.search import ParallelSearch, answered, exhaustive, search
from tests.engine.indexes import DIMENSIONS, METRICS, device_of, insert, mlp_metric, random_index, random_query

INDEXES = {name: random_index(make(), rows=300, device=device_of(name)) for name, make in METRICS.items()}
OTHERS = sorted(name for name in METRICS if "," in name)


def same(left: Answer, right: Answer) -> bool:
    """Equal rows and equal bits of the scores."""
    return np.array_equal(left.rows, right.rows) and np.array_equal(left.scores, right.scores)


def alike(name: str, left: Answer, right: Answer) -> bool:
    """The same; on a GPU, whose products depend on their batch in the last bit, nearly the same scores."""
    return same(left, right) if device_of(name).type == "cpu" else np.allclose(left.scores, right.scores, atol=1e-4)


@given(st.sampled_from(sorted(METRICS)), st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_unlimited_search_is_exhaustive(name: str, seed: int, k: int, width: int) -> None:
    """With no budget and a beam as large as the catalogue the answer is the exhaustive one, bit by bit."""
    index = INDEXES[name]
    params = SearchParams(k=k, beam=index.rows, width=width)
    query = random_query(np.random.default_rng(seed), index, params)
    [found], [expected] = search(index, [query]), exhaustive(index, [query])
    assert alike(name, found, expected)


@given(st.sampled_from(sorted(METRICS)), st.integers(0, 2**32), st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_the_same_question_has_the_same_answer_in_any_batch(name: str, seed: int, lanes: int) -> None:
    """Alone or among strangers of other beams, widths and budgets: the same bits."""
    rng = np.random.default_rng(seed)
    index = INDEXES[name]
    queries = [
        random_query(
            rng,
            index,
            SearchParams(
                k=int(rng.integers(1, 15)),
                beam=int(rng.integers(15, 60)),
                width=int(rng.integers(1, 9)),
                budget=int(rng.integers(1, 300)),
            ),
        )
        for _ in range(12)
    ]
    together = search(index, queries, lanes)
    alone = [search(index, [query], lanes=1)[0] for query in queries]
    assert all(alike(name, *pair) for pair in zip(together, alone, strict=True))
    assert [answer.evaluations for answer in together] == [answer.evaluations for answer in alone]


def test_threads_change_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads share the lanes of a hop, the bits are those of one, in lanes that were used before too."""
    rng, index = np.random.default_rng(6), INDEXES["mlp"]
    queries = [random_query(rng, index, SearchParams(rounds=1 + n % 4)) for n in range(80)]
    alone = search(index, queries, lanes=1)
    monkeypatch.setattr("engine.search.THREAD_SECONDS", 1e-12)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    running = ParallelSearch(index, lanes=50)
    for _ in range(3):
        shared = answered(running, queries)
        assert all(map(same, alone, shared))
        assert [(a.evaluations, a.steps) for a in shared] == [(a.evaluations, a.steps) for a in alone]


def test_threads_that_stand_by_follow_an_index_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns move to larger places between two hops of running lanes: the same answers as those of one thread."""
    rng, queries = np.random.default_rng(9), random_index(mlp_metric(), rows=60)
    asked = [random_query(rng, queries, SearchParams(rounds=9, pairs=8, beam=40)) for _ in range(8)]
    asked = [replace(query, mask=None) for query in asked]
    found = []
    for threads in (1, 3):
        monkeypatch.setattr("engine.search.THREAD_SECONDS", 1e-12)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        index, rng = random_index(mlp_metric(), rows=60), np.random.default_rng(0)
        running = ParallelSearch(index, lanes=len(asked))
        running.admit(asked)
        running.step()
        team = running._hops._team  # type: ignore[attr-defined]
        rows = np.arange(60, 2_200)
        vectors = rng.normal(size=(len(rows), 12)).astype(np.float32)
        biases = rng.normal(0, 0.3, (len(rows), 4)).astype(np.float32)
        insert(index, rows, vectors, biases, 7, GraphParams(candidates=24))
        answers: dict[int, Answer] = {}
        while len(answers) < len(asked):
            answers.update(running.step())
        hops = running._hops  # type: ignore[attr-defined]
        assert threads == 1 or team is not hops._team is not None
        found.append([answers[lane] for lane in range(len(asked))])
    assert all(map(same, *found))
    assert max(int(answer.rows.max()) for answer in found[0]) >= 60


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30), st.integers(1, 5))
def test_every_lane_is_dealt_out_once(flags: list[tuple[bool, bool]], threads: int) -> None:
    """Part by part, none empty or mixed; those with tangents come first everywhere, evenly; few parts look far."""
    far, later = np.array(flags).T
    # Lanes from 10 on: those that look far, and those that have a round behind this one.
    stages, rounds, wanted = np.full((3, 10 + len(flags)), -1)
    stages[10:], rounds[10:], wanted[10:] = np.where(far, FAR, NEAR), 1 + later, 64
    hop = Hop.of(len(flags))
    assert deal(10 + np.arange(len(flags)), stages, rounds, wanted, threads, 99, hop) == 64
    several, *numbers = hop.extent.tolist()
    assert numbers == [64, 99]
    chosen, parts = hop.chosen, hop.parts[:several]
    places = chosen - 10
    assert sorted(places.tolist()) == list(range(len(flags)))
    assert parts[:, 0].tolist() == [0, *parts[:-1, 2].tolist()]
    assert parts[-1, 2] == len(flags)
    for first, middle, last in parts:
        assert first < last
        assert len(set(far[places[first:last]])) == 1
        assert later[places[first:last]].tolist() == [place < middle for place in range(first, last)]
    for looks in (True, False):
        mine = [part for part in parts if far[places[part[0]]] == looks]
        derived = [middle - first for first, middle, _ in mine] or [0]
        assert max(derived) - min(derived) <= 1
        lanes = sum(last - first for first, _, last in mine)
        assert len(mine) >= min(threads, lanes)
        assert len(mine) <= threads if looks else max([last - first for first, _, last in mine] or [0]) <= TOGETHER


@pytest.mark.parametrize("compiled", [True, False])
def test_all_that_matches_a_filter_is_scored_over_several_steps(compiled: bool) -> None:
    """More rows than one step scores: the answer is that of scoring all, by the metric itself."""
    index = random_index(InnerProduct(DIMENSIONS, compiled=compiled), rows=3_000)
    rng = np.random.default_rng(8)
    mask, vector = rng.random(3_000) < 0.85, rng.normal(size=index.metric.dimensions).astype(np.float32)
    [answer] = search(index, [Query(SearchParams(k=20), vector=vector, mask=mask)])
    scores = np.where(mask, index.state[:3_000].numpy() @ vector, -np.inf)
    assert answer.rows.tolist() == np.argsort(-scores, kind="stable")[:20].tolist()
    assert (answer.evaluations, answer.steps) == (mask.sum(), -(-mask.sum() // GIVEN_ROWS))


class Backwards(InnerProduct):
    """The least product is best."""

    def score(self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor) -> torch.Tensor:
        """Its opposite, −inf where there is no row."""
        return (-super().score(state, rows, users, lanes)).masked_fill(rows < 0, -torch.inf)

    def score_with_tangents(
        self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """These and their tangents."""
        return self.score(state, rows, users, lanes), -super().score_with_tangents(state, rows, users, lanes)[1]


def test_a_metric_is_searched_as_it_scores_whatever_it_inherits() -> None:
    """A class of its own on top of one that compiled code can score is asked for its scores."""
    index = random_index(Backwards(DIMENSIONS), rows=400)
    query = Query(SearchParams(k=20, beam=400), vector=np.ones(DIMENSIONS, np.float32))
    [answer] = search(index, [query])
    products = np.where(index.live[:400].numpy(), index.state[:400].numpy().sum(axis=1), np.inf)
    assert answer.rows.tolist() == np.argsort(products, kind="stable")[:20].tolist()


@given(st.sampled_from(OTHERS), st.integers(0, 2**32))
@example("inner_product, plain", 31565692)  # four who are not known at all: everything is worth 0 to them
@settings(max_examples=25, deadline=None)
def test_compiled_and_plain_searches_find_the_same(name: str, seed: int) -> None:
    """Bytes and floats choose other rows where it hardly matters: four of five results are the same, of one score.

    Which of the rows that are worth exactly as much as the last one is among them is nobody's choice.
    """
    rng = np.random.default_rng(seed)
    first = INDEXES[name.partition(",")[0]]
    queries = [random_query(rng, first, SearchParams(pairs=24, clusters=2)) for _ in range(12)]
    compiled, plain = search(first, queries), search(INDEXES[name], queries)
    shared = 0
    for left, right in zip(compiled, plain, strict=True):
        _, mine, theirs = np.intersect1d(left.rows, right.rows, return_indices=True)
        np.testing.assert_allclose(left.scores[mine], right.scores[theirs], rtol=1e-4, atol=1e-5)
        others = np.delete(right.scores, theirs)
        shared += len(mine) + np.count_nonzero(others == left.scores[-1:])
    assert shared >= 0.8 * sum(len(answer.rows) for answer in plain)


@pytest.mark.parametrize("name", ["mlp", "mlp, plain"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_every_entry_of_a_beam_has_its_own_tangent(name: str, seed: int) -> None:
    """After every step, where there is one: the one that its row has for this user."""
    index, rng = INDEXES[name], np.random.default_rng(seed)
    running = ParallelSearch(index, lanes=3)
    params = SearchParams(k=5, beam=int(rng.integers(5, 40)), rounds=6, clusters=2, pairs=20, width=8)
    for _ in range(2):
        running.admit([replace(random_query(rng, index, params), mask=None) for _ in range(3)])
        lanes, known = running.lanes, 0
        while running.free_lanes < 3:
            running.step()
            mine = torch.from_numpy(lanes.running.nonzero()[0])
            rows, slots = lanes.beam.rows[mine], lanes.slots[mine]
            if len(mine) == 0:
                break
            _, expected = index.metric.score_with_tangents(index.state, rows, lanes.users, mine)
            there = (rows >= 0) & (slots >= 0)
            kept = lanes.tangents[mine[:, None], slots]
            torch.testing.assert_close(kept[there], expected[there], rtol=1e-4, atol=1e-4)
            known += int(there.sum())
        assert known > 0


@given(st.integers(0, 2**32), st.integers(1, 400))
@settings(max_examples=25, deadline=None)
def test_a_budget_is_never_overspent(seed: int, budget: int) -> None:
    """No query scores more pairs than its budget, and what it returns was allowed."""
    index = INDEXES["mlp"]
    query = random_query(np.random.default_rng(seed), index, SearchParams(budget=budget))
    [answer] = search(index, [query])
    assert answer.evaluations <= budget
    assert not set(answer.rows) & set(query.excluded)
    assert query.mask is None or query.mask[answer.rows].all()
    assert (np.diff(answer.scores) <= 0).all()


def test_a_narrow_search_finds_most_of_it() -> None:
    """The default beam reaches a good recall on random data while it leaves part of the catalogue unseen."""
    rng = np.random.default_rng(1)
    index = random_index(mlp_metric(), rows=1500, degree=16)
    queries = [replace(random_query(rng, index, SearchParams()), mask=None) for _ in range(60)]
    found, expected = search(index, queries), exhaustive(index, queries)
    recall = np.mean([len(set(a.rows) & set(b.rows)) / 10 for a, b in zip(found, expected, strict=True)])
    share = np.mean([answer.evaluations for answer in found]) / index.rows
    assert recall > 0.8
    assert share < 0.5


@pytest.mark.parametrize("compiled", [True, False])
def test_what_is_best_by_prior_is_found_however_long_the_history(compiled: bool) -> None:
    """Items that everybody wants are found by who has nothing near them, with the few evaluations of two rounds."""
    index = random_index(mlp_metric(compiled=compiled), rows=1_500)
    popular = np.arange(700, 706)
    vectors, biases = index.state[popular, :-4].numpy() * -3, index.state[popular, -4:].numpy()
    biases[:, -1] = 60 - np.arange(len(popular))
    insert(index, popular, vectors, biases, 90, GraphParams(candidates=24))
    history = np.arange(0, 1_200, 100)
    params = SearchParams(k=6, beam=12, rounds=2, pairs=24, width=2)
    [answer] = search(index, [Query(params, history, np.zeros(len(history), np.int8))])
    np.testing.assert_array_equal(answer.rows, popular)
    assert answer.evaluations < 64


@pytest.mark.parametrize("compiled", [True, False])
def test_an_empty_index_answers_nothing(compiled: bool) -> None:
    """No items: an empty answer soon, not an error, whoever comes while another is looked for."""
    running = ParallelSearch(ItemIndex(mlp_metric(compiled=compiled), degree=8), lanes=2)
    running.admit([Query()])
    answers = running.step()
    running.admit([Query()])
    while running.free_lanes < 2:
        answers += running.step()
    assert [(len(answer.rows), answer.evaluations) for _, answer in answers] == [(0, 0)] * 2


@pytest.mark.parametrize("name", METRICS)
def test_rows_that_changed_while_a_lane_ran_are_dropped(name: str) -> None:
    """A lane outlives a change: what it scored and what changed since is not in its answer, the rest is.

    Lanes that wanted more, and less, lose none of theirs beside it.
    """
    index = random_index(METRICS[name](), rows=120, device=device_of(name))
    queries = [Query(SearchParams(k=k, beam=120, width=1)) for k in (5, 8, 2)]
    best = exhaustive(index, queries[1:2])[0].rows.tolist()
    running = ParallelSearch(index, lanes=3)
    lanes = running.admit(queries)
    running.step()
    before = running.lanes.results.rows[lanes[0]].tolist()
    gone, moved = before[0], before[1]
    index.apply({"versions": [(np.array([gone, moved]), np.array([[-9], [9]]))]}, index.rows)
    answers: dict[int, Answer] = {}
    while len(answers) < 3:
        answers |= dict(running.step())
    for lane, query in zip(lanes, queries, strict=True):
        expected = [row for row in best[: query.params.k] if row not in (gone, moved)]
        assert answers[lane].rows.tolist() == expected


def test_rows_added_while_a_lane_runs_can_be_found() -> None:
    """An index may grow under a running lane; the lane walks into the new rows."""
    index = random_index(mlp_metric(), rows=60)
    running = ParallelSearch(index, lanes=1)
    running.admit([Query(SearchParams(k=1, beam=2000, width=1))])
    running.step()
    rng = np.random.default_rng(0)
    rows = np.arange(60, 1100)
    biases = rng.normal(0, 0.3, (len(rows), 4)).astype(np.float32)
    biases[-1] = 50
    insert(index, rows, rng.normal(size=(len(rows), 12)).astype(np.float32), biases, 7, GraphParams(candidates=24))
    answers: list[tuple[int, Answer]] = []
    while not answers:
        answers = running.step()
    assert answers[0][1].rows.tolist() == [1099]


def test_a_deadline_ends_a_search_with_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query whose time is up makes no further step; what it had found by then is the answer."""
    index, now = INDEXES["mlp"], time.monotonic()
    running = ParallelSearch(index, lanes=2)
    running.admit([Query(SearchParams(k=3, beam=300, width=1), deadline=now + 60), Query(SearchParams(beam=300))])
    assert running.step() == []
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    [(lane, answer)] = running.step()
    monkeypatch.undo()
    assert (lane, answer.stop, answer.steps) == (0, Stop.DEADLINE, 1)
    assert len(answer.rows) == 3
    assert running.free_lanes == 1


def test_a_cancelled_lane_is_free_and_answers_nothing() -> None:
    """Its place goes to another query, whose answer is the one it would have got alone."""
    index = INDEXES["mlp"]
    running = ParallelSearch(index, lanes=1)
    [lane] = running.admit([Query(SearchParams(beam=300, width=1))])
    assert running.step() == []
    running.cancel(lane)
    assert running.step() == []
    query = Query(SearchParams(budget=20))
    running.admit([query])
    [(_, answer)] = running.step()
    assert same(answer, search(index, [query])[0])


def test_a_filter_that_matches_little_is_exact() -> None:
    """When few rows match, all of them are scored and nothing else is."""
    index = INDEXES["mlp"]
    mask = np.zeros(index.rows, dtype=bool)
    mask[[3, 77, 205]] = True
    [answer] = search(index, [Query(mask=mask)])
    assert sorted(answer.rows) == [3, 77, 205]
    assert answer.evaluations == 3


@pytest.mark.parametrize("matching", [40, 100, 400])
def test_a_filtered_search_returns_k_items(matching: int) -> None:
    """Exact or walked, within its budget: as many items as were asked for, and few that matched better were missed."""
    rng = np.random.default_rng(2)
    index = random_index(mlp_metric(), rows=1500, degree=16)
    queries = []
    for _ in range(20):
        mask = np.zeros(index.rows, dtype=bool)
        mask[rng.choice(index.rows, matching, replace=False)] = True
        queries.append(replace(random_query(rng, index, SearchParams(budget=300)), mask=mask))
    found, expected = search(index, queries), exhaustive(index, queries)
    assert all(len(answer.rows) == 10 for answer in found)
    recall = np.mean([len(set(a.rows) & set(b.rows)) / 10 for a, b in zip(found, expected, strict=True)])
    assert recall == 1 if matching <= 300 else recall > 0.3


@given(st.sampled_from(sorted(METRICS)), st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_no_group_has_more_results_than_it_may(name: str, seed: int, per_group: int, k: int) -> None:
    """The best of all by their order, passing over those whose group has enough; groups of 0 are none."""
    index, rng = INDEXES[name], np.random.default_rng(seed)
    groups = rng.integers(0, 12, index.rows) * 2**40
    index.groups[: index.rows] = torch.from_numpy(groups)
    query = replace(random_query(rng, index, SearchParams(k=k, beam=index.rows)), per_group=per_group)
    [found], [expected] = search(index, [query]), exhaustive(index, [query])
    assert alike(name, found, expected)
    everything = replace(query, params=SearchParams(k=index.rows, beam=index.rows), per_group=0)
    times: dict[int, int] = {}
    kept = []
    for row in exhaustive(index, [everything])[0].rows.tolist():
        group = int(groups[row])
        times[group] = times.get(group, 0) + 1
        if group == 0 or times[group] <= per_group:
            kept.append(row)
    assert found.rows.tolist() == kept[:k] or device_of(name).type != "cpu"


@pytest.mark.parametrize("name", ["mlp", "mlp, plain"])
def test_a_row_with_another_item_takes_no_place_of_a_group(name: str) -> None:
    """What a lane scored in a row is no result once another item is there: its group has one place more."""
    index = random_index(METRICS[name](), rows=120)
    index.groups[: index.rows] = 7
    query = Query(SearchParams(k=5, beam=120, pairs=8), per_group=2)
    running = ParallelSearch(index, lanes=1)
    running.admit([query])
    running.step()
    gone = int(running.lanes.results.rows[0, 0])
    index.apply({"versions": [(np.array([gone]), np.array([[9]]))]}, index.rows)
    answers: list[tuple[int, Answer]] = []
    while not answers:
        answers = running.step()
    [(_, answer)] = answers
    assert gone not in answer.rows
    assert len(answer.rows) == 2


def test_a_wide_query_does_not_change_the_others() -> None:
    """A beam as wide as the catalogue beside narrow ones, and before them: their answers keep their bits."""
    index = INDEXES["mlp"]
    rng = np.random.default_rng(8)
    narrow = [random_query(rng, index, SearchParams()) for _ in range(6)]
    wide = random_query(rng, index, SearchParams(beam=index.rows, k=50))
    together = search(index, [wide, *narrow], lanes=3)[1:]
    assert all(map(same, together, search(index, narrow, lanes=3)))


@pytest.mark.parametrize("name", ["mlp", "mlp, plain"])
def test_a_lane_forgets_who_was_in_it_before(name: str) -> None:
    """After a search of everything, a filtered one and one with exclusions, a wide one misses nothing."""
    index, rng = INDEXES[name], np.random.default_rng(3)
    mask = rng.random(index.rows) < 0.5
    before = [
        Query(SearchParams(k=1, beam=index.rows, pairs=8)),
        Query(SearchParams(k=1, beam=index.rows, pairs=8, budget=400), mask=mask),
        Query(SearchParams(), excluded=np.arange(100)),
    ]
    wide = Query(SearchParams(k=index.rows, beam=index.rows))
    for query in before:
        assert same(search(index, [query, wide], lanes=1)[1], exhaustive(index, [wide])[0])


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("compiled", [True, False])
def test_rows_that_come_while_a_filtered_lane_runs_are_not_let_through(compiled: bool, before: int) -> None:
    """They were not there when the filter chose, whoever was in the lane before; others may find them."""
    rng, index = np.random.default_rng(7), random_index(mlp_metric(compiled=compiled), rows=120)
    running = ParallelSearch(index, lanes=2)
    for _ in range(before):
        answered(running, [Query(), Query()])
    mask = np.arange(120) % 2 == 0
    params = SearchParams(k=25, beam=2_000, width=1, pairs=8)
    lanes = running.admit([Query(replace(params, budget=58), mask=mask), Query(replace(params, k=2_000))])
    assert running.step() == []
    rows = np.arange(120, 1_200)  # more than there was room for
    vectors = rng.normal(size=(len(rows), 12)).astype(np.float32)
    insert(index, rows, vectors, np.full((len(rows), 4), 9, np.float32), 7, GraphParams(candidates=24))
    answers: dict[int, Answer] = {}
    while len(answers) < 2:
        answers |= dict(running.step())
    assert set(answers[lanes[0]].rows.tolist()) <= set(np.flatnonzero(mask).tolist())
    assert answers[lanes[0]].evaluations == 58
    assert answers[lanes[1]].rows.max() >= 120


@pytest.mark.parametrize("name", METRICS)
def test_a_lane_forgets_hundreds(name: str) -> None:
    """Far more queries than there are floors for their marks, each answered as if it had been the first."""
    index, rng = INDEXES[name], np.random.default_rng(5)
    running = ParallelSearch(index, lanes=1)
    for _ in range(3 * HIGHEST_FLOOR // STEP):
        query = random_query(rng, index, SearchParams(k=10, pairs=int(rng.integers(1, 100))))
        assert alike(name, answered(running, [query])[0], search(index, [query], lanes=1)[0])


@pytest.mark.parametrize("compiled", [True, False])
def test_a_lane_forgets_a_filter_after_the_index_has_grown(compiled: bool) -> None:
    """Rows that came while nobody was in the lane are found by the next one, who asks for all."""
    rng, index = np.random.default_rng(6), random_index(mlp_metric(compiled=compiled), rows=60)
    running = ParallelSearch(index, lanes=1)
    answered(running, [Query(SearchParams(k=5, budget=100), mask=np.arange(60) < 5)])
    rows = np.arange(60, 1_100)
    vectors = rng.normal(size=(len(rows), 12)).astype(np.float32)
    insert(index, rows, vectors, np.zeros((len(rows), 4), np.float32), 7, GraphParams(candidates=24))
    [answer] = answered(running, [Query(SearchParams(k=index.rows, beam=index.rows))])
    assert sorted(answer.rows.tolist()) == list(range(index.rows))


OUTSIDE = [
    np.array([3, 300]),
    np.array([-1, 3]),
    np.array([3, -1, 3], np.int32),
    np.array([2**62, 3], np.uint64),
    np.array([300, 3, 3])[::-2],
]


@pytest.mark.parametrize("rows", OUTSIDE, ids=str)
@pytest.mark.parametrize("field", ["history_rows", "excluded"])
def test_rows_outside_of_the_index_are_refused(field: str, rows: np.ndarray) -> None:
    """A row that does not exist is an error that names the field, not a crash in a kernel."""
    codes = np.zeros(len(rows) if field == "history_rows" else 0, dtype=np.int8)
    with pytest.raises(InvalidQuery, match=field):
        search(INDEXES["mlp"], [Query(history_codes=codes, **{field: rows})])


@pytest.mark.parametrize(
    ("values", "field"), [({"k": 0}, "k"), ({"beam": 3}, "beam"), ({"width": 0}, "width"), ({"budget": -1}, "budget")]
)
def test_search_parameters_are_checked(values: dict[str, int], field: str) -> None:
    """Each parameter that makes no sense is named."""
    with pytest.raises(InvalidQuery) as caught:
        SearchParams(**values)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("writes", "problem"),
    [
        ({"neighbors": [(np.array([0]), np.full((1, 8), 500))]}, "neighbors outside"),
        (
            {"vectors": [(np.array([0]), np.full((1, 12), np.nan))], "biases": [(np.array([0]), np.zeros((1, 4)))]},
            "finite",
        ),
        ({"neighbors": [(np.array([0]), np.zeros((1, 3)))]}, "does not fit"),
    ],
)
def test_a_change_that_does_not_fit_is_refused(writes: dict, problem: str) -> None:
    """Broken columns raise; they are never searched."""
    with pytest.raises(InvalidColumns, match=problem):
        random_index(mlp_metric(), rows=50).apply(writes, 50)
