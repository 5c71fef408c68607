"""The learned multi-relational metric (`mlp`): so far its kernel part.

δ(u, v) = log[ Σ_{h ∈ history, h ≠ v} exp(e_v·e_h + β_v + α_h + a[code(h)]) + exp(g_v) ] + ρ·1[v touched, not bought]

Attention of the candidate over the user's history, item by item, beside a popularity prior g: the relevance of item v
for the target behaviour. The change of δ between two items is bounded by the distance of their vectors (the
self-covariant property of GMP-GR, arXiv 2502.11490), which makes a graph built on that distance a
way to walk on.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from engine import tiles
from engine.behavior_codes import BEHAVIOR_CODES, OTHER_ONLY, TARGET_ONLY
from engine.errors import InvalidColumns
from engine.kernels.float_products import QUAD
from engine.kernels.histories import Histories, fold_histories, hop_histories, score_histories
from engine.kernels.hops import HopKernel
from engine.kernels.products import PANEL, padded
from engine.kernels.threads import over_lanes
from engine.metric import (
    Users,
    for_kernels,
    pair_arrays,
    query_vector,
    runs_compiled,
    scores_like,
    with_intercepts,
)
from engine.query import Query

MAX_HISTORY = 127
"""History items that one lane weighs; older ones are left out."""

_LONGEST = MAX_HISTORY + 1
_NO_ROW = -1
_TILES = 8_192
"""Tiles that are scored at once: as many make intermediate results of a quarter of a GiB."""


class MlpUsers(NamedTuple):
    """What the lanes keep of their users, padded to L items that count for nothing: tensors, or arrays for kernels.

    vectors: float32[lanes, L, D padded to PANEL with zeros], e_h. quads: float32[lanes, L / 4, ⌈D / 4⌉, 4, 4], the same
    as `engine.kernels.products.multiply_rows` takes it, for kernels only. biases: float32[lanes, L], α_h + a[code(h)],
    −inf for padding. rows: int64[lanes, L], −1 where there is none. touched: bool[lanes, L], touched by other
    behaviours only. lengths: int64[lanes].
    """

    vectors: Any
    quads: Any
    biases: Any
    rows: Any
    touched: Any
    lengths: Any


class MlpMetric:
    """The learned metric over states [e_v | β_v, α_v, g_v of every behaviour].

    code_bias: float32[3, B]; touched_bonus: scalar; target: which of the B behaviours is recommended for.
    """

    kind = "mlp"
    by_item = True

    def __init__(
        self, dimensions: int, code_bias: np.ndarray, touched_bonus: float, target: int, *, compiled: bool = True
    ) -> None:
        codes, behaviors = code_bias.shape
        if codes != BEHAVIOR_CODES or not 0 <= target < behaviors:
            raise InvalidColumns(f"code_bias {code_bias.shape} does not fit target {target}")
        self.dimensions = dimensions
        self.bias_width = 2 + behaviors
        self.compiled = compiled
        self._code_bias = code_bias[:, target].astype(np.float32)
        self._touched_bonus = float(touched_bonus)
        self._candidate_bias = dimensions
        self._history_bias = dimensions + 1
        self._prior = dimensions + 2 + target

    @property
    def recordable(self) -> bool:
        """Unless a subclass scores in its own way."""
        return scores_like(self, MlpMetric)

    def item_vectors(self, state: torch.Tensor) -> torch.Tensor:
        """The vectors e_v."""
        return state[:, : self.dimensions]

    def encode_items(self, vectors: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
        """Vector and biases side by side, so that a step gathers a pair's item in one read."""
        if vectors.shape[1] != self.dimensions or biases.shape[1] != self.bias_width:
            raise InvalidColumns(
                f"columns are {vectors.shape[1]} + {biases.shape[1]} wide, "
                f"the metric {self.dimensions} + {self.bias_width}"
            )
        return torch.cat([vectors, biases], dim=1)

    def prior(self, state: torch.Tensor) -> torch.Tensor:
        """The popularity prior g_v."""
        return state[:, self._prior]

    def make_users(self, lanes: int, device: torch.device) -> Users:
        """Columns without a history in any lane."""
        users = MlpUsers(
            vectors=torch.zeros(lanes, _LONGEST, padded(self.dimensions, PANEL), device=device),
            quads=torch.zeros(lanes, _LONGEST // QUAD, -(-self.dimensions // QUAD), QUAD, QUAD, device=device),
            biases=torch.full((lanes, _LONGEST), -torch.inf, device=device),
            rows=torch.full((lanes, _LONGEST), _NO_ROW, dtype=torch.int64, device=device),
            touched=torch.zeros(lanes, _LONGEST, dtype=torch.bool, device=device),
            lengths=torch.zeros(lanes, dtype=torch.int64, device=device),
        )
        read: Users = for_kernels(self, users, device)
        return read

    def encode_users(self, queries: Sequence[Query], state: torch.Tensor, users: Users, lanes: np.ndarray) -> None:
        """Look the histories up, newest first; a query's own vector counts as one more item."""
        into = MlpUsers(*users)
        if runs_compiled(self, state):
            self._encode_compiled(queries, state, into, lanes)
        else:
            self._encode_plain(queries, state, into, lanes)

    def score(self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor) -> torch.Tensor:
        """δ float32[n, p]."""
        if runs_compiled(self, state):
            return self._compiled(state, rows, MlpUsers(*users), lanes, derive=False)[0]
        return self._plain(state, rows, MlpUsers(*users), lanes, derive=False)[0]

    def score_with_tangents(
        self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """δ and its tangents: by e_v the mean of the history's vectors by their part in δ, by g_v the prior's part."""
        if runs_compiled(self, state):
            return self._compiled(state, rows, MlpUsers(*users), lanes, derive=True)
        return self._plain(state, rows, MlpUsers(*users), lanes, derive=True)

    def hop_kernel(self, state: torch.Tensor, users: Users) -> HopKernel | None:
        """Scored by `engine.kernels.histories.score_histories`, unless a subclass scores in its own way."""
        return (
            None
            if not scores_like(self, MlpMetric)
            else HopKernel(hop_histories, state.numpy(), self._own(MlpUsers(*users)))
        )

    def _compiled(
        self, state: torch.Tensor, rows: torch.Tensor, users: MlpUsers, lanes: torch.Tensor, *, derive: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scores, tangents, given = pair_arrays(state.contiguous(), rows, lanes, derive=derive)
        over_lanes(score_histories, len(rows), *given, self._own(users), scores, tangents, derive)
        return torch.from_numpy(scores), torch.from_numpy(tangents)

    def _own(self, users: MlpUsers) -> tuple[MlpUsers, int, int, np.float32]:
        """What kernels read beside the state."""
        return users, self.dimensions, self._prior, np.float32(self._touched_bonus)

    def _plain(
        self, state: torch.Tensor, rows: torch.Tensor, users: MlpUsers, lanes: torch.Tensor, *, derive: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One product per tile with its lane's history."""
        cut = tiles.cut(rows)
        parts = zip(torch.split(cut.rows, _TILES), torch.split(lanes[cut.lines], _TILES), strict=True)
        score = partial(self._score_tiles, state, users, derive=derive)
        scores, tangents = zip(*(score(mine, who) for mine, who in parts), strict=True)
        return cut.join(torch.cat(scores), -torch.inf), cut.join(torch.cat(tangents), 0.0)

    def _score_tiles(
        self, state: torch.Tensor, users: MlpUsers, rows: torch.Tensor, lanes: torch.Tensor, *, derive: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """δ float32[m, T] of rows int64[m, T] and, where ``derive``, tangents float32[m, T, S + 1]; else [m, T, 0]."""
        items = state[rows]
        history = users.vectors[lanes, :, : self.dimensions]
        kernel = torch.bmm(items[:, :, : self.dimensions], history.transpose(1, 2))
        kernel += users.biases[lanes, None]
        kernel += items[:, :, self._candidate_bias, None]
        prior = items[:, :, self._prior]
        same = rows[:, :, None] == users.rows[lanes, None]
        tangents = self._tangents(items, kernel, history) if derive else torch.empty(*rows.shape, 0, device=rows.device)
        kernel.masked_fill_(same, -torch.inf)
        peak = torch.maximum(kernel.amax(dim=2), prior)
        total = (kernel - peak[:, :, None]).exp_().sum(dim=2) + (prior - peak).exp()
        touched = (same & users.touched[lanes, None]).any(dim=2)
        return peak + total.log() + self._touched_bonus * touched, tangents

    def _tangents(self, items: torch.Tensor, kernel: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        """float32[m, T, S + 1] at items float32[m, T, S], whose kernel with history float32[m, L, D] is [m, T, L].

        An item does not count for itself, but it does for what is close to it: tangents are those of a neighbour.
        """
        prior = items[:, :, self._prior]
        highest = torch.maximum(kernel.amax(dim=2), prior)
        parts = (kernel - highest[:, :, None]).exp_()
        every = parts.sum(dim=2) + (prior - highest).exp()
        parts /= every[:, :, None]
        gradients = torch.zeros_like(items)
        gradients[:, :, : self.dimensions] = torch.bmm(parts, history)
        gradients[:, :, self._candidate_bias] = parts.sum(dim=2)
        gradients[:, :, self._prior] = 1 - parts.sum(dim=2)
        return with_intercepts(highest + every.log(), gradients, items)

    def _encode_compiled(
        self, queries: Sequence[Query], state: torch.Tensor, users: MlpUsers, lanes: np.ndarray
    ) -> None:
        biases = self._code_bias, self._history_bias
        given = state.numpy(), self._histories(queries), *biases, lanes, users
        fold_histories(0, len(queries), *given)  # on this thread: to wake another takes as long as it would save

    def _encode_plain(self, queries: Sequence[Query], state: torch.Tensor, users: MlpUsers, lanes: np.ndarray) -> None:
        """An own vector stands behind the last row, and zeros behind all."""
        histories = self._histories(queries)
        counts, owns = np.diff(histories.ends, prepend=0), histories.owners >= 0
        lines = np.repeat(np.arange(len(queries)), counts)
        places = np.arange(len(lines)) - np.repeat(histories.ends - counts, counts)
        # In one transfer: lanes, lengths, rows, codes.
        given = np.full((len(queries), 2 + 2 * _LONGEST), _NO_ROW)
        given[:, 0], given[:, 1] = lanes, counts + owns
        given[lines, 2 + places], given[lines, 2 + _LONGEST + places] = histories.rows, histories.codes
        moved = torch.from_numpy(given).to(state.device, non_blocking=True)
        mine, lengths, rows, codes = moved[:, 0], moved[:, 1], *torch.split(moved[:, 2:], _LONGEST, dim=1)
        known, longest = rows != _NO_ROW, int(counts.max())
        code_bias = torch.from_numpy(self._code_bias).to(state.device)
        items = state[rows[:, :longest], : self.dimensions] * known[:, :longest, None]
        users.vectors.index_fill_(0, mine, 0)
        users.vectors[mine, :longest, : self.dimensions] = items
        users.biases[mine] = (state[rows, self._history_bias] + code_bias[codes]).masked_fill(~known, -torch.inf)
        users.rows[mine] = rows
        users.touched[mine] = known & (codes == OTHER_ONLY)
        users.lengths[mine] = lengths
        if owns.any():
            behind = tuple(torch.from_numpy(of[owns]).to(state.device) for of in (lanes, counts))
            users.vectors[(*behind, slice(self.dimensions))] = torch.from_numpy(histories.own).to(state.device)
            users.biases[behind] = code_bias[TARGET_ONLY]

    def _histories(self, queries: Sequence[Query]) -> Histories:
        """Of each query the newest MAX_HISTORY items and, where it has one, its own vector."""
        rows = [query.history_rows[:MAX_HISTORY] for query in queries]
        own = [query_vector(query.vector, self.dimensions) for query in queries if query.vector is not None]
        has_own = np.array([query.vector is not None for query in queries])
        return Histories(
            np.concatenate(rows, dtype=np.int64, casting="unsafe"),
            np.concatenate([query.history_codes[:MAX_HISTORY] for query in queries], dtype=np.int8, casting="unsafe"),
            np.cumsum([len(mine) for mine in rows]),
            np.stack(own) if own else np.zeros((0, self.dimensions), np.float32),
            np.where(has_own, has_own.cumsum() - 1, -1),
        )
