from collections.abc import Callable

import numpy as np
import pytest
import torch

from engine.errors import InvalidColumns, InvalidQuery
from engine.metric import L2, InnerProduct, Metric, Users
from engine.mlp_metric import MlpMetric
from engine.query import Query
from tests.engine.indexes import DIMENSIONS, mlp_metric, random_index, scores_of

CODE_BIAS = np.array([[0.1, -0.2], [0.3, 0.4], [0.5, -0.6]], dtype=np.float32)


def by_the_formula(state: np.ndarray, history: list[int], codes: list[int], row: int) -> float:
    """δ of the target behaviour 1, written as in the design, one number at a time."""
    vector, beta, prior = state[row, :DIMENSIONS], state[row, DIMENSIONS], state[row, DIMENSIONS + 3]
    total = np.exp(prior)
    for other, code in zip(history, codes, strict=True):
        if other != row:
            alpha = state[other, DIMENSIONS + 1]
            total += np.exp(vector @ state[other, :DIMENSIONS] + beta + alpha + CODE_BIAS[code, 1])
    touched = any(other == row and code == 0 for other, code in zip(history, codes, strict=True))
    return float(np.log(total) + 0.7 * touched)


def test_mlp_is_the_formula() -> None:
    """The batched score equals δ written out, for rows in and outside of the history."""
    rng = np.random.default_rng(3)
    metric = MlpMetric(DIMENSIONS, CODE_BIAS, touched_bonus=0.7, target=1)
    state = torch.from_numpy(rng.normal(0, 0.5, (40, DIMENSIONS + 4)).astype(np.float32))
    history, codes = [5, 9, 20], [0, 1, 2]
    query = Query(history_rows=np.array(history), history_codes=np.array(codes, dtype=np.int8))
    scores = scores_of(metric, query, state)
    expected = [by_the_formula(state.numpy().astype(np.float64), history, codes, row) for row in range(40)]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_user_without_history_sees_the_prior() -> None:
    """Without history δ is the popularity prior, to the bit of a logarithm."""
    metric = mlp_metric()
    index = random_index(metric, 50)
    scores = scores_of(metric, Query(), index.state[:50])
    torch.testing.assert_close(scores, metric.prior(index.state)[:50])


def test_vector_metrics_are_their_formulas() -> None:
    """Inner product and L2 against numpy; a history counts as the mean of its vectors."""
    rng = np.random.default_rng(4)
    state = torch.from_numpy(rng.normal(size=(30, DIMENSIONS)).astype(np.float32))
    query = Query(history_rows=np.array([1, 2]), history_codes=np.zeros(2, dtype=np.int8))
    mean = state[1:3].mean(dim=0)
    for metric, expected in (
        (InnerProduct(DIMENSIONS), state @ mean),
        (L2(DIMENSIONS), -(state - mean).square().sum(dim=1)),
    ):
        scores = scores_of(metric, query, state)
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    """A vector of the wrong length and columns of the wrong width name the two sizes."""
    metric = mlp_metric()
    index = random_index(metric, 20)
    with pytest.raises(InvalidQuery, match="3 dimensions, the metric 12"):
        scores_of(metric, Query(vector=np.zeros(3, dtype=np.float32)), index.state)
    with pytest.raises(InvalidColumns, match="12 \\+ 4"):
        metric.encode_items(torch.zeros(1, 5), torch.zeros(1, 4))


def make_metrics(dimensions: int) -> dict[str, Callable[[bool], Metric]]:
    """Every kind of metric, in compiled code or not."""
    return {
        "mlp": lambda compiled: MlpMetric(dimensions, CODE_BIAS, touched_bonus=0.7, target=1, compiled=compiled),
        "inner_product": lambda compiled: InnerProduct(dimensions, compiled=compiled),
        "l2": lambda compiled: L2(dimensions, compiled=compiled),
    }


def lanes_of_many(metric: Metric, state: torch.Tensor) -> tuple[Users, torch.Tensor, torch.Tensor]:
    """Eight lanes with histories of 0 to 127 items; pairs for six of them, as many as 0 to 150."""
    rng = np.random.default_rng(11)
    live = len(state)
    queries = [
        Query(
            history_rows=rng.choice(live, length, replace=False),
            history_codes=rng.integers(0, 3, length).astype(np.int8),
            vector=rng.normal(size=metric.dimensions).astype(np.float32) if length == 3 else None,
        )
        for length in (0, 1, 3, 9, 16, 17, 60, 127)
    ]
    users = metric.make_users(len(queries), state.device)
    metric.encode_users(queries, state, users, np.arange(len(queries)))
    rows = torch.full((6, 150), -1)
    for line, count in enumerate((150, 0, 1, 64, 65, 7)):
        rows[line, :count] = torch.from_numpy(rng.choice(live, count, replace=False))
    return users, rows, torch.tensor([7, 3, 0, 2, 6, 5])


@pytest.mark.parametrize("dimensions", [12, 13, 64])
@pytest.mark.parametrize("kind", ["mlp", "inner_product", "l2"])
def test_compiled_and_plain_agree(kind: str, dimensions: int) -> None:
    """Scores and tangents, where there are pairs and where there are none, whatever the padding."""
    make = make_metrics(dimensions)[kind]
    width = dimensions + make(True).bias_width
    state = torch.from_numpy(np.random.default_rng(5).normal(0, 0.4, (400, width)).astype(np.float32))
    results = []
    for compiled in (True, False):
        metric = make(compiled)
        users, rows, lanes = lanes_of_many(metric, state)
        scores, tangents = metric.score_with_tangents(state, rows, users, lanes)
        torch.testing.assert_close(scores, metric.score(state, rows, users, lanes), rtol=1e-6, atol=1e-6)
        results.append((scores, tangents.masked_fill((rows < 0)[:, :, None], 0)))
    (scores, tangents), (plain_scores, plain_tangents) = results
    assert (torch.isinf(scores) == (rows < 0)).all()
    torch.testing.assert_close(scores, plain_scores, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tangents, plain_tangents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_lane_remembers_nothing_of_its_last_user(compiled: bool) -> None:
    """Bit for bit the scores and tangents of a lane that never held anybody, with a short history or with none."""
    metric = make_metrics(DIMENSIONS)["mlp"](compiled)
    rng = np.random.default_rng(9)
    state = torch.from_numpy(rng.normal(0, 0.4, (200, DIMENSIONS + metric.bias_width)).astype(np.float32))
    rows, lanes = torch.arange(40).repeat(2, 1), torch.arange(2)
    results = []
    for before in (127, 0):
        users = metric.make_users(2, state.device)
        for length in (before, 3):
            history = rng.choice(200, length, replace=False) if length > 3 else np.arange(length)
            query = Query(history_rows=history, history_codes=np.zeros(length, dtype=np.int8))
            metric.encode_users([query, query if length > 3 else Query()], state, users, np.arange(2))
        results.append(metric.score_with_tangents(state, rows, users, lanes))
    for used, fresh in zip(*results, strict=True):
        torch.testing.assert_close(used, fresh, rtol=0, atol=0)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_lane_recovers_from_a_vector_beyond_all_reason(compiled: bool) -> None:
    """Of a user whose scores are no numbers nothing is left in the lane, however short the history after it."""
    metric = make_metrics(DIMENSIONS)["mlp"](compiled)
    state = torch.from_numpy(np.random.default_rng(9).normal(size=(60, DIMENSIONS + metric.bias_width))).float()
    users, rows, lane = metric.make_users(1, state.device), torch.arange(60)[None], torch.zeros(1, dtype=torch.int64)
    for query in (Query(vector=np.full(DIMENSIONS, 3e38, np.float32)), Query()):
        metric.encode_users([query], state, users, np.array([0]))
        scores, tangents = metric.score_with_tangents(state, rows, users, lane)
    assert torch.isfinite(scores).all()
    assert torch.isfinite(tangents).all()


@pytest.mark.parametrize("kind", ["mlp", "inner_product", "l2"])
def test_what_overflows_raises_nothing(kind: str) -> None:
    """Products beyond float32 give scores that are no numbers: a kernel that raised would end a worker."""
    metric = make_metrics(DIMENSIONS)[kind](True)
    state = torch.ones(30, DIMENSIONS + metric.bias_width)
    users = metric.make_users(1, state.device)
    query = Query(vector=np.full(DIMENSIONS, 3e38, np.float32))
    metric.encode_users([query], state, users, np.array([0]))
    rows, lane = torch.arange(30)[None], torch.zeros(1, dtype=torch.int64)
    scores, _ = metric.score_with_tangents(state, rows, users, lane)
    assert not torch.isfinite(scores).any()


@pytest.mark.parametrize("kind", ["mlp", "inner_product", "l2"])
def test_gradients_are_the_slopes_of_the_scores(kind: str) -> None:
    """A small move of an item's state changes its score as the gradient says, for rows outside of the history."""
    metric = make_metrics(DIMENSIONS)[kind](True)
    rng = np.random.default_rng(6)
    state = torch.from_numpy(rng.normal(0, 0.4, (60, DIMENSIONS + metric.bias_width)).astype(np.float32))
    query = Query(history_rows=np.arange(5), history_codes=np.array([0, 1, 2, 1, 0], dtype=np.int8))
    users = metric.make_users(1, state.device)
    metric.encode_users([query], state, users, np.array([0]))
    rows, lane = torch.arange(5, 60)[None], torch.zeros(1, dtype=torch.int64)
    scores, tangents = metric.score_with_tangents(state, rows, users, lane)
    gradients = tangents[:, :, :-1]
    torch.testing.assert_close((gradients * state[rows]).sum(dim=2) + tangents[:, :, -1], scores)
    step = torch.from_numpy(rng.normal(size=(55, state.shape[1])).astype(np.float32)) * 1e-2
    ahead, behind = state.clone(), state.clone()
    ahead[5:] += step
    behind[5:] -= step
    change = (metric.score(ahead, rows, users, lane) - metric.score(behind, rows, users, lane)) / 2
    torch.testing.assert_close(change[0], (gradients[0] * step).sum(dim=1), rtol=1e-2, atol=2e-5)
