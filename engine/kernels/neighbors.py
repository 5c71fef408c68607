"""The arithmetic of building a graph in compiled code: the functions of `engine.neighbors`, on CPUs.

As many threads as torch has, each with a slice of the batch; what is found does not depend on how many.
"""

import numpy as np
import torch

from engine.index import NO_NEIGHBOR, ItemIndex
from engine.kernels import graph, linking
from engine.kernels.threads import over_lanes
from engine.neighbors import BEAM, Candidates, Points

_BLOCK = 2048


def exact(
    targets: torch.Tensor, among: torch.Tensor, usable: torch.Tensor, own: torch.Tensor, count: int
) -> Candidates:
    """The nearest of all, by products of a block of points with a chunk of targets that stay in the cache."""
    found = _nothing(len(targets), min(count, len(among)))
    if found.rows.shape[1] == 0:
        return found
    wanted, mine, sizes = (-2 * targets).numpy(), own.numpy(), np.zeros(len(targets), np.int64)
    rows, distances, used = found.rows.numpy(), found.distances.numpy(), usable.numpy()
    points, width = among.numpy(), targets.shape[1]
    for start in range(0, len(points), _BLOCK):
        part = points[start : start + _BLOCK]
        across = -(-len(part) // graph.BLOCK) * graph.BLOCK
        block, norms = np.zeros((width, across), np.float32), np.full(across, np.inf, np.float32)
        block[:, : len(part)] = part.T
        norms[: len(part)] = np.where(used[start : start + _BLOCK], np.einsum("nd,nd->n", part, part), np.inf)
        over_lanes(graph.take_nearest, len(wanted), wanted, block, norms, mine, start, distances, rows, sizes)
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
    arrays, wanted, near = _arrays(points), rows.numpy(), pool.contiguous().numpy()
    links, distances = found.rows.numpy(), found.distances.numpy()
    over_lanes(linking.prune, len(rows), arrays, wanted, near, np.float32(alpha), links, distances)
    return found


def link_back(
    points: Points, rows: torch.Tensor, adjacency: torch.Tensor, new: torch.Tensor, links: Candidates, alpha: float
) -> None:
    """Row by row, each prunes its links and the nearest of those who chose it."""
    changed, chosen = rows.numpy(), links.rows.numpy()
    places = np.zeros(len(points.place), np.int32)
    places[changed] = np.arange(len(changed))
    counts = np.bincount(places[chosen[chosen != NO_NEIGHBOR]], minlength=len(changed))
    starts = np.concatenate([[0], counts.clip(max=adjacency.shape[1]).cumsum()])
    sources = np.empty(starts[-1], np.int32)
    linking.group(new.numpy(), chosen, links.distances.numpy(), places, starts, sources)
    arrays, mine = _arrays(points), adjacency.numpy()
    over_lanes(linking.link_back, len(changed), arrays, changed, sources, starts, np.float32(alpha), mine)


def linking_to(links: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Row by row."""
    found = torch.empty(len(links), dtype=torch.bool)
    over_lanes(linking.find_linking, len(links), links.numpy(), wanted.numpy(), found.numpy())
    return found


def _nothing(count: int, width: int) -> Candidates:
    return Candidates(torch.full((count, width), NO_NEIGHBOR, dtype=torch.int32), torch.full((count, width), torch.inf))


def _arrays(points: Points) -> linking.Points:
    stored, stride = _flat(points.stored)
    return linking.Points(stored, stride, points.fresh.contiguous().numpy(), points.place.numpy())


def _flat(points: torch.Tensor) -> tuple[np.ndarray, int]:
    """Points float32[n, G] as one flat array and the elements from one row to the next: columns stay where they are."""
    if points.stride(1) != 1:
        points = points.contiguous()
    rows, width = points.shape
    length = (rows - 1) * points.stride(0) + width
    return points.as_strided((length,), (1,)).numpy(), points.stride(0)
