"""Tangents for a metric that has no gradients: those of a ridge fit to what it said of the rows scored so far.

In every lane relevance is taken for a quadratic of the item's state and fitted to the best rows that the lane has
scored: kernel ridge regression (Saunders, Gammerman and Vovk 1998) under k(x, y) = x·y + c·(x·y)². A plane would give
one direction for all rows and the search would look into the catalogue along nothing else; a quadratic bends, so that
every row has a gradient of its own, at the price of the same one system of equations.
"""

from collections.abc import Sequence

import numpy as np
import torch

from engine import tiles
from engine.metric import Metric, Users, with_intercepts
from engine.query import Query

MEMORY = 256
"""Rows that a lane fits to: the best of those that it has scored. Work grows with the cube of it."""

CURVATURE = 2.0
"""Weight c of the quadratic part, where states are of unit length on average."""

RIDGE = 0.03
"""Penalty on the weights, beside a kernel of about 1 + c on its diagonal."""

_LARGE = 1e30
"""Stands for what is not finite, so that tangents are."""

_NO_ROW = -1


class RidgeTangents:
    """A metric with another's relevance, and tangents fitted to it; the other's own tangents are never asked for.

    Behind its users' columns stand the best rows of each lane, int64[lanes, memory], and their relevance,
    float32[lanes, memory], −1 and −inf in empty places.
    """

    def __init__(self, metric: Metric, memory: int = MEMORY) -> None:
        self.kind = metric.kind
        self.dimensions = metric.dimensions
        self.bias_width = metric.bias_width
        self.compiled = metric.compiled
        self.recordable = False  # what solves equations may ask the device whether it could
        self.by_item = False  # links were made by gradients that are fitted here, to whatever was scored
        self._metric = metric
        self._memory = memory

    def item_vectors(self, state: torch.Tensor) -> torch.Tensor:
        """Points as the metric has them."""
        return self._metric.item_vectors(state)

    def encode_items(self, vectors: torch.Tensor, biases: torch.Tensor) -> torch.Tensor:
        """States as the metric has them."""
        return self._metric.encode_items(vectors, biases)

    def make_users(self, lanes: int, device: torch.device) -> Users:
        """The metric's columns, and the rows that each lane remembers."""
        rows = torch.full((lanes, self._memory), _NO_ROW, dtype=torch.int64, device=device)
        scores = torch.full((lanes, self._memory), -torch.inf, device=device)
        return (*self._metric.make_users(lanes, device), rows, scores)

    def encode_users(self, queries: Sequence[Query], state: torch.Tensor, users: Users, lanes: np.ndarray) -> None:
        """Write each query's user into its lane, which forgets the rows of the one before."""
        *own, rows, scores = users
        self._metric.encode_users(queries, state, tuple(own), lanes)
        rows[list(lanes)] = _NO_ROW
        scores[list(lanes)] = -torch.inf

    def score(self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor) -> torch.Tensor:
        """Relevance float32[n, p], as the metric has it; nothing of it is remembered."""
        return self._metric.score(state, rows, users[:-2], lanes)

    def score_with_tangents(
        self, state: torch.Tensor, rows: torch.Tensor, users: Users, lanes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Relevance and fitted tangents, all finite, each through its row's own relevance; zeros where there is no row.

        Lanes must differ: each remembers its rows from now on.
        """
        scores = self.score(state, rows, users, lanes)
        known, relevance = _remember(rows, scores, users[-2], users[-1], lanes)
        cut = tiles.cut(rows)
        slopes, bends = _fitted(state[known.clamp(min=0)], relevance)
        gradients = cut.join(torch.baddbmm(slopes[cut.lines, None], state[cut.rows], bends[cut.lines]), 0.0)
        tangents = with_intercepts(scores, gradients, state[rows.clamp(min=0)]).nan_to_num(0.0, _LARGE, -_LARGE)
        return scores, tangents.masked_fill_((rows == _NO_ROW)[:, :, None], 0.0)

    def hop_kernel(self, state: torch.Tensor, users: Users) -> None:
        """None: tangents are fitted in torch."""

    def prior(self, state: torch.Tensor) -> torch.Tensor | None:
        """What the metric knows of items alone."""
        return self._metric.prior(state)


def _remember(
    rows: torch.Tensor, scores: torch.Tensor, all_rows: torch.Tensor, all_scores: torch.Tensor, lanes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge rows int64[n, p] of finite scores float32[n, p] into the columns; returns what lanes int64[n] now hold."""
    usable = (rows != _NO_ROW) & scores.isfinite()
    both_scores = torch.cat([all_scores[lanes], scores.masked_fill(~usable, -torch.inf)], dim=1)
    both_rows = torch.cat([all_rows[lanes], rows.masked_fill(~usable, _NO_ROW)], dim=1)
    best = both_scores.sort(dim=1, descending=True, stable=True)
    kept = slice(all_rows.shape[1])
    all_scores[lanes], all_rows[lanes] = best.values[:, kept], both_rows.gather(1, best.indices[:, kept])
    return all_rows[lanes], all_scores[lanes]


def _fitted(states: torch.Tensor, relevance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Slopes float32[n, S] and bends float32[n, S, S] of the quadratics whose gradient at s is slope + bend · s.

    Fitted to states float32[n, M, S] of relevance float32[n, M]; −inf is none and takes no part.
    """
    real = (relevance > -torch.inf).to(states.dtype)
    counts = real.sum(dim=1).clamp(min=1)[:, None, None]
    middles = (states * real[:, :, None]).sum(dim=1, keepdim=True) / counts
    offsets = (states - middles) * real[:, :, None]
    # Equal states differ by rounding, a hair of their length, which must not be blown up to unit length.
    hair = 1e-10 * middles.square().sum(dim=2, keepdim=True)
    scales = (offsets.square().sum(dim=(1, 2), keepdim=True) / counts + hair).sqrt().clamp(min=1 / _LARGE)
    offsets /= scales
    products = torch.bmm(offsets, offsets.transpose(1, 2))
    kernel = torch.addcmul(products, products, products, value=CURVATURE)
    kernel.diagonal(dim1=1, dim2=2).add_(RIDGE)
    targets = torch.stack([relevance.masked_fill(real == 0, 0.0), real], dim=2)
    # By Cholesky: MKL's LU of a batch reported errors and did not return when torch had two threads.
    of_relevance, of_ones = torch.cholesky_solve(targets, torch.linalg.cholesky_ex(kernel).L).chunk(2, dim=2)
    # The intercept is not penalised: it is what leaves weights without a sum.
    intercepts = of_relevance.sum(dim=1, keepdim=True) / of_ones.sum(dim=1, keepdim=True).clamp(min=1 / _LARGE)
    weighted = offsets * ((of_relevance - intercepts * of_ones) / scales)
    bends = 2 * CURVATURE * torch.bmm(weighted.transpose(1, 2), offsets / scales)
    return weighted.sum(dim=1) - torch.bmm(middles, bends)[:, 0], bends
