"""Nearest neighbours under L2: exact below a size, by walking the graph above it."""

from dataclasses import dataclass

import numpy as np
import torch

from engine.index import ItemIndex
from engine.metric import L2
from engine.query import Query, SearchParams
from engine.search import search

EXACT_BELOW = 50_000
"""Rows up to which comparing with every one is faster than walking."""

_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Candidates:
    """For each point its nearest rows, nearest first: rows int64[n, c] (−1: none), squared distances float32[n, c]."""

    rows: torch.Tensor
    distances: torch.Tensor


def squared_distances(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """‖a − b‖² float32[..., n, m] of points float32[..., n, G] and float32[..., m, G]; never negative."""
    products = left @ right.transpose(-1, -2)
    norms = left.square().sum(-1)[..., :, None] + right.square().sum(-1)[..., None, :]
    return (norms - 2 * products).clamp_(min=0)


def exact(points: torch.Tensor, rows: torch.Tensor, among: torch.Tensor, count: int) -> Candidates:
    """The ``count`` nearest of ``among`` (int64[m]) for each of ``rows`` (int64[n]), itself left out.

    points: float32[rows, G]. Compares every pair, in chunks.
    """
    count = min(count, len(among))
    targets = points[among]
    found_rows, found = [], []
    for chunk in torch.split(rows, _CHUNK):
        distances = squared_distances(points[chunk], targets)
        distances.masked_fill_(chunk[:, None] == among[None, :], torch.inf)
        nearest = distances.topk(count, dim=1, largest=False)
        missing = torch.isinf(nearest.values)
        found_rows.append(among[nearest.indices].masked_fill(missing, -1))
        found.append(nearest.values)
    return Candidates(torch.cat(found_rows), torch.cat(found))


def walked(index: ItemIndex, points: torch.Tensor, rows: torch.Tensor, count: int) -> Candidates:
    """About the ``count`` nearest linked rows for each of ``rows``, by a beam search of the graph under L2.

    points: float32[rows, G], the index's own and those of the rows that are about to join it.
    """
    view = _DistanceView(index)
    params = SearchParams(k=count, beam=2 * count, width=8)
    answers = search(view, [Query(params, vector=points[row].cpu().numpy()) for row in rows])
    found_rows = torch.full((len(rows), count), -1, dtype=torch.int64, device=points.device)
    found = torch.full((len(rows), count), torch.inf, device=points.device)
    for place, answer in enumerate(answers):
        found_rows[place, : len(answer.rows)] = torch.from_numpy(answer.rows)
        found[place, : len(answer.rows)] = torch.from_numpy(-answer.scores)
    return Candidates(found_rows, found)


class _DistanceView(ItemIndex):
    """An index as the walk of an insert sees it: the same graph, under L2 on its points."""

    def __init__(self, index: ItemIndex) -> None:
        points = index.points
        super().__init__(L2(points.shape[1]), index.degree, device=index.device)
        self.rows = index.rows
        self.versions = index.versions
        self.neighbors = index.neighbors
        self.state = points
        self.seeds = index.seeds


def merged(first: Candidates, second: Candidates, count: int) -> Candidates:
    """The ``count`` nearest of two candidate lists of the same points, over disjoint rows."""
    rows = torch.cat([first.rows, second.rows], dim=1)
    distances = torch.cat([first.distances, second.distances], dim=1)
    nearest = distances.topk(min(count, distances.shape[1]), dim=1, largest=False)
    return Candidates(rows.gather(1, nearest.indices), nearest.values)


def as_rows(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Row numbers as int64 on the device."""
    return torch.as_tensor(values, dtype=torch.int64, device=device)
