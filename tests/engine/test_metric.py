import numpy as np
import pytest
import torch

from engine.errors import InvalidColumns, InvalidQuery
from engine.metric import L2, InnerProduct
from engine.mlp_metric import MlpMetric
from engine.query import Query
from tests.engine.indexes import DIMENSIONS, mlp_metric, random_index

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
    [user] = metric.encode_users([query], state)
    scores = metric.score(state, torch.arange(40), np.array([0, 40]), [user])
    expected = [by_the_formula(state.numpy().astype(np.float64), history, codes, row) for row in range(40)]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_user_without_history_sees_the_prior() -> None:
    """Without history δ is the popularity prior, to the bit of a logarithm."""
    metric = mlp_metric()
    index = random_index(metric, 50)
    [user] = metric.encode_users([Query()], index.state)
    scores = metric.score(index.state, torch.arange(50), np.array([0, 50]), [user])
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
        users = metric.encode_users([query], state)
        scores = metric.score(state, torch.arange(30), np.array([0, 30]), users)
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    """A vector of the wrong length and columns of the wrong width name the two sizes."""
    metric = mlp_metric()
    index = random_index(metric, 20)
    with pytest.raises(InvalidQuery, match="3 dimensions, the metric 12"):
        metric.encode_users([Query(vector=np.zeros(3, dtype=np.float32))], index.state)
    with pytest.raises(InvalidColumns, match="12 \\+ 4"):
        metric.encode_items(torch.zeros(1, 5), torch.zeros(1, 4))
