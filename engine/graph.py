"""The graph over a shard's items: planning what an insert or a delete changes.

Relative-neighbourhood pruning with α > 1 and back-links, as in Vamana (DiskANN, NeurIPS 2019, algorithms 2 and 3);
insertion in batches as in ParlayANN (PPoPP 2024). A plan touches nothing: it returns the
adjacency rows that change, and whoever owns the index writes them.
"""

from dataclasses import dataclass

import numpy as np
import torch

from engine import neighbors as nearest
from engine.errors import InvalidColumns
from engine.index import NO_NEIGHBOR, ItemIndex

_CHUNK = 256


@dataclass(frozen=True, slots=True)
class GraphParams:
    """How a graph is built. Not to be mixed up with how it is searched.

    candidates: nearest rows that a new row chooses its links from. alpha: how much closer to a chosen neighbour than
    to the row itself a candidate must be to be left out; above 1, so that long links survive. exact_below: catalogue
    size up to which candidates are found by comparing with every row.
    """

    candidates: int = 64
    alpha: float = 1.2
    exact_below: int = nearest.EXACT_BELOW

    def __post_init__(self) -> None:
        """Refuse what no graph can be built with."""
        if self.candidates < 1 or self.alpha < 1:
            raise InvalidColumns(f"candidates {self.candidates} and alpha {self.alpha} must be at least 1")


@dataclass(frozen=True, slots=True)
class GraphChange:
    """Adjacency rows that change: rows int64[n], neighbors int32[n, R] (−1 for empty, nearest first)."""

    rows: np.ndarray
    neighbors: np.ndarray


def plan_insert(index: ItemIndex, rows: np.ndarray, points: torch.Tensor, params: GraphParams) -> GraphChange:
    """Link items into the graph.

    rows: int64[n], distinct: rows of the new items, or of items whose vector changed. points: float32[n, G].
    Returns the adjacency of these rows and of every row that now links back to one of them.
    """
    device = index.device
    new = nearest.as_rows(rows, device)
    old = torch.nonzero(index.versions[: index.rows] > 0)[:, 0]
    old = old[~torch.isin(old, new)]
    every_point = _points_with(index, new, points)
    candidates = nearest.exact(every_point, new, new, params.candidates)
    if len(old) <= params.exact_below:
        others = nearest.exact(every_point, new, old, params.candidates)
    else:
        others = _without(nearest.walked(index, every_point, new, params.candidates), new)
    links = _prune_rows(every_point, new, nearest.merged(candidates, others, params.candidates), index, params)
    back_rows, back_links = _plan_back_links(index, every_point, new, links, params)
    return GraphChange(
        torch.cat([new, back_rows]).cpu().numpy(),
        torch.cat([links, back_links]).cpu().numpy().astype(np.int32),
    )


def plan_delete(index: ItemIndex, rows: np.ndarray, params: GraphParams) -> GraphChange:
    """Take items out of the graph so that nothing links to them.

    Every row that linked to a deleted one may link to that one's neighbours instead (FreshDiskANN, arXiv 2105.09613,
    algorithm 4), so that no hole is left to walk around. The deleted rows come back without links.
    """
    device = index.device
    gone = nearest.as_rows(rows, device)
    adjacency = index.neighbors[: index.rows].long()
    hits = torch.isin(adjacency, gone)
    touched = torch.nonzero(hits.any(dim=1))[:, 0]
    touched = touched[~torch.isin(touched, gone)]
    emptied = torch.full((len(gone), index.degree), NO_NEIGHBOR, dtype=torch.int64, device=device)
    relinked = [_relink(index, chunk, gone, params) for chunk in torch.split(touched, _CHUNK)]
    return GraphChange(
        torch.cat([gone, touched]).cpu().numpy(),
        torch.cat([emptied, *relinked]).cpu().numpy().astype(np.int32),
    )


def _relink(index: ItemIndex, rows: torch.Tensor, gone: torch.Tensor, params: GraphParams) -> torch.Tensor:
    """New links int64[n, R] for rows that lose some: out of the rest and of the lost ones' own neighbours."""
    mine = index.neighbors[rows].long()
    lost = torch.isin(mine, gone)
    beyond = index.neighbors[mine.clamp(min=0)].long().masked_fill(~lost[:, :, None], NO_NEIGHBOR)
    pool = torch.cat([mine, beyond.reshape(len(rows), -1)], dim=1)
    pool = pool.masked_fill(torch.isin(pool, gone) | (pool == rows[:, None]), NO_NEIGHBOR)
    pool = _without_repeats(pool)
    distances = _distances_to(index.points, rows, pool)
    closest = distances.topk(min(params.candidates, pool.shape[1]), dim=1, largest=False)
    return _prune(index.points, pool.gather(1, closest.indices), closest.values, index.degree, params.alpha)


def _plan_back_links(
    index: ItemIndex, points: torch.Tensor, new: torch.Tensor, links: torch.Tensor, params: GraphParams
) -> tuple[torch.Tensor, torch.Tensor]:
    """Link every chosen neighbour back: rows int64[t] outside of ``new`` and their adjacency int64[t, R].

    Links among the new rows stay one-sided: each of them chose from all of the others already.
    """
    source = new.repeat_interleave(links.shape[1])
    target = links.reshape(-1)
    wanted = (target != NO_NEIGHBOR) & ~torch.isin(target, new)
    source, target = source[wanted], target[wanted]
    if len(target) == 0:
        return new[:0], links[:0]
    order = torch.sort(target, stable=True).indices
    source, target = source[order], target[order]
    rows, counts = torch.unique_consecutive(target, return_counts=True)
    incoming = _grouped(source, counts)
    updated = []
    for chunk, added in zip(torch.split(rows, _CHUNK), torch.split(incoming, _CHUNK), strict=True):
        pool = _without_repeats(torch.cat([index.neighbors[chunk].long(), added], dim=1))
        distances = _distances_to(points, chunk, pool)
        closest = distances.topk(min(params.candidates, pool.shape[1]), dim=1, largest=False)
        kept = pool.gather(1, closest.indices)
        updated.append(_prune(points, kept, closest.values, index.degree, params.alpha))
    return rows, torch.cat(updated)


def _prune_rows(
    points: torch.Tensor,
    rows: torch.Tensor,
    candidates: nearest.Candidates,
    index: ItemIndex,
    params: GraphParams,
) -> torch.Tensor:
    pieces = zip(torch.split(candidates.rows, _CHUNK), torch.split(candidates.distances, _CHUNK), strict=True)
    pruned = [_prune(points, *piece, index.degree, params.alpha) for piece in pieces]
    return torch.cat(pruned) if pruned else torch.empty(0, index.degree, dtype=torch.int64, device=rows.device)


def _prune(
    points: torch.Tensor, candidates: torch.Tensor, distances: torch.Tensor, degree: int, alpha: float
) -> torch.Tensor:
    """Choose up to ``degree`` of the candidates int64[n, c], which come nearest first; int64[n, degree].

    A candidate is left out when a chosen one is α times closer to it than the row is; places that stay empty are
    filled with the nearest that were left out, because what is close is what is asked for most.
    """
    of_candidates = points[candidates.clamp(min=0)]
    squared = nearest.squared_distances(of_candidates, of_candidates)
    present = torch.isfinite(distances) & (candidates != NO_NEIGHBOR)
    chosen = torch.zeros_like(present)
    shadowed = ~present
    count = torch.zeros(len(candidates), dtype=torch.int64, device=points.device)
    for place in range(candidates.shape[1]):
        take = ~shadowed[:, place] & (count < degree)
        chosen[:, place] = take
        count += take
        covers = alpha * alpha * squared[:, place] <= distances
        shadowed |= take[:, None] & covers
    rank = torch.arange(candidates.shape[1], device=points.device)
    order = (rank + candidates.shape[1] * (~chosen) + 2 * candidates.shape[1] * (~present)).argsort(dim=1)
    kept = order[:, :degree].sort(dim=1).values
    links = candidates.gather(1, kept).masked_fill(~present.gather(1, kept), NO_NEIGHBOR)
    missing = degree - links.shape[1]
    return torch.nn.functional.pad(links, (0, missing), value=NO_NEIGHBOR) if missing > 0 else links


def _points_with(index: ItemIndex, rows: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """The index's points with those of ``rows`` written over or added."""
    size = max(index.rows, int(rows.max()) + 1 if len(rows) else 0)
    merged = torch.zeros(size, points.shape[1], device=index.device)
    merged[: index.rows] = index.points[: index.rows]
    merged[rows] = points.to(index.device)
    return merged


def _distances_to(points: torch.Tensor, rows: torch.Tensor, pool: torch.Tensor) -> torch.Tensor:
    """‖row − candidate‖² float32[n, c], infinite for empty places."""
    found = nearest.squared_distances(points[rows][:, None, :], points[pool.clamp(min=0)])[:, 0]
    return found.masked_fill(pool == NO_NEIGHBOR, torch.inf)


def _without(candidates: nearest.Candidates, rows: torch.Tensor) -> nearest.Candidates:
    again = torch.isin(candidates.rows, rows)
    return nearest.Candidates(
        candidates.rows.masked_fill(again, NO_NEIGHBOR), candidates.distances.masked_fill(again, torch.inf)
    )


def _without_repeats(pool: torch.Tensor) -> torch.Tensor:
    """Each row of the pool int64[n, c] once, the others −1."""
    ordered = pool.sort(dim=1).values
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return ordered.masked_fill(again, NO_NEIGHBOR)


def _grouped(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Values int64[n], in groups of ``counts``, as one padded row a group: int64[groups, max(counts)]."""
    group = torch.arange(len(counts), device=values.device).repeat_interleave(counts)
    place = torch.arange(len(values), device=values.device) - (counts.cumsum(0) - counts)[group]
    padded = torch.full((len(counts), int(counts.max())), NO_NEIGHBOR, dtype=torch.int64, device=values.device)
    padded[group, place] = values
    return padded
