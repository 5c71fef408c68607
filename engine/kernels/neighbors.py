"""The arithmetic of building a graph in compiled code: the functions of `engine.neighbors`, on CPUs.

As many threads as torch has, each with a slice of the batch; what is found does not depend on how many.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from engine.index import NO_NEIGHBOR, ItemIndex
from engine.kernels import graph
from engine.neighbors import BEAM, Candidates, Points

_SLICE = 256
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

    def take(products: np.ndarray, start: int, first: int, part: slice) -> None:
        here, block = slice(start + part.start, start + part.stop), slice(first, first + products.shape[1])
        graph.take_nearest(
            products[part], norms[block], used[block], mine[here], first, distances[here], rows[here], sizes[here]
        )

    for start in range(0, len(targets), _TARGETS):
        for first in range(0, len(among), _BLOCK):
            products = (targets[start : start + _TARGETS] @ among[first : first + _BLOCK].T).numpy()
            _shared(partial(take, products, start, first), len(products), _TARGETS // torch.get_num_threads())
    found.distances.add_(targets.square().sum(dim=1)[:, None]).clamp_(min=0)
    return found


def walked(index: ItemIndex, targets: torch.Tensor, count: int) -> Candidates:
    """About the nearest, by a best-first walk."""
    beam = _nothing(len(targets), BEAM * count)
    points, stride = _flat(index.points)
    neighbors, entries, wanted = index.neighbors.numpy(), index.seeds.numpy(), targets.contiguous().numpy()
    rows, distances = beam.rows.numpy(), beam.distances.numpy()

    def walk(part: slice) -> None:
        graph.walk(points, stride, neighbors, entries, wanted[part], distances[part], rows[part])

    _shared(walk, len(targets), _SLICE)
    return Candidates(beam.rows[:, :count], beam.distances[:, :count])


def pruned(points: Points, rows: torch.Tensor, pool: torch.Tensor, degree: int, alpha: float) -> Candidates:
    """Relative neighbourhoods, row by row."""
    found = _nothing(len(rows), degree)
    arrays, wanted, near, factor = _arrays(points), rows.numpy(), pool.contiguous().numpy(), np.float32(alpha)
    links, distances = found.rows.numpy(), found.distances.numpy()

    def prune(part: slice) -> None:
        graph.prune(arrays, wanted[part], near[part], factor, links[part], distances[part])

    _shared(prune, len(rows), _SLICE)
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


def _shared(work: Callable[[slice], None], count: int, at_once: int) -> None:
    """Do ``work`` for all of ``count`` in slices, on as many threads as torch has."""
    slices = [slice(start, min(start + at_once, count)) for start in range(0, count, at_once)]
    threads = min(len(slices), torch.get_num_threads())
    if threads <= 1:
        for part in slices:
            work(part)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="graph") as pool:
        for _ in pool.map(work, slices):
            pass
