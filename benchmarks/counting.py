"""What a search multiplies: counted where the metric is asked, bounded where rows are chosen.

One multiply-add is one, of bytes or of floats alike; padding, comparisons and exponentials are none.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.depth import rounds_of
from engine.index import ItemIndex
from engine.kernels.tangents import CLUSTER_ROUNDS
from engine.metric import Metric, Users
from engine.query import Answer, Query

_SAMPLE = 16
"""A scan looks at every so many-th block before it looks at all."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Multiply-adds of something: so many, and so many more for each item of the user's history."""

    fixed: int
    each: int

    def of(self, lengths: np.ndarray) -> np.ndarray:
        """int64[n] of users with histories of lengths int64[n]."""
        return self.fixed + self.each * lengths


@dataclass(frozen=True, slots=True)
class MetricCosts:
    """What a metric multiplies to score a pair, for its gradient beside that, and to fold a user.

    longest: history items that it looks at. step: what it multiplies once for all pairs of a user in a step, and once
    more for their gradients.
    """

    pair: Cost
    gradient: Cost
    user: Cost
    longest: int
    step: int = 0

    def lengths(self, queries: Sequence[Query]) -> np.ndarray:
        """int64[n]: history items of each query that count."""
        return np.array([min(len(query.history_rows), self.longest) for query in queries])


class Counting:
    """A metric that counts what it is asked, from any thread: pairs and multiply-adds, int64[lanes] each."""

    def __init__(self, metric: Metric, costs: MetricCosts, lanes: int) -> None:
        self._metric, self._costs = metric, costs
        self._lock = threading.Lock()
        self.kind, self.compiled, self.by_item = metric.kind, metric.compiled, metric.by_item
        self.recordable = False
        self.dimensions, self.bias_width = metric.dimensions, metric.bias_width
        self.pairs, self.multiply_adds, self._lengths = (np.zeros(lanes, np.int64) for _ in range(3))

    def item_vectors(self, state: torch.Tensor) -> torch.Tensor:
        """The metric's own."""
        return self._metric.item_vectors(state)

    def encode_items(self, vectors: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
        """The metric's own: not a part of any search."""
        return self._metric.encode_items(vectors, biases)

    def prior(self, state: torch.Tensor) -> torch.Tensor | None:
        """The metric's own."""
        return self._metric.prior(state)

    def make_users(self, lanes: int, device: torch.device) -> Users:
        """The metric's own."""
        return self._metric.make_users(lanes, device)

    def encode_users(self, queries: Sequence[Query], state: torch.Tensor, users: Users, lanes: np.ndarray) -> None:
        """Counted once for each user."""
        self._lengths[lanes] = self._costs.lengths(queries)
        self.multiply_adds[lanes] += self._costs.user.of(self._lengths[lanes])
        self._metric.encode_users(queries, state, users, lanes)

    def score(self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor) -> torch.Tensor:
        """Counted for each pair."""
        self._count(rows, lanes, self._costs.pair, self._costs.step)
        return self._metric.score(state, rows, users, lanes)

    def score_with_tangents(
        self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Counted for each pair, and once more for its gradient."""
        pair, gradient = self._costs.pair, self._costs.gradient
        self._count(rows, lanes, Cost(pair.fixed + gradient.fixed, pair.each + gradient.each), 2 * self._costs.step)
        return self._metric.score_with_tangents(state, rows, users, lanes)

    def hop_kernel(self, state: torch.Tensor, users: Users) -> None:
        """None: asked each time, so as to count."""

    def _count(self, rows: torch.Tensor, lanes: torch.Tensor, cost: Cost, step: int) -> None:
        mine, counts = lanes.cpu().numpy(), (rows >= 0).sum(dim=1).cpu().numpy()
        with self._lock:
            self.pairs[mine] += counts
            self.multiply_adds[mine] += step + counts * cost.of(self._lengths[mine])


def fewest_bytes(index: ItemIndex, query: Query, answer: Answer) -> int:
    """Bytes that this search cannot but move for itself, on a device: a floor, as `choosing` is of multiply-adds.

    A row's state for every pair and every neighbour that is estimated, each tangent once there and once back, and a
    mark for every row of the catalogue that a far round looks at. What lanes share, the catalogue itself, and what a
    metric keeps of a user are left out.
    """
    params, width = query.params, 4 * index.state.shape[1]
    near, far = _rounds(index, query, answer)
    estimated = near * params.width * index.links.shape[1]
    return answer.evaluations * 3 * width + estimated * (width + 4) + far * index.rows


def choosing(index: ItemIndex, query: Query, answer: Answer) -> int:
    """Multiply-adds of choosing what a search of the engine scored, at most, as its answer does not tell the rounds.

    Every near round estimates all neighbours of ``width`` items; every far one clusters a whole beam of gradients and
    scans the whole catalogue for every cluster. The first step and those that walk choose without products.
    """
    params, width = query.params, index.state.shape[1]
    near, far = _rounds(index, query, answer)
    scan = params.clusters * (index.rows + index.rows // _SAMPLE)
    clustering = (1 + CLUSTER_ROUNDS) * params.clusters * params.beam
    return width * (near * params.width * index.links.shape[1] + far * (scan + clustering))


def _rounds(index: ItemIndex, query: Query, answer: Answer) -> tuple[int, int]:
    """How many rounds were near and how many far, at most."""
    rounds = min(*rounds_of(index, [query]), answer.steps - 1)
    shorter, longer = rounds // 2, -(-rounds // 2)
    return (longer, shorter) if len(query.history_rows) else (shorter, longer)
