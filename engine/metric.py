"""Relevance metrics δ(user, item): higher is better.

Everything that depends on the item alone is computed once at ingest, everything that depends on the user alone once at
admission; ``score`` is what remains for a pair.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from engine import tiles
from engine.errors import InvalidColumns, InvalidQuery
from engine.query import Query


class Metric(Protocol):
    """What the search needs to know of a metric. S is the width of a row's state, G of a point of the graph."""

    kind: str
    dimensions: int
    bias_width: int

    def item_vectors(self, state: torch.Tensor) -> torch.Tensor:
        """Points float32[n, G] that the graph is built on (L2), from states float32[n, S]."""

    def encode_items(self, vectors: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
        """States float32[n, S] from vectors float32[n, D] and biases float32[n, bias_width]."""

    def user_vectors(self, user: Any) -> torch.Tensor:
        """Vectors float32[s, D] whose inner product with the item vectors finds seeds for a lane."""

    def encode_users(self, queries: Sequence[Query], state: torch.Tensor) -> list[Any]:
        """Per-lane state of each query; ``state`` float32[rows, S] is the index's, to look history rows up in."""

    def score(
        self, state: torch.Tensor, rows: torch.Tensor, lane_offsets: np.ndarray, users: Sequence[Any]
    ) -> torch.Tensor:
        """Relevance float32[pairs] of rows int64[pairs], grouped by lane: lane_offsets int64[lanes + 1]."""

    def prior(self, state: torch.Tensor) -> torch.Tensor | None:
        """Relevance float32[rows] of every item for a user of whom nothing is known, or None."""


class VectorMetric:
    """Common ground of the metrics that compare one vector of the user with one of the item.

    A user with a history is the mean of their items' vectors.
    """

    bias_width = 0

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions

    def item_vectors(self, state: torch.Tensor) -> torch.Tensor:
        """The vectors themselves."""
        return state

    def encode_items(self, vectors: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
        """The vectors themselves; there are no biases."""
        if vectors.shape[1] != self.dimensions:
            raise InvalidColumns(f"vectors have {vectors.shape[1]} dimensions, the metric {self.dimensions}")
        return vectors

    def user_vectors(self, user: torch.Tensor) -> torch.Tensor:
        """float32[1, D]."""
        return user[None, :]

    def encode_users(self, queries: Sequence[Query], state: torch.Tensor) -> list[torch.Tensor]:
        """One vector float32[D] a query."""
        return [self._user_vector(query, state) for query in queries]

    def prior(self, state: torch.Tensor) -> torch.Tensor | None:
        """Nothing is known of an item but its vector."""
        return None

    def _user_vector(self, query: Query, state: torch.Tensor) -> torch.Tensor:
        if query.vector is not None:
            return query_vector(query.vector, self.dimensions).to(state.device)
        if len(query.history_rows) == 0:
            return torch.zeros(self.dimensions, device=state.device)
        return state[torch.from_numpy(query.history_rows).to(state.device)].mean(dim=0)

    def _products(
        self, state: torch.Tensor, cut: tiles.Tiles, users: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Item tiles float32[tiles, T, D] and their inner products float32[tiles, T] with their lanes' users."""
        items = state[cut.rows]
        operand = torch.zeros(len(cut.lanes), self.dimensions, tiles.operand_length(1), device=state.device)
        operand[:, :, 0] = torch.stack(list(users))[torch.from_numpy(cut.lanes)]
        return items, torch.bmm(items, operand)[:, :, 0]


class InnerProduct(VectorMetric):
    """δ(u, v) = u · v."""

    kind = "inner_product"

    def score(
        self, state: torch.Tensor, rows: torch.Tensor, lane_offsets: np.ndarray, users: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Inner products float32[pairs]."""
        cut = tiles.cut(rows, lane_offsets)
        return cut.join(self._products(state, cut, users)[1])


class L2(VectorMetric):
    """δ(u, v) = −‖u − v‖². The metric under which a graph is walked to insert into it."""

    kind = "l2"

    def score(
        self, state: torch.Tensor, rows: torch.Tensor, lane_offsets: np.ndarray, users: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Negative squared distances float32[pairs]."""
        cut = tiles.cut(rows, lane_offsets)
        items, products = self._products(state, cut, users)
        norms = torch.stack([user.square().sum() for user in users])[torch.from_numpy(cut.lanes)]
        return cut.join(2 * products - items.square().sum(dim=2) - norms[:, None])


def query_vector(vector: np.ndarray, dimensions: int) -> torch.Tensor:
    """A query's own vector as float32[dimensions]; InvalidQuery when it has another shape."""
    if vector.shape != (dimensions,):
        raise InvalidQuery("vector", f"has {vector.size} dimensions, the metric {dimensions}")
    return torch.from_numpy(np.array(vector, dtype=np.float32))
