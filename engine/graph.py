"""The graph over a shard's items: planning what an insert or a delete changes.

Relative-neighbourhood pruning with α ≥ 1 and back-links, as in Vamana (DiskANN, NeurIPS 2019, algorithms 2 and 3);
insertion in batches as in ParlayANN (PPoPP 2024). A plan touches nothing: it returns the
adjacency rows that change, and whoever owns the index writes them.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from engine import neighbors as plain
from engine.errors import InvalidColumns
from engine.index import NO_NEIGHBOR, ItemIndex
from engine.kernels import neighbors as compiled
from engine.neighbors import Arithmetic, Candidates, Points

_CHUNK = 256


@dataclass(frozen=True, slots=True)
class GraphParams:
    """How a graph is built. Not to be mixed up with how it is searched.

    candidates: nearest rows that a new row chooses its links from. alpha: how much closer to a chosen neighbour than
    to the row itself a candidate must be to be left out. As places are bounded and filled anyway, 1 spreads the links
    most; at 1.2 the nearest take them all, and a walk of the same length found 0.87 instead of 0.98 (39,493 items, 32
    links). exact_below: catalogue size up to which candidates are found by comparing with every row: what that costs
    up to here is what walking would have, and nothing is missed.
    """

    candidates: int = 64
    alpha: float = 1.0
    exact_below: int = 40_000

    def __post_init__(self) -> None:
        """Refuse what no graph can be built with."""
        if self.candidates < 1 or self.alpha < 1:
            raise InvalidColumns(f"candidates {self.candidates} and alpha {self.alpha} must be at least 1")


@dataclass(frozen=True, slots=True)
class GraphChange:
    """Adjacency rows that change: rows int64[n], neighbors int32[n, R] (−1 for empty, nearest first).

    In plans of `engine.relevance` their relevant links instead, int32[n, M], most relevant first.
    """

    rows: np.ndarray
    neighbors: np.ndarray


def plan_insert(index: ItemIndex, rows: np.ndarray, points: torch.Tensor, params: GraphParams) -> GraphChange:
    """Link items into the graph.

    rows: int64[n], distinct: rows of the new items, or of items whose vector changed. points: float32[n, G].
    Returns the adjacency of these rows and of every row that now links back to one of them.
    """
    new = torch.as_tensor(rows, dtype=torch.int64, device=index.device)
    merged = Points.of(index, new, points)
    pool = _candidates(index, merged, new, params)
    links = arithmetic(index).pruned(merged, new, pool, index.degree, params.alpha)
    changed = torch.unique(torch.cat([new, links.rows[links.rows != NO_NEIGHBOR].long()]))
    adjacency = torch.full((len(changed), index.degree), NO_NEIGHBOR, dtype=torch.int32, device=index.device)
    known = changed < index.rows
    adjacency[known] = index.neighbors[changed[known]]
    adjacency[torch.searchsorted(changed, new)] = links.rows
    arithmetic(index).link_back(merged, changed, adjacency, new, links, params.alpha)
    _adopt_orphans(adjacency, changed, new, links.rows[:, 0])
    return GraphChange(changed.cpu().numpy(), adjacency.cpu().numpy())


def plan_delete(index: ItemIndex, rows: np.ndarray, params: GraphParams) -> GraphChange:
    """Take items out of the graph so that nothing links to them.

    Every row that linked to a deleted one may link to that one's neighbours instead (FreshDiskANN, arXiv 2105.09613,
    algorithm 4), so that no hole is left to walk around; one that is left with none is linked like a new one. The
    deleted rows come back without links.
    """
    deleted = torch.as_tensor(rows, dtype=torch.int64, device=index.device)
    # One more than there are rows: NO_NEIGHBOR, −1, looks up the last and is not gone.
    gone = torch.zeros(index.rows + 1, dtype=torch.bool, device=index.device)
    gone[deleted] = True
    linking = arithmetic(index).linking_to(index.neighbors[: index.rows], gone[:-1])
    losing = torch.nonzero(linking & ~gone[:-1])[:, 0]
    changed = torch.cat([deleted, losing])
    links = torch.full((len(changed), index.degree), NO_NEIGHBOR, dtype=torch.int32, device=index.device)
    for start in range(0, len(losing), _CHUNK):
        chunk = losing[start : start + _CHUNK]
        place = len(deleted) + start
        links[place : place + len(chunk)] = _relinked(index, chunk, gone, params)
    bare = losing[(links[len(deleted) :] == NO_NEIGHBOR).all(dim=1)]
    if len(bare):
        changed, links = _reconnected(index, changed, links, bare, gone, params)
    return GraphChange(changed.cpu().numpy(), links.cpu().numpy())


def arithmetic(index: ItemIndex) -> Arithmetic:
    """What plans for this index are computed with: compiled code where its columns lie in the CPU's memory."""
    return cast("Arithmetic", compiled if index.device.type == "cpu" else plain)


def _candidates(index: ItemIndex, points: Points, new: torch.Tensor, params: GraphParams) -> torch.Tensor:
    """Rows int32[n, c] near each of the ``new`` ones, of the batch itself and of those that stood before."""
    count, compute = params.candidates, arithmetic(index)
    everyone = torch.ones(len(new), dtype=torch.bool, device=index.device)
    among_new = compute.exact(points.fresh, points.fresh, everyone, torch.arange(len(new), device=index.device), count)
    batch = torch.cat([new, new.new_full((1,), NO_NEIGHBOR)]).int()
    among_new = Candidates(batch[among_new.rows], among_new.distances)
    standing = (index.versions[: index.rows] > 0) & (points.place[: index.rows] == 0)
    if int(standing.sum()) <= params.exact_below:
        nobody = torch.full_like(new, NO_NEIGHBOR)
        among_old = compute.exact(points.fresh, index.points[: index.rows], standing, nobody, count)
    else:
        among_old = _only(compute.walked(index, points.fresh, count), standing)
    # A few of the older rows among the candidates in any case: a batch of near-copies would link to itself only.
    return torch.cat([_merged(among_new, among_old, count), among_old.rows[:, : count // 8]], dim=1)


def _only(candidates: Candidates, usable: torch.Tensor) -> Candidates:
    """The candidates whose row is ``usable``, bool[rows]."""
    useless = ~usable[candidates.rows]
    return Candidates(
        candidates.rows.masked_fill(useless, NO_NEIGHBOR), candidates.distances.masked_fill(useless, torch.inf)
    )


def _merged(first: Candidates, second: Candidates, count: int) -> torch.Tensor:
    """The rows int32[n, ≤ count] of the nearest of two candidate lists of the same points."""
    distances = torch.cat([first.distances, second.distances], dim=1)
    nearest = distances.topk(min(count, distances.shape[1]), dim=1, largest=False).indices
    return torch.cat([first.rows, second.rows], dim=1).gather(1, nearest)


def _relinked(index: ItemIndex, rows: torch.Tensor, gone: torch.Tensor, params: GraphParams) -> torch.Tensor:
    """New links int32[n, R] for rows that lose some: out of the rest and of the lost ones' own neighbours."""
    mine = index.neighbors[rows]
    beyond = index.neighbors[mine.clamp(min=0)].masked_fill(~gone[mine][:, :, None], NO_NEIGHBOR)
    pool = torch.cat([mine, beyond.reshape(len(rows), -1)], dim=1)
    pool = plain.sorted_rows(pool.masked_fill(gone[pool] | (pool == rows[:, None]), NO_NEIGHBOR))
    distances = plain.squared_distances(index.points[rows][:, None, :], index.points[pool.clamp(min=0)])[:, 0]
    distances.masked_fill_(pool == NO_NEIGHBOR, torch.inf)
    closest = distances.topk(min(params.candidates, pool.shape[1]), dim=1, largest=False).indices
    pool = pool.gather(1, closest)
    return arithmetic(index).pruned(_as_they_are(index), rows, pool, index.degree, params.alpha).rows


def _reconnected(
    index: ItemIndex,
    rows: torch.Tensor,
    links: torch.Tensor,
    bare: torch.Tensor,
    gone: torch.Tensor,
    params: GraphParams,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows int64[t] and their links int32[t, R], with those that lost all they knew linked to the nearest that stay."""
    compute, points = arithmetic(index), _as_they_are(index)
    staying = (index.versions[: index.rows] > 0) & ~gone[:-1]
    nearby = compute.exact(index.points[bare], index.points[: index.rows], staying, bare, params.candidates)
    chosen = compute.pruned(points, bare, nearby.rows, index.degree, params.alpha)
    changed = torch.unique(torch.cat([rows, chosen.rows[chosen.rows != NO_NEIGHBOR].long()]))
    adjacency = index.neighbors[changed]
    adjacency[torch.searchsorted(changed, rows)] = links
    adjacency[torch.searchsorted(changed, bare)] = chosen.rows
    compute.link_back(points, changed, adjacency, bare, chosen, params.alpha)
    return changed, adjacency


def _as_they_are(index: ItemIndex) -> Points:
    return Points.of(index, torch.zeros(0, dtype=torch.int64, device=index.device), index.points[:0])


def _adopt_orphans(adjacency: torch.Tensor, rows: torch.Tensor, new: torch.Tensor, parents: torch.Tensor) -> None:
    """Give every new row that pruning left without a link to it a place with its nearest neighbour, in ``adjacency``.

    What nothing links to can never be found by walking. The place is that of the farthest neighbour's that is linked
    from elsewhere too, or the last one. parents: int32[n], the nearest neighbours, −1 for none.
    """
    # One place before the rows is for NO_NEIGHBOR.
    times_linked = torch.bincount(adjacency.reshape(-1) + 1, minlength=int(rows[-1]) + 2)[1:] if len(rows) else rows
    orphaned = (times_linked[new] == 0) & (parents != NO_NEIGHBOR)
    for row, parent in zip(new[orphaned].tolist(), parents[orphaned].tolist(), strict=True):
        mine = adjacency[int(torch.searchsorted(rows, parent))]
        free = torch.nonzero(mine == NO_NEIGHBOR)[:, 0]
        if len(free):
            place = int(free[0])
        else:
            spare = torch.nonzero(times_linked[mine] > 1)[:, 0]
            place = int(spare[-1]) if len(spare) else len(mine) - 1
            times_linked[mine[place]] -= 1
        times_linked[row] += 1
        mine[place] = row
