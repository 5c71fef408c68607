from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.index import ItemIndex
from engine.metric import InnerProduct, Metric, Users
from engine.query import Query, SearchParams
from engine.ridge import RidgeTangents
from engine.search import exhaustive, search
from tests.engine.indexes import DIMENSIONS, METRICS, mlp_metric, random_index, random_query

LANES = torch.arange(3)


def states(rows: int, seed: int = 0) -> torch.Tensor:
    """Normally distributed states float32[rows, D]."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, DIMENSIONS)).astype(np.float32))


def with_users(metric: Metric, state: torch.Tensor) -> Users:
    """Three lanes, of users with a vector each."""
    users = metric.make_users(len(LANES), state.device)
    queries = [Query(vector=vector.numpy()) for vector in states(len(LANES), seed=1)]
    metric.encode_users(queries, state, users, LANES.numpy())
    return users


class Constructed(InnerProduct):
    """A metric that says of a row what it was told to say."""

    def __init__(self, relevance: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__(DIMENSIONS)
        self._relevance = relevance

    def score(self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor) -> torch.Tensor:
        """What it was told, −inf where there is no row."""
        return self._relevance(rows).to(torch.float32).masked_fill(rows < 0, -torch.inf)


def test_a_linear_metric_gets_its_own_gradients_back() -> None:
    """Where relevance is linear and enough rows are scored, the fit finds the user's vector, at every row."""
    metric, state = InnerProduct(DIMENSIONS), states(200)
    wrapped, rows = RidgeTangents(metric), torch.arange(200).repeat(len(LANES), 1)
    scores, fitted = wrapped.score_with_tangents(state, rows, with_users(wrapped, state), LANES)
    expected, true = metric.score_with_tangents(state, rows, with_users(metric, state), LANES)
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(fitted, true, rtol=0, atol=0.05)


def test_a_tangent_goes_through_its_rows_relevance() -> None:
    """Few rows or many: the estimate of a scored row is its relevance."""
    wrapped, state = RidgeTangents(mlp_metric()), torch.cat([states(90), states(90, seed=2)[:, :4]], dim=1)
    rows = torch.arange(90).reshape(len(LANES), 30)
    scores, tangents = wrapped.score_with_tangents(state, rows, with_users(wrapped, state), LANES)
    estimates = (state[rows] * tangents[:, :, :-1]).sum(dim=2) + tangents[:, :, -1]
    torch.testing.assert_close(estimates, scores, rtol=1e-4, atol=1e-4)


def test_gradients_differ_where_relevance_bends() -> None:
    """Relevance that falls with the square of the distance from a point: every row's gradient leads to the point."""
    state = states(240)
    peak = states(1, seed=5)[0]
    wrapped = RidgeTangents(Constructed(lambda rows: -(state[rows] - peak).square().sum(dim=-1)))
    rows = torch.arange(240)[None]
    _, tangents = wrapped.score_with_tangents(state, rows, with_users(wrapped, state), LANES[:1])
    cosines = torch.nn.functional.cosine_similarity(tangents[0, :, :-1], peak - state)
    assert float(cosines.min()) > 0.95


def test_a_lane_fits_to_what_it_scored_before_until_it_gets_another_user() -> None:
    """Ten rows alone do not tell twelve dimensions; the rows of an earlier step help, an earlier user's do not."""
    wrapped, state = RidgeTangents(InnerProduct(DIMENSIONS)), states(210)
    few, many = torch.arange(10).repeat(len(LANES), 1), torch.arange(10, 210).repeat(len(LANES), 1)
    users = with_users(wrapped, state)
    alone = wrapped.score_with_tangents(state, few, users, LANES)[1]
    wrapped.score_with_tangents(state, many, users, LANES)
    late = wrapped.score_with_tangents(state, few, users, LANES)[1]
    vectors = torch.from_numpy(users[0])[:, None]
    assert (late[:, :, :-1] - vectors).abs().max() < 0.1 < (alone[:, :, :-1] - vectors).abs().max()
    wrapped.encode_users([Query(vector=vectors[0, 0].numpy())] * len(LANES), state, users, LANES.numpy())
    again = wrapped.score_with_tangents(state, few[:1], users, LANES[:1])[1]
    assert torch.equal(again, alone[:1])


@pytest.mark.parametrize("name", ["inner_product", "inner_product, plain"])
def test_other_lanes_and_padding_change_no_bit(name: str) -> None:
    """A lane alone, and beside lanes with more rows than it has."""
    wrapped, state = RidgeTangents(METRICS[name]()), states(300)
    rows = torch.arange(300).reshape(len(LANES), 100)
    rows[1, 17:] = -1
    together = wrapped.score_with_tangents(state, rows, with_users(wrapped, state), LANES)
    alone = wrapped.score_with_tangents(state, rows[1:2, :17], with_users(wrapped, state), LANES[1:2])
    for wide, narrow in zip(together, alone, strict=True):
        assert torch.equal(wide[1, :17], narrow[0])
    assert (together[0][1, 17:] == -torch.inf).all()
    assert (together[1][1, 17:] == 0).all()


@pytest.mark.parametrize(
    "relevance",
    [
        lambda rows: torch.full(rows.shape, 3.0),
        lambda rows: torch.full(rows.shape, -torch.inf),
        lambda rows: torch.where(rows % 2 == 0, torch.inf, -torch.inf),
        lambda rows: torch.where(rows % 2 == 0, torch.nan, rows.float()),
        lambda rows: torch.where(rows % 2 == 0, -torch.inf, 1e25 * rows),
    ],
    ids=["constant", "nothing", "infinite", "not a number", "huge"],
)
@pytest.mark.parametrize("state", [states(60), states(1).expand(60, -1), torch.zeros(60, DIMENSIONS)])
@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_degenerate_relevance_has_finite_tangents(
    relevance: Callable[[torch.Tensor], torch.Tensor], state: torch.Tensor, count: int
) -> None:
    """Whatever a metric says, of however many rows, equal ones too: no tangent is infinite or not a number."""
    wrapped = RidgeTangents(Constructed(relevance))
    users = with_users(wrapped, state)
    rows = torch.arange(60).reshape(len(LANES), 20)[:, :count]
    rows[0] = -1
    for lanes in (LANES, LANES[:0]):
        tangents = wrapped.score_with_tangents(state, rows[: len(lanes)], users, lanes)[1]
        assert tangents.shape == (len(lanes), count, DIMENSIONS + 1)
        assert tangents.isfinite().all()
        assert (tangents[:1] == 0).all()


def test_a_constant_metric_has_no_direction() -> None:
    """All rows equal in relevance: flat planes at that height."""
    wrapped, state = RidgeTangents(Constructed(lambda rows: torch.full(rows.shape, 3.0))), states(60)
    rows = torch.arange(60).reshape(len(LANES), 20)
    _, tangents = wrapped.score_with_tangents(state, rows, with_users(wrapped, state), LANES)
    torch.testing.assert_close(tangents[:, :, :-1], torch.zeros(3, 20, DIMENSIONS), rtol=0, atol=1e-5)
    torch.testing.assert_close(tangents[:, :, -1], torch.full((3, 20), 3.0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_search_without_gradients_finds_nearly_what_one_with_them_finds(name: str) -> None:
    """A metric with its own gradients and with fitted ones, on the same graph: given rounds enough, nine tenths."""
    metric = METRICS[name]()
    index = random_index(metric, rows=1000, degree=16)
    blind = copied(index, RidgeTangents(metric))
    rng = np.random.default_rng(1)
    queries = [replace(random_query(rng, index, SearchParams(rounds=9)), mask=None) for _ in range(120)]
    expected = exhaustive(index, queries)
    true, fitted = (
        np.mean([len(np.intersect1d(a.rows, b.rows)) / len(b.rows) for a, b in zip(found, expected, strict=True)])
        for found in (search(index, queries), search(blind, queries))
    )
    assert fitted > 0.9 * true


def copied(index: ItemIndex, metric: Metric) -> ItemIndex:
    """The same items and graph under another metric over the same states."""
    other = ItemIndex(metric, index.degree)
    rows = index.rows
    width = metric.dimensions
    other.load(
        {
            "vectors": index.state[:rows, :width].numpy(),
            "biases": index.state[:rows, width:].numpy(),
            "neighbors": index.neighbors[:rows].numpy(),
            "versions": index.versions[:rows, None].numpy(),
        }
    )
    return other
