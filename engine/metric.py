"""Relevance metrics δ(user, item): higher is better.

Everything that depends on the item alone is computed once at ingest, everything that depends on the user alone once at
admission; ``score`` is what remains for a pair.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from engine import tiles
from engine.columns import read_each, write
from engine.errors import InvalidColumns, InvalidQuery
from engine.kernels.hops import HopKernel
from engine.kernels.scoring import hop_vectors, score_vectors
from engine.kernels.threads import over_lanes
from engine.query import Query

Users = tuple[Any, ...]
"""Columns over lanes: what a metric keeps of the user in each lane, as it wants it: nobody else looks inside."""


class Metric(Protocol):
    """What the search needs to know of a metric. S is the width of a row's state, G of a point of the graph.

    compiled: score in compiled code where the state is on the CPU; the plain torch path elsewhere, and as a reference.
    by_item: what is best for a user is among what is best for somebody who knows one of their items alone, as where the
    closest item counts. Not where an average does: that lies between the items.
    recordable: `score` and `score_with_tangents` may be recorded on a GPU and replayed, since they ask it for no value
    and look at nothing but their arguments and the metric's own tensors. For who says so and does, a search fails.
    """

    kind: str
    dimensions: int
    bias_width: int
    compiled: bool
    by_item: bool

    @property
    def recordable(self) -> bool:
        """See above."""

    def item_vectors(self, state: torch.Tensor) -> torch.Tensor:
        """Points float32[n, G] that the graph is built on (L2), from states float32[n, S]."""

    def encode_items(self, vectors: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
        """States float32[n, S] from vectors float32[n, D] and biases float32[n, bias_width]."""

    def make_users(self, lanes: int, device: torch.device) -> Users:
        """Columns for so many lanes, without a user in any."""

    def encode_users(self, queries: Sequence[Query], state: torch.Tensor, users: Users, lanes: np.ndarray) -> None:
        """Write the user of each query into its lane of int64[n]; ``state`` is the index's, to look history up in."""

    def score(self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor) -> torch.Tensor:
        """Relevance float32[n, p] of rows int64[n, p] for lanes int64[n]; −1, behind the others, is no row: −inf."""

    def score_with_tangents(
        self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, and tangents float32[n, p, S + 1]: the gradient by the row's state, and an intercept.

        A row of state s near by is worth about gradient · s + intercept.
        """

    def hop_kernel(self, state: torch.Tensor, users: Users) -> HopKernel | None:
        """How compiled code scores for a compiled metric; None for a metric that is to be asked each time."""

    def prior(self, state: torch.Tensor) -> torch.Tensor | None:
        """Relevance float32[rows] of every item for a user of whom nothing is known, or None."""


class VectorUsers(NamedTuple):
    """What the lanes keep of their users: vectors float32[lanes, D], a tensor, or an array for kernels."""

    vectors: Any


class VectorMetric:
    """Common ground of the metrics that compare one vector of the user with one of the item.

    A user with a history is the mean of their items' vectors.
    """

    bias_width = 0
    by_item = False
    squared = False
    kind: str

    def __init__(self, dimensions: int, *, compiled: bool = True) -> None:
        self.dimensions = dimensions
        self.compiled = compiled

    @property
    def recordable(self) -> bool:
        """Unless a subclass scores in its own way."""
        return scores_like(self, VectorMetric)

    def item_vectors(self, state: torch.Tensor) -> torch.Tensor:
        """The vectors themselves."""
        return state

    def encode_items(self, vectors: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
        """The vectors themselves; there are no biases."""
        if vectors.shape[1] != self.dimensions:
            raise InvalidColumns(f"vectors have {vectors.shape[1]} dimensions, the metric {self.dimensions}")
        return vectors

    def make_users(self, lanes: int, device: torch.device) -> Users:
        """One vector a lane."""
        users: Users = for_kernels(self, VectorUsers(torch.zeros(lanes, self.dimensions, device=device)), device)
        return users

    def encode_users(self, queries: Sequence[Query], state: torch.Tensor, users: Users, lanes: np.ndarray) -> None:
        """Write each query's vector into its lane."""
        own = map(_mean, read_each(state, [query.history_rows for query in queries if query.vector is None]))
        vectors = [
            next(own) if query.vector is None else query_vector(query.vector, self.dimensions) for query in queries
        ]
        write(users[0], lanes, np.array(vectors))

    def score(self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor) -> torch.Tensor:
        """Relevance float32[n, p]."""
        if runs_compiled(self, state):
            return self._compiled(state, rows, users, lanes, derive=False)[0]
        cut = tiles.cut(rows)
        return cut.join(self._score_tiles(state[cut.rows], users[0][lanes[cut.lines]]), -torch.inf)

    def score_with_tangents(
        self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Relevance and its tangents."""
        if runs_compiled(self, state):
            return self._compiled(state, rows, users, lanes, derive=True)
        own, items = users[0][lanes][:, None, :].expand(*rows.shape, -1), state[rows.clamp(min=0)]
        scores = self.score(state, rows, users, lanes)
        return scores, with_intercepts(scores, 2 * (own - items) if self.squared else own, items)

    def hop_kernel(self, state: torch.Tensor, users: Users) -> HopKernel | None:
        """Scored by `engine.kernels.scoring.score_vectors`, unless a subclass scores in its own way."""
        return None if not scores_like(self, VectorMetric) else HopKernel(hop_vectors, state.numpy(), self._own(users))

    def prior(self, state: torch.Tensor) -> torch.Tensor | None:
        """Nothing is known of an item but its vector."""
        return None

    def _score_tiles(self, items: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
        """float32[tiles, T] of items float32[tiles, T, D] for users float32[tiles, D]."""
        operand = torch.zeros(len(items), self.dimensions, tiles.OPERAND_COLUMNS, device=items.device)
        operand[:, :, 0] = users
        products = torch.bmm(items, operand)[:, :, 0]
        if not self.squared:
            return products
        return 2 * products - items.square().sum(dim=2) - users.square().sum(dim=1)[:, None]

    def _compiled(
        self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor, *, derive: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scores, tangents, given = pair_arrays(state, rows, lanes, derive=derive)
        over_lanes(score_vectors, len(rows), *given, self._own(users), scores, tangents, derive)
        return torch.from_numpy(scores), torch.from_numpy(tangents)

    def _own(self, users: Users) -> tuple[np.ndarray, bool]:
        """What kernels read beside the state."""
        return users[0], self.squared


class InnerProduct(VectorMetric):
    """δ(u, v) = u · v."""

    kind = "inner_product"


class L2(VectorMetric):
    """δ(u, v) = −‖u − v‖². The metric under which a graph is walked to insert into it."""

    kind = "l2"
    squared = True


def scores_like(metric: Metric, kind: type[Metric]) -> bool:
    """Whether a metric scores as this class does, and not, being of a subclass, in a way of its own."""
    own = type(metric)
    return own.score is kind.score and own.score_with_tangents is kind.score_with_tangents


def runs_compiled(metric: Metric, state: torch.Tensor) -> bool:
    """Whether pairs of this state are scored in compiled code."""
    return metric.compiled and state.device.type == "cpu"


def for_kernels(metric: Metric, users: Any, device: torch.device) -> Any:
    """A named tuple of columns as the metric will read them on a device: tensors, or arrays for compiled code."""
    if not (metric.compiled and device.type == "cpu"):
        return users
    return type(users)(*(column.numpy() for column in users))


def pair_arrays(
    state: torch.Tensor, rows: torch.Tensor, lanes: torch.Tensor, *, derive: bool
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """What every kernel takes: scores to fill, tangents to fill, and (state, rows, lanes)."""
    pairs = rows.numpy()
    scores = np.empty(pairs.shape, np.float32)
    tangents = np.empty((*pairs.shape, state.shape[1] + 1) if derive else (0, 0, 0), np.float32)
    return scores, tangents, (state.numpy(), pairs, lanes.numpy())


def with_intercepts(scores: torch.Tensor, gradients: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Tangents [..., S + 1] of gradients [..., S] at rows of these states [..., S] and scores [...]."""
    return torch.cat([gradients, (scores - (gradients * states).sum(dim=-1))[..., None]], dim=-1)


def _mean(vectors: np.ndarray) -> np.ndarray:
    """float32[D] of vectors float32[n, D]; of none, zeros."""
    mean: np.ndarray = vectors.sum(axis=0) / max(1, len(vectors))
    return mean


def query_vector(vector: np.ndarray, dimensions: int) -> np.ndarray:
    """A query's own vector as float32[dimensions]; InvalidQuery when it has another shape."""
    if vector.shape != (dimensions,):
        raise InvalidQuery("vector", f"has {vector.size} dimensions, the metric {dimensions}")
    return np.asarray(vector, dtype=np.float32)
