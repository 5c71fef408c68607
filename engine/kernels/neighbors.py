"""The arithmetic of building a graph in compiled code: the functions of `engine.neighbors`, on CPUs.

As many threads as torch has, each with a slice of the batch; what is found does not depend on how many.
"""

import numpy as np
import torch

from engine.index import NO_NEIGHBOR, ItemIndex
from engine.kernels import graph
from engine.kernels.threads import over_lanes
from engine.neighbors import BEAM, Candidates, Points

_TARGETS = 256
_BLOCK = 8192


def exact(
    targets: torch.Tensor, among: torch.Tensor, usable: torch.Tensor, own: torch.Tensor, count: int
) -> Candidates:
    """The nearest of all, by products of a block of points with a chunk of targets that stay in the cache."""
    found = _nothing(len(targets), min(count, len(among)))
    if found.rows.shape[1] == 0:
        return found
    rows, distances = found.rows.numpy(), found.distances.numpy()
    sizes, mine, used = np.zeros(len(targets), dtype=np.int64), own.numpy(), usable.numpy()
    norms = among.square().sum(dim=1).numpy()

    def take(first: int, last: int, products: np.ndarray, start: int, column: int) -> None:
        here, block = slice(start + first, start + last), slice(column, column + products.shape[1])
        graph.take_nearest(
            products[first:last],
            norms[block],
            used[block],
            mine[here],
            column,
            distances[here],
            rows[here],
            sizes[here],
        )

    for start in range(0, len(targets), _TARGETS):
        for column in range(0, len(among), _BLOCK):
            products = (targets[start : start + _TARGETS] @ among[column : column + _BLOCK].T).numpy()
            over_lanes(take, len(products), products, start, column)
    found.distances.add_(targets.square().sum(dim=1)[:, None]).clamp_(min=0)
    return found


def walked(index: ItemIndex, targets: torch.Tensor, count: int) -> Candidates:
    """About the nearest, by a best-first walk."""
    beam = _nothing(len(targets), BEAM * count)
    points, stride = _flat(index.points)
    neighbors, entries, wanted = index.neighbors.numpy(), index.seeds.astype(np.int32), targets.contiguous().numpy()
    rows, distances = beam.rows.numpy(), beam.distances.numpy()

    def walk(first: int, last: int) -> None:
        part = slice(first, last)
        graph.walk(points, stride, neighbors, entries, wanted[part], distances[part], rows[part])

    over_lanes(walk, len(targets))
    return Candidates(beam.rows[:, :count], beam.distances[:, :count])


def pruned(points: Points, rows: torch.Tensor, pool: torch.Tensor, degree: int, alpha: float) -> Candidates:
    """Relative neighbourhoods, row by row."""
    found = _nothing(len(rows), degree)
    arrays, wanted, near, factor = _arrays(points), rows.numpy(), pool.contiguous().numpy(), np.float32(alpha)
    links, distances = found.rows.numpy(), found.distances.numpy()

    def prune(first: int, last: int) -> None:
        part = slice(first, last)
        graph.prune(arrays, wanted[part], near[part], factor, links[part], distances[part])

    over_lanes(prune, len(rows))
    return found


def _nothing(count: int, width: int) -> Candidates:
    return Candidates(torch.full((count, width), NO_NEIGHBOR, dtype=torch.int32), torch.full((count, width), torch.inf))


def _arrays(points: Points) -> graph.Points:
    stored, stride = _flat(points.stored)
    return graph.Points(stored, stride, points.fresh.contiguous().numpy(), points.place.numpy())


def _flat(points: torch.Tensor) -> tuple[np.ndarray, int]:
    """Points float32[n, G] as one flat array and the elements from one row to the next: columns stay where they are."""
    if points.stride(1) != 1:
        points = points.contiguous()
    rows, width = points.shape
    length = (rows - 1) * points.stride(0) + width
    return points.as_strided((length,), (1,)).numpy(), points.stride(0)
