"""The learned multi-relational metric (`mlp`): so far its kernel part.

δ(u, v) = log[ Σ_{h ∈ history, h ≠ v} exp(e_v·e_h + β_v + α_h + a[code(h)]) + exp(g_v) ] + ρ·1[v touched, not bought]

Attention of the candidate over the user's history, item by item, beside a popularity prior g: the relevance of item v
for the target behaviour. The change of δ between two items is bounded by the distance of their vectors (the
self-covariant property of GMP-GR, arXiv 2502.11490), which makes a graph built on that distance a
way to walk on.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine import tiles
from engine.behavior_codes import BEHAVIOR_CODES, OTHER_ONLY, TARGET_ONLY
from engine.errors import InvalidColumns
from engine.metric import query_vector
from engine.query import Query

MAX_HISTORY = 128
"""History items that one lane weighs; older ones are left out."""

_NO_ROW = -1


@dataclass(frozen=True, slots=True)
class LaneUser:
    """What a lane keeps of its user, padded to L rows that count for nothing.

    vectors: float32[L, D], e_h. biases: float32[L], α_h + a[code(h)], −inf for padding. rows: int64[L], −1 where
    there is none. touched: bool[L], touched by other behaviours only.
    """

    vectors: torch.Tensor
    biases: torch.Tensor
    rows: torch.Tensor
    touched: torch.Tensor
    length: int


class MlpMetric:
    """The learned metric over states [e_v | β_v, α_v, g_v of every behaviour].

    code_bias: float32[3, B]; touched_bonus: scalar; target: which of the B behaviours is recommended for.
    """

    kind = "mlp"

    def __init__(self, dimensions: int, code_bias: np.ndarray, touched_bonus: float, target: int) -> None:
        codes, behaviors = code_bias.shape
        if codes != BEHAVIOR_CODES or not 0 <= target < behaviors:
            raise InvalidColumns(f"code_bias {code_bias.shape} does not fit target {target}")
        self.dimensions = dimensions
        self.bias_width = 2 + behaviors
        self._code_bias = torch.from_numpy(code_bias[:, target].astype(np.float32))
        self._touched_bonus = float(touched_bonus)
        self._candidate_bias = dimensions
        self._history_bias = dimensions + 1
        self._prior = dimensions + 2 + target

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

    def user_vectors(self, user: LaneUser) -> torch.Tensor:
        """One vector a history item: nearly all of what is relevant is close to one of them."""
        return user.vectors[torch.isfinite(user.biases)]

    def encode_users(self, queries: Sequence[Query], state: torch.Tensor) -> list[LaneUser]:
        """Look the histories up and pad them."""
        return [self._encode_user(query, state) for query in queries]

    def prior(self, state: torch.Tensor) -> torch.Tensor:
        """The popularity prior g_v."""
        return state[:, self._prior]

    def score(
        self, state: torch.Tensor, rows: torch.Tensor, lane_offsets: np.ndarray, users: Sequence[LaneUser]
    ) -> torch.Tensor:
        """δ float32[pairs]: one product per tile with its lane's history."""
        cut = tiles.cut(rows, lane_offsets)
        scores = torch.empty(cut.rows.shape, device=state.device)
        by_length: dict[int, list[int]] = defaultdict(list)
        for tile, lane in enumerate(cut.lanes):
            by_length[users[lane].length].append(tile)
        for members in by_length.values():
            lane_users = [users[cut.lanes[tile]] for tile in members]
            which = torch.tensor(members, device=state.device)
            scores[which] = self._score_tiles(state, cut.rows[which], lane_users)
        return cut.join(scores)

    def _score_tiles(self, state: torch.Tensor, rows: torch.Tensor, users: Sequence[LaneUser]) -> torch.Tensor:
        """δ float32[m, T] of rows int64[m, T]; every user's operand has the same length."""
        items = state[rows]
        history = torch.stack([user.vectors for user in users])
        history_rows = torch.stack([user.rows for user in users])
        kernel = torch.bmm(items[:, :, : self.dimensions], history.transpose(1, 2))
        kernel += torch.stack([user.biases for user in users])[:, None, :]
        same = rows[:, :, None] == history_rows[:, None, :]
        kernel.masked_fill_(same, -torch.inf)
        kernel += items[:, :, self._candidate_bias, None]
        prior = items[:, :, self._prior]
        peak = torch.maximum(kernel.amax(dim=2), prior)
        total = (kernel - peak[:, :, None]).exp_().sum(dim=2) + (prior - peak).exp()
        touched = (same & torch.stack([user.touched for user in users])[:, None, :]).any(dim=2)
        return peak + total.log() + self._touched_bonus * touched

    def _encode_user(self, query: Query, state: torch.Tensor) -> LaneUser:
        rows = torch.from_numpy(query.history_rows[:MAX_HISTORY]).to(state.device)
        codes = torch.from_numpy(query.history_codes[:MAX_HISTORY].astype(np.int64))
        vectors = state[rows, : self.dimensions]
        biases = state[rows, self._history_bias] + self._code_bias[codes].to(state.device)
        if query.vector is not None:
            own = query_vector(query.vector, self.dimensions).to(state.device)
            vectors = torch.cat([vectors, own[None, :]])
            biases = torch.cat([biases, self._code_bias[TARGET_ONLY].to(state.device)[None]])
        length = tiles.operand_length(len(vectors))
        padding = length - len(vectors)
        unknown = length - len(rows)
        return LaneUser(
            vectors=torch.nn.functional.pad(vectors, (0, 0, 0, padding)),
            biases=torch.nn.functional.pad(biases, (0, padding), value=-torch.inf),
            rows=torch.nn.functional.pad(rows, (0, unknown), value=_NO_ROW),
            touched=torch.nn.functional.pad((codes == OTHER_ONLY).to(state.device), (0, unknown)),
            length=length,
        )
