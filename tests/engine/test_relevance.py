import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph import GraphChange, GraphParams
from engine.index import NO_NEIGHBOR, ItemIndex
from engine.query import Query, SearchParams
from engine.relevance import plan_forget, plan_relevant
from engine.search import exhaustive, search
from tests.engine.indexes import DIMENSIONS, METRICS, delete, device_of, insert, mlp_metric, random_index

WIDTH = 12


def lists_of(change: GraphChange) -> dict[int, list[int]]:
    """The links of each row that a plan changes."""
    return dict(zip(change.rows.tolist(), change.neighbors.tolist(), strict=True))


def slopes(index: ItemIndex, row: int) -> np.ndarray:
    """The gradient at a row, of a user who knows it alone, float32[S]."""
    state = index.state[: index.rows].cpu()
    query = Query(history_rows=np.array([row]), history_codes=np.ones(1, np.int8))
    users = index.metric.make_users(1, state.device)
    index.metric.encode_users([query], state, users, np.zeros(1, np.int64))
    pair, lane = torch.tensor([[row]]), torch.zeros(1, dtype=torch.int64)
    gradient: np.ndarray = index.metric.score_with_tangents(state, pair, users, lane)[1][0, 0, :-1].numpy()
    return gradient


@pytest.mark.parametrize("name", sorted(METRICS))
def test_links_are_what_the_gradient_points_at(name: str) -> None:
    """The farthest live rows along it, in order but for what bytes cannot tell apart, and never the row itself."""
    index = random_index(METRICS[name](), rows=300, relevant=WIDTH, device=device_of(name))
    delete(index, np.arange(40, 60))
    rows = np.array([3, 77, 250])
    index.apply({"relevant": [(rows, np.full((3, WIDTH), NO_NEIGHBOR))]}, index.rows)
    lists = lists_of(plan_relevant(index, rows))
    live = (index.versions[: index.rows] > 0).cpu().numpy()
    for row in rows.tolist():
        products = index.state[: index.rows].cpu().numpy() @ slopes(index, row)
        products[~live], products[row] = -np.inf, -np.inf
        assert row not in lists[row]
        assert live[lists[row]].all()
        best = np.argsort(-products)[:WIDTH]
        assert len(set(lists[row]) & set(best.tolist())) >= WIDTH - 2
        assert (np.diff(products[lists[row]]) <= 0.05 * np.ptp(products[live & np.isfinite(products)])).all()


@pytest.mark.parametrize("name", sorted(METRICS))
def test_those_who_find_a_new_item_relevant_link_to_it(name: str) -> None:
    """A near-copy of an item is among the links of the item, which was there before; a longer one first."""
    index = random_index(METRICS[name](), rows=200, relevant=WIDTH, device=device_of(name))
    split = index.metric.dimensions
    state = index.state[17:18].cpu().numpy()
    writes = {
        "vectors": [(np.array([200]), 1.5 * state[:, :split])],
        "biases": [(np.array([200]), state[:, split:])],
        "versions": [(np.array([200]), np.array([[9]]))],
    }
    index.apply(writes, 201)
    lists = lists_of(plan_relevant(index, np.array([200])))
    assert lists[17][0] == 200
    assert 17 in lists[200]


@given(st.integers(0, 2**32), st.integers(1, 60))
@settings(max_examples=20, deadline=None)
def test_what_is_forgotten_leaves_no_gap(seed: int, count: int) -> None:
    """The links that stay keep their order and move up; only rows that change are planned."""
    index = random_index(mlp_metric(), rows=120, relevant=WIDTH)
    gone = np.random.default_rng(seed).choice(120, count, replace=False)
    before = index.relevant[:120].tolist()
    lists = lists_of(plan_forget(index, gone))
    for row, links in enumerate(before):
        expected = [] if row in gone else [link for link in links if link not in gone]
        assert lists.get(row, links) == expected + [NO_NEIGHBOR] * (WIDTH - len(expected))
        assert row in gone or (row in lists) == (lists.get(row, links) != links)


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_relevant_links_are_counted_as_they_come_and_go(seed: int) -> None:
    """Whatever is inserted, deleted, or loaded anew."""
    rng, index = np.random.default_rng(seed), random_index(mlp_metric(), rows=30, relevant=WIDTH)
    for _ in range(4):
        delete(index, rng.choice(np.flatnonzero(index.live.numpy()), 5, replace=False))
        rows = np.arange(index.rows, index.rows + int(rng.integers(1, 700)))
        vectors = rng.normal(size=(len(rows), DIMENSIONS)).astype(np.float32)
        insert(index, rows, vectors, np.zeros((len(rows), 4), np.float32), 2, GraphParams(candidates=24))
        counts = (index.relevant != NO_NEIGHBOR).sum(dim=1).numpy()
        np.testing.assert_array_equal(index.relevant_counts, counts)
    links = rng.permuted(index.relevant[: index.rows].numpy(), axis=0)
    columns = {
        "neighbors": index.neighbors[: index.rows].numpy(),
        "versions": index.versions[: index.rows, None].numpy(),
    }
    state = index.state[: index.rows].numpy()
    index.load({**columns, "vectors": state[:, :DIMENSIONS], "biases": state[:, DIMENSIONS:], "relevant": links})
    np.testing.assert_array_equal(index.relevant_counts[: index.rows], (links != NO_NEIGHBOR).sum(axis=1))
    assert 0 < np.count_nonzero(counts) < index.rows


@pytest.mark.parametrize("relevant", [0, WIDTH])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_few_rows_have_few_links(relevant: int, rows: int) -> None:
    """Or none, where there are no others or where none are wanted."""
    index = random_index(mlp_metric(), rows=rows, relevant=relevant)
    assert index.relevant.shape[1] == relevant
    for row, links in enumerate(index.relevant[:rows].tolist()):
        present = [link for link in links if link != NO_NEIGHBOR]
        assert len(present) == min(relevant, max(rows - 1, 0))
        assert sorted(present) == [other for other in range(rows) if other != row][: len(present)]
    nothing = plan_relevant(index, np.empty(0, np.int64))
    assert nothing.neighbors.shape == (0, relevant)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_one_round_finds_more_with_them(name: str) -> None:
    """Of the best ten of users who know two items, from the same number of evaluations and without a scan."""
    rng = np.random.default_rng(8)
    params = SearchParams(k=10, beam=10, rounds=1, pairs=32, width=8)
    queries = [Query(params, rng.choice(1_500, 2, replace=False), np.ones(2, np.int8)) for _ in range(40)]
    recalls, evaluations = [], []
    for relevant in (0, 32):
        index = random_index(
            METRICS[name](), rows=1_500, batch=500, degree=16, relevant=relevant, device=device_of(name)
        )
        answers, exact = search(index, queries), exhaustive(index, queries)
        shares = [np.isin(best.rows, mine.rows).mean() for mine, best in zip(answers, exact, strict=True)]
        recalls.append(np.mean(shares))
        evaluations.append(np.mean([answer.evaluations for answer in answers]))
    assert recalls[1] > recalls[0] + 0.3
    assert evaluations[1] == pytest.approx(evaluations[0], abs=5)
