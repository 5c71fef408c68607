from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from hopstream.data import Dataset, HeldOut, Interactions
from hopstream.evaluation import ItemKnn, Popularity, bm25, hit_rate, ndcg, places, touched_matrix, weight_matrix

Triples = list[tuple[int, int, int]]
BASELINES: list[Callable[[Dataset], Popularity | ItemKnn]] = [Popularity.fit, ItemKnn.fit]


def dataset(triples: Triples, n_users: int = 6, n_items: int = 8) -> Dataset:
    """Make a data set of (user, item, behaviour) codes; behaviours are view and buy."""
    users, items, behaviors = np.array(triples, dtype=np.int32).reshape(-1, 3).T
    nothing = np.zeros(0, dtype=np.int32)
    return Dataset(
        name="tiny",
        users=tuple(f"u{n}" for n in range(n_users)),
        items=tuple(f"i{n}" for n in range(n_items)),
        behaviors=("view", "buy"),
        texts=("",) * n_items,
        tags=((),) * n_items,
        numbers=(None,) * n_items,
        groups=(None,) * n_items,
        train=Interactions(users, items, behaviors),
        test=Interactions(nothing, nothing, nothing),
        lines={},
    )


VIEW, BUY = 0, 1
some_triples = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7), st.integers(0, 1)), min_size=1, max_size=40)
# Two groups of users with tastes of their own, and an item that all of them have.
TWO_TASTES: Triples = [
    *((user, item, BUY) for user in (0, 1, 2) for item in (0, 1, 2) if (user, item) != (0, 2)),
    *((user, item, BUY) for user in (3, 4, 5) for item in (4, 5, 6) if (user, item) != (3, 6)),
    *((user, 7, VIEW) for user in range(6)),
]


def test_weights_add_up_over_behaviours_not_over_repeats() -> None:
    """A pair weighs the sum of its behaviours, however often each of them was recorded."""
    data = dataset([(0, 1, VIEW), (0, 1, BUY), (0, 1, BUY), (2, 3, VIEW)])
    weights = weight_matrix(data, {"view": 1.0, "buy": 2.0}).toarray()
    assert weights[0, 1] == 3.0
    assert weights[2, 3] == 1.0
    assert weights.sum() == 4.0
    assert touched_matrix(data, ["buy"]).toarray().sum() == 1.0
    assert touched_matrix(data).toarray().sum() == 2.0


def test_popularity_ranks_by_buyers() -> None:
    """Popularity counts users of the target behaviour: views and repeated purchases do not help."""
    data = dataset([(0, 3, BUY), (1, 3, BUY), (2, 5, BUY), (2, 5, BUY), (2, 5, BUY), *((u, 6, VIEW) for u in range(6))])
    lists = Popularity.fit(data).recommend(np.array([4]), 2, touched_matrix(data))
    assert lists.tolist() == [[3, 5]]


def test_knn_finds_what_the_neighbours_have() -> None:
    """The item missing from a user's group comes first, before all of the other group."""
    data = dataset(TWO_TASTES)
    lists = ItemKnn.fit(data).recommend(np.array([0, 3]), 1, touched_matrix(data))
    assert lists.tolist() == [[2], [6]]


def test_bm25_is_the_formula() -> None:
    """Term by term: idf times the saturated weight, with the document's length in the norm."""
    weights = csr_array(np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]], dtype=np.float32))
    k1, b = 1.2, 0.75
    norm = k1 * (1 - b + b * 3 / 3)  # both rows are of the average length
    idf = np.log(2) - np.log1p(1)
    expected = np.array([[1 * (k1 + 1) / (norm + 1), 0, 2 * (k1 + 1) / (norm + 2)], [0, 3 * (k1 + 1) / (norm + 3), 0]])
    np.testing.assert_allclose(bm25(weights).toarray(), expected * idf, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("fit", BASELINES)
@given(triples=some_triples, k=st.integers(1, 10))
def test_lists_hold_no_item_twice_and_none_excluded(fit, triples: Triples, k: int) -> None:
    """Every baseline's lists are distinct items that the user has not touched, then -1 to the end."""
    data = dataset(triples)
    touched = touched_matrix(data)
    lists = fit(data).recommend(np.arange(6), k, touched)
    assert lists.shape == (6, k)
    assert lists.dtype == np.int32
    for row, had in zip(lists, touched.toarray(), strict=True):
        items = row[row >= 0]
        assert len(set(items.tolist())) == len(items)
        assert not had[items].any()
        assert (row[len(items) :] == -1).all()


@given(triples=some_triples, k=st.integers(1, 10))
def test_popularity_leaves_nothing_out(triples: Triples, k: int) -> None:
    """Popularity can always go on: its lists are short only where everything else is excluded."""
    data = dataset(triples)
    touched = touched_matrix(data)
    lists = Popularity.fit(data).recommend(np.arange(6), k, touched)
    left = 8 - (touched.toarray() != 0).sum(axis=1)
    assert ((lists >= 0).sum(axis=1) == np.minimum(left, k)).all()


@given(triples=some_triples, k=st.integers(1, 10))
def test_knn_is_the_dense_computation(triples: Triples, k: int) -> None:
    """Blocks and sparse rows give the scores that one dense product gives, best first."""
    data = dataset(triples)
    knn, touched = ItemKnn.fit(data), touched_matrix(data)
    items = bm25(knn.histories.T.tocsr()).toarray()
    similarities = np.maximum(items @ items.T, 0.0)
    scores = np.where(touched.toarray() != 0, 0.0, knn.histories.toarray() @ similarities)
    best = -np.sort(-scores, axis=1)[:, :k]
    lists = knn.recommend(np.arange(6), k, touched)[:, :8]
    given_scores = np.where(lists >= 0, np.take_along_axis(scores, np.maximum(lists, 0), axis=1), 0.0)
    np.testing.assert_allclose(given_scores, best, rtol=1e-4, atol=1e-5)


def test_hit_rate_and_ndcg_count_pairs() -> None:
    """Two users, three pairs: one first, one third, one nowhere."""
    held_out = HeldOut(users=np.array([4, 9]), rows=np.array([0, 0, 1]), items=np.array([7, 3, 5]))
    lists = np.array([[7, 1, 3], [2, -1, -1]])
    assert places(lists, held_out).tolist() == [0, 2, 3]
    assert hit_rate(lists, held_out) == pytest.approx(2 / 3)
    assert hit_rate(lists, held_out, k=1) == pytest.approx(1 / 3)
    assert ndcg(lists, held_out) == pytest.approx((1 + 0.5 + 0) / 3)
    assert hit_rate(lists, held_out.where(np.array([False, False, True]))) == 0.0
    assert hit_rate(lists, held_out.where(np.zeros(3, dtype=bool))) == 0.0


def test_a_list_per_user_is_required() -> None:
    """Lists for other users than asked for would give a figure that means nothing."""
    held_out = HeldOut(users=np.array([4, 9]), rows=np.array([0]), items=np.array([7]))
    with pytest.raises(ValueError, match="lists for 2 users"):
        hit_rate(np.array([[7]]), held_out)
