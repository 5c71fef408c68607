"""The frozen reference metric: a fixed ruler for the search, as an adapter of the engine.

    δ(u, v) = out · relu(W2 · relu(W1 · [u; e_v; u∘e_v] + b1) + b2) + Σ_h a_h · (A_v e_h) · e_v

with a = softmax_h((A_q e_v) · (A_k e_h) / 8 + bias_h). Folded: what depends on the user alone becomes matrices of the
lane, keys and values at its admission, W1_v + W1_p·diag(u) in every step, and a pair costs a few small products.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file

from benchmarks import reference_plain as plain
from benchmarks.narrow_state import State
from benchmarks.reference_kernels import HIDDEN, LONGEST, fold_users, hop_pairs, score_pairs
from engine.kernels.hops import HopKernel
from engine.kernels.products import PANEL
from engine.kernels.threads import over_lanes
from engine.metric import Users, for_kernels, pair_arrays, runs_compiled
from engine.query import Query

HISTORY = 20


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

    vectors: float32[lanes, 64], and what they add to the first layer, hidden_bias: float32[lanes, 128]. The layer with
    the user folded in is made anew for every step: to read it, 64 KiB a lane, from beyond the cache takes longer. keys,
    values: float32[lanes, 64 · 32], of a lane with w history items, padded to a multiple of PANEL, the first 64 · w as
    [64, w]; keys_back, values_back: float32[lanes, 32, 64], their transposes. history_bias: float32[lanes, 32], −inf
    for padding. widths: int64[lanes], w.
    """

    vectors: Any
    hidden_bias: Any
    keys: Any
    keys_back: Any
    values: Any
    values_back: Any
    history_bias: Any
    widths: Any


class Layers(NamedTuple):
    """The metric's weights as its kernels read them, or as tensors; a name that ends in ``across`` is a transpose.

    attention: float32[64, 64], keys to queries, scaled. no_bias: zeros.
    """

    pooling: Any
    user: Any
    user_bias: Any
    first_of_user: Any
    first_of_item: Any
    first_of_item_across: Any
    first_of_product: Any
    first_of_product_across: Any
    first_bias: Any
    attention: Any
    attention_across: Any
    value: Any
    value_across: Any
    attention_bias: Any
    second: Any
    second_across: Any
    second_bias: Any
    out: Any
    no_bias: Any

    @classmethod
    def of(cls, weights: dict[str, np.ndarray]) -> "Layers":
        """Those of a ruler."""
        of_user, of_item, of_product = np.split(weights["hidden1_weight"], 3, axis=1)
        attention = weights["attention_query"].T @ weights["attention_key"] / 8
        second, value = weights["hidden2_weight"], weights["attention_value"].T
        arrays = (
            *(weights["pool_logits"].reshape(-1), weights["user_weight"], weights["user_bias"]),
            *(of_user, of_item, of_item.T, of_product, of_product.T, weights["hidden1_bias"]),
            *(attention, attention.T, value.T, value, weights["attention_bias"].reshape(-1)),
            *(second, second.T, weights["hidden2_bias"], weights["out_weight"].reshape(-1)),
            np.zeros(max(HIDDEN, LONGEST)),
        )
        return cls(*(np.ascontiguousarray(array, np.float32) for array in arrays))


class ReferenceMetric:
    """The ruler's δ as a metric of the engine; the items' state is their vectors."""

    kind = "reference"
    bias_width = 0
    compiled = True
    by_item = True
    recordable = True

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self._layers = Layers.of(weights)
        self._moved: dict[torch.device, Layers] = {}
        self.dimensions = len(self._layers.user)

    def item_vectors(self, state: torch.Tensor) -> torch.Tensor:
        """The vectors themselves."""
        return state

    def encode_items(self, vectors: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
        """The vectors themselves."""
        return vectors

    def prior(self, state: torch.Tensor) -> torch.Tensor | None:
        """There is none."""
        return None

    def stored(self, state: torch.Tensor) -> State:
        """What the kernels read the state from."""
        array: np.ndarray = state.numpy()
        return array

    def make_users(self, lanes: int, device: torch.device) -> Users:
        """Columns without a user in any lane."""
        d, w = self.dimensions, LONGEST
        shapes = ((d,), (HIDDEN,), (d * w,), (w, d), (d * w,), (w, d), (w,))
        columns = (torch.zeros(lanes, *shape, device=device) for shape in shapes)
        users: Users = for_kernels(self, ReferenceUsers._make([*columns, torch.full((lanes,), PANEL)]), device)
        return users

    def encode_users(self, queries: Sequence[Query], state: torch.Tensor, users: Users, lanes: np.ndarray) -> None:
        """Fold the histories; the first layer is folded by every step for itself."""
        histories = padded_histories(queries, HISTORY)
        if not runs_compiled(self, state):
            plain.fold_users(state, histories, lanes, self._on(state.device), ReferenceUsers(*users))
            return
        fold_users(0, len(queries), self.stored(state), histories, lanes, self._layers, ReferenceUsers(*users))

    def score(self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor) -> torch.Tensor:
        """δ float32[n, p]."""
        return self._scored(state, rows, users, lanes, derive=False)[0]

    def score_with_tangents(
        self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """δ float32[n, p] and its tangents float32[n, p, 65]."""
        return self._scored(state, rows, users, lanes, derive=True)

    def hop_kernel(self, state: torch.Tensor, users: Users) -> HopKernel | None:
        """Scored by `score_pairs`."""
        return HopKernel(hop_pairs, self.stored(state), (ReferenceUsers(*users), self._layers))

    def _scored(
        self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor, *, derive: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not runs_compiled(self, state):
            layers = self._on(state.device)
            return plain.score_pairs(state, rows, ReferenceUsers(*users), lanes, layers, derive=derive)
        scores, tangents, (_, *pairs) = pair_arrays(state, rows, lanes, derive=derive)
        over_lanes(
            score_pairs, len(rows), self.stored(state), *pairs, (ReferenceUsers(*users), self._layers), scores,
            tangents, derive,
        )  # fmt: skip
        return torch.from_numpy(scores), torch.from_numpy(tangents)

    def _on(self, device: torch.device) -> Layers:
        """The weights on a device, moved there once."""
        if device not in self._moved:
            self._moved[device] = Layers(*(torch.from_numpy(array).to(device) for array in self._layers))
        return self._moved[device]


def padded_histories(queries: Sequence[Query], longest: int) -> np.ndarray:
    """History rows int64[n, longest] of the queries, the newest of each, −1 behind the last."""
    rows, newest = np.full((len(queries), longest), -1), [query.history_rows[:longest] for query in queries]
    rows[np.arange(longest) < np.array(list(map(len, newest)))[:, None]] = np.concatenate(newest)
    return rows
