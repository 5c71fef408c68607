"""The frozen reference metric: a fixed ruler for the search, as an adapter of the engine.

    δ(u, v) = out · relu(W2 · relu(W1 · [u; e_v; u∘e_v] + b1) + b2) + Σ_h a_h · (A_v e_h) · e_v

with a = softmax_h((A_q e_v) · (A_k e_h) / 8 + bias_h). Folded: what depends on the user alone becomes one matrix of a
lane, [W1_v + W1_p·diag(u); keys; values] (64 × 192 with its padding), and a pair costs two small products.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from safetensors.numpy import load_file

from engine.kernels.products import ROWS, exp, multiply
from engine.kernels.threads import over_lanes
from engine.metric import Users, pair_arrays
from engine.query import Query

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


class ReferenceUsers(NamedTuple):
    """What the lanes keep of their users.

    operand: float32[lanes, 64, 192]. back: float32[lanes, 192, 64], its transpose. bias: float32[lanes, 128] of the
    first layer. history: float32[lanes, 32], biases of the attention, −inf for padding.
    """

    operand: torch.Tensor
    back: torch.Tensor
    bias: torch.Tensor
    history: torch.Tensor


class ReferenceMetric:
    """The ruler's δ as a metric of the engine; the items' state is their vectors."""

    kind = "reference"
    bias_width = 0
    compiled = True

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self._weights = weights
        self._second = np.ascontiguousarray(weights["hidden2_weight"])
        self._second_transposed = np.ascontiguousarray(self._second.T)
        self._out = np.ascontiguousarray(weights["out_weight"].reshape(-1))
        self.dimensions = weights["user_weight"].shape[0]

    def item_vectors(self, state: torch.Tensor) -> torch.Tensor:
        """The vectors themselves."""
        return state

    def encode_items(self, vectors: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
        """The vectors themselves."""
        return vectors

    def prior(self, state: torch.Tensor) -> torch.Tensor | None:
        """There is none."""
        return None

    def make_users(self, lanes: int, device: torch.device) -> Users:
        """Columns without a user in any lane."""
        shapes = ((self.dimensions, WIDTH), (WIDTH, self.dimensions), (HIDDEN,), (VALUES - KEYS,))
        return ReferenceUsers(*(torch.zeros(lanes, *shape, device=device) for shape in shapes))

    def encode_users(self, queries: Sequence[Query], state: torch.Tensor, users: Users, lanes: Sequence[int]) -> None:
        """Fold everything that does not depend on the item."""
        into = ReferenceUsers(*users)
        w = self._weights
        rows = np.full((len(queries), HISTORY), -1)
        for line, query in enumerate(queries):
            rows[line, : len(query.history_rows)] = query.history_rows[:HISTORY]
        real = rows >= 0
        items = state.numpy()[rows.clip(min=0)]
        pooling = _softmax(np.where(real, w["pool_logits"].reshape(1, -1), -np.inf))
        user = (pooling[:, :, None] * items).sum(1) @ w["user_weight"].T + w["user_bias"]
        of_user, of_item, of_product = np.split(w["hidden1_weight"], 3, axis=1)
        back = np.zeros((len(queries), WIDTH, self.dimensions), np.float32)
        back[:, :HIDDEN] = of_item + of_product * user[:, None, :]
        back[:, KEYS : KEYS + HISTORY] = items @ w["attention_key"].T @ w["attention_query"] / 8
        back[:, VALUES : VALUES + HISTORY] = items @ w["attention_value"].T
        bias = np.full((len(queries), VALUES - KEYS), -np.inf, np.float32)
        bias[:, :HISTORY] = np.where(real, w["attention_bias"].reshape(1, -1), -np.inf)
        into.back.numpy()[lanes] = back
        into.operand.numpy()[lanes] = back.transpose(0, 2, 1)
        into.bias.numpy()[lanes] = user @ of_user.T + w["hidden1_bias"]
        into.history.numpy()[lanes] = bias

    def score(self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor) -> torch.Tensor:
        """δ float32[n, p]."""
        return self._scored(state, rows, users, lanes, derive=False)[0]

    def score_with_tangents(
        self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """δ float32[n, p] and its tangents float32[n, p, 65]."""
        return self._scored(state, rows, users, lanes, derive=True)

    def _scored(
        self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor, *, derive: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scores, tangents, given = pair_arrays(state, rows, lanes, derive=derive)
        columns = tuple(column.numpy() for column in users)
        layers = (self._second, self._second_transposed, self._weights["hidden2_bias"], self._out)
        over_lanes(score_pairs, len(rows), *given, *columns, *layers, scores, tangents, derive)
        return torch.from_numpy(scores), torch.from_numpy(tangents)


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights: np.ndarray = shifted / shifted.sum(axis=1, keepdims=True)
    return weights


@njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "arcp", "nnan"})
def score_pairs(  # type: ignore[no-untyped-def]
    first, last, state, rows, counts, lanes, operands, backs, biases, histories, w2, w2t, b2, out_weight, scores,
    tangents, derive,
):  # fmt: skip
    """Scores and, where ``derive``, tangents, as the kernels of `engine.kernels.scoring` give them."""
    dimensions = state.shape[1]
    x = np.zeros((_TILE, dimensions), np.float32)
    z = np.empty((_TILE, operands.shape[2]), np.float32)
    hidden = np.empty((_TILE, HIDDEN), np.float32)
    second = np.empty((_TILE, SECOND), np.float32)
    d_hidden = np.empty((_TILE, HIDDEN), np.float32)
    g = np.empty((_TILE, dimensions), np.float32)
    weights = np.empty(VALUES - KEYS, np.float32)
    for line in range(first, last):
        lane = lanes[line]
        operand, back = operands[lane], backs[lane]
        for start in range(0, counts[line], _TILE):
            size = min(_TILE, counts[line] - start)
            full = (size + ROWS - 1) // ROWS * ROWS
            for i in range(size):
                row = rows[line, start + i]
                for d in range(dimensions):
                    x[i, d] = state[row, d]
            multiply(x, operand, z, full)
            for i in range(size):
                for j in range(HIDDEN):
                    hidden[i, j] = max(z[i, j] + biases[lane, j], np.float32(0))
            multiply(hidden, w2t, second, full)
            for i in range(size):
                total = np.float32(0)
                for j in range(SECOND):
                    total += max(second[i, j] + b2[j], np.float32(0)) * out_weight[j]
                peak = np.float32(-1e30)
                for h in range(VALUES - KEYS):
                    weights[h] = z[i, KEYS + h] + histories[lane, h]
                    peak = max(peak, weights[h])
                mass = np.float32(0)
                for h in range(VALUES - KEYS):
                    weights[h] = exp(weights[h] - peak)
                    mass += weights[h]
                attention = np.float32(0)
                for h in range(VALUES - KEYS):
                    weights[h] /= mass
                    attention += weights[h] * z[i, VALUES + h]
                scores[line, start + i] = total + attention
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
                    intercept = scores[line, start + i]
                    for d in range(dimensions):
                        tangents[line, start + i, d] = g[i, d]
                        intercept -= g[i, d] * x[i, d]
                    tangents[line, start + i, dimensions] = intercept
