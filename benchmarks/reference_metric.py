"""The frozen reference metric: a fixed ruler for the search, as an adapter of the engine.

    δ(u, v) = out · relu(W2 · relu(W1 · [u; e_v; u∘e_v] + b1) + b2) + Σ_h a_h · (A_v e_h) · e_v

with a = softmax_h((A_q e_v) · (A_k e_h) / 8 + bias_h). Folded: what depends on the user alone becomes one matrix of a
lane, [W1_v + W1_p·diag(u); keys; values] (64 × 192 with its padding), and a pair costs two small products.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from safetensors.numpy import load_file

from engine.kernels.products import ROWS, exp, multiply

HIDDEN, SECOND, HISTORY, KEYS, VALUES, WIDTH = 128, 64, 20, 128, 160, 192
PAIR_MULTIPLY_ADDS = 64 * (HIDDEN + 2 * HISTORY) + HIDDEN * SECOND + SECOND
"""Of scoring one pair; its gradient costs as many again, less the last layer's."""

_TILE = 64


@dataclass(frozen=True, eq=False)
class Ruler:
    """The metric with its questions and their exact answers.

    vectors: float32[N, 64]. history: int64[Q, 20], most recent first, −1 pads. exact: int64[Q, 50], exact_scores.
    """

    vectors: np.ndarray
    history: np.ndarray
    exact: np.ndarray
    exact_scores: np.ndarray
    weights: dict[str, np.ndarray]

    @classmethod
    def load(cls, folder: Path) -> "Ruler":
        """Read a folder with reference.safetensors."""
        tensors = load_file(folder / "reference.safetensors")
        vectors = np.ascontiguousarray(tensors.pop("item_vectors"), dtype=np.float32)
        history = tensors.pop("query_history").astype(np.int64)
        exact, scores = tensors.pop("exact_top50").astype(np.int64), tensors.pop("exact_scores")
        return cls(vectors, history, exact, scores, {name: value.astype(np.float32) for name, value in tensors.items()})


@dataclass(frozen=True, eq=False)
class Users:
    """Lanes' users.

    operand: float32[n, 64, 192], back: float32[n, 192, 64], bias: float32[n, 128], history: float32[n, 32].
    """

    operand: np.ndarray
    back: np.ndarray
    bias: np.ndarray
    history: np.ndarray


def fold(ruler: Ruler, history: np.ndarray) -> Users:
    """Everything of these users, history int64[n, 20], that does not depend on the item."""
    w = ruler.weights
    real = history >= 0
    items = ruler.vectors[history.clip(min=0)]
    pooling = _softmax(np.where(real, w["pool_logits"].reshape(1, -1), -np.inf))
    user = (pooling[:, :, None] * items).sum(1) @ w["user_weight"].T + w["user_bias"]
    n, dimensions = user.shape
    of_user, of_item, of_product = (w["hidden1_weight"][:, i * dimensions : (i + 1) * dimensions] for i in range(3))
    back = np.zeros((n, WIDTH, dimensions), np.float32)
    back[:, :HIDDEN] = of_item + of_product * user[:, None, :]
    back[:, KEYS : KEYS + HISTORY] = items @ w["attention_key"].T @ w["attention_query"] / 8
    back[:, VALUES : VALUES + HISTORY] = items @ w["attention_value"].T
    bias = np.full((n, VALUES - KEYS), -np.inf, np.float32)
    bias[:, :HISTORY] = np.where(real, w["attention_bias"].reshape(1, -1), -np.inf)
    operand = np.ascontiguousarray(back.transpose(0, 2, 1))
    return Users(operand, back, (user @ of_user.T + w["hidden1_bias"]).astype(np.float32), bias)


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "arcp", "nnan"})
def score_lane(vectors, rows, count, operand, back, bias, history, w2, w2t, b2, out_weight, scores, gradients, derive):
    """scores[:count] and, where ``derive``, gradients[:count] of rows[:count] for one lane."""
    dimensions = vectors.shape[1]
    x = np.zeros((_TILE, dimensions), np.float32)
    z = np.empty((_TILE, operand.shape[1]), np.float32)
    hidden = np.empty((_TILE, HIDDEN), np.float32)
    second = np.empty((_TILE, SECOND), np.float32)
    d_hidden = np.empty((_TILE, HIDDEN), np.float32)
    g = np.empty((_TILE, dimensions), np.float32)
    weights = np.empty(VALUES - KEYS, np.float32)
    for start in range(0, count, _TILE):
        size = min(_TILE, count - start)
        full = (size + ROWS - 1) // ROWS * ROWS
        for i in range(size):
            row = rows[start + i]
            for d in range(dimensions):
                x[i, d] = vectors[row, d]
        multiply(x, operand, z, full)
        for i in range(size):
            for j in range(HIDDEN):
                hidden[i, j] = max(z[i, j] + bias[j], np.float32(0))
        multiply(hidden, w2t, second, full)
        for i in range(size):
            total = np.float32(0)
            for j in range(SECOND):
                total += max(second[i, j] + b2[j], np.float32(0)) * out_weight[j]
            peak = np.float32(-1e30)
            for h in range(VALUES - KEYS):
                weights[h] = z[i, KEYS + h] + history[h]
                peak = max(peak, weights[h])
            mass = np.float32(0)
            for h in range(VALUES - KEYS):
                weights[h] = exp(weights[h] - peak)
                mass += weights[h]
            attention = np.float32(0)
            for h in range(VALUES - KEYS):
                weights[h] /= mass
                attention += weights[h] * z[i, VALUES + h]
            scores[start + i] = total + attention
            if derive:
                for h in range(VALUES - KEYS):
                    value = z[i, VALUES + h]
                    z[i, VALUES + h] = weights[h]
                    z[i, KEYS + h] = weights[h] * (value - attention)
                for j in range(SECOND):
                    second[i, j] = out_weight[j] if second[i, j] + b2[j] > 0 else np.float32(0)
        if derive:
            multiply(second, w2, d_hidden, full)
            for i in range(size):
                for j in range(HIDDEN):
                    z[i, j] = d_hidden[i, j] if hidden[i, j] > 0 else np.float32(0)
            multiply(z, back, g, full)
            for i in range(size):
                for d in range(dimensions):
                    gradients[start + i, d] = g[i, d]
