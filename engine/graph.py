"""The graph over a shard's items: planning what an insert or a delete changes.

Relative-neighbourhood pruning with α > 1 and back-links, as in Vamana (DiskANN, NeurIPS 2019, algorithms 2 and 3);
insertion in batches as in ParlayANN (PPoPP 2024). A plan touches nothing: it returns the
adjacency rows that change, and whoever owns the index writes them.
"""

from collections import Counter
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
    new = nearest.as_rows(rows, index.device)
    old = torch.nonzero(index.versions[: index.rows] > 0)[:, 0]
    old = old[~torch.isin(old, new)]
    every_point = _points_with(index, new, points)
    among_new = nearest.exact(every_point, new, new, params.candidates)
    if len(old) <= params.exact_below:
        among_old = nearest.exact(every_point, new, old, params.candidates)
    else:
        among_old = _without(nearest.walked(index, every_point, new, params.candidates), new)
    # A few of the older rows among the candidates in any case: a batch of near-copies would link to itself only.
    older = among_old.rows[:, : params.candidates // 8]
    candidates = torch.cat([nearest.merged(among_new, among_old, params.candidates).rows, older], dim=1)
    links, distances = _pruned(every_point, new, _without_repeats(candidates), index.degree, params.alpha)
    changed = torch.unique(torch.cat([new, links[links != NO_NEIGHBOR]]))
    adjacency = torch.full((len(changed), index.degree), NO_NEIGHBOR, dtype=torch.int64, device=index.device)
    known = changed < index.rows
    adjacency[known] = index.neighbors[changed[known]].long()
    adjacency[torch.searchsorted(changed, new)] = links
    adjacency = _linked_back(adjacency, changed, every_point, new, links, distances, params)
    _adopt_orphans(adjacency, changed, new, links)
    return _change(changed, adjacency)


def plan_delete(index: ItemIndex, rows: np.ndarray, params: GraphParams) -> GraphChange:
    """Take items out of the graph so that nothing links to them.

    Every row that linked to a deleted one may link to that one's neighbours instead (FreshDiskANN, arXiv 2105.09613,
    algorithm 4), so that no hole is left to walk around; one that is left with none is linked like a new one. The
    deleted rows come back without links.
    """
    gone = nearest.as_rows(rows, index.device)
    losing = torch.nonzero(torch.isin(index.neighbors[: index.rows].long(), gone).any(dim=1))[:, 0]
    losing = losing[~torch.isin(losing, gone)]
    links = torch.full((len(gone) + len(losing), index.degree), NO_NEIGHBOR, dtype=torch.int64, device=index.device)
    for start in range(0, len(losing), _CHUNK):
        chunk = losing[start : start + _CHUNK]
        place = len(gone) + start
        links[place : place + len(chunk)] = _relinked(index, chunk, gone, params)
    bare = losing[(links[len(gone) :] == NO_NEIGHBOR).all(dim=1)]
    if len(bare) == 0:
        return _change(torch.cat([gone, losing]), links)
    return _change(*_reconnected(index, torch.cat([gone, losing]), links, bare, gone, params))


def _change(rows: torch.Tensor, links: torch.Tensor) -> GraphChange:
    return GraphChange(rows.cpu().numpy(), links.cpu().numpy().astype(np.int32))


def _relinked(index: ItemIndex, rows: torch.Tensor, gone: torch.Tensor, params: GraphParams) -> torch.Tensor:
    """New links int64[n, R] for rows that lose some: out of the rest and of the lost ones' own neighbours."""
    mine = index.neighbors[rows].long()
    lost = torch.isin(mine, gone)
    beyond = index.neighbors[mine.clamp(min=0)].long().masked_fill(~lost[:, :, None], NO_NEIGHBOR)
    pool = torch.cat([mine, beyond.reshape(len(rows), -1)], dim=1)
    pool = _without_repeats(pool.masked_fill(torch.isin(pool, gone) | (pool == rows[:, None]), NO_NEIGHBOR))
    distances = nearest.squared_distances(index.points[rows][:, None, :], index.points[pool.clamp(min=0)])[:, 0]
    distances.masked_fill_(pool == NO_NEIGHBOR, torch.inf)
    closest = distances.topk(min(params.candidates, pool.shape[1]), dim=1, largest=False).indices
    return _pruned(index.points, rows, pool.gather(1, closest), index.degree, params.alpha)[0]


def _reconnected(
    index: ItemIndex,
    rows: torch.Tensor,
    links: torch.Tensor,
    bare: torch.Tensor,
    gone: torch.Tensor,
    params: GraphParams,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows int64[t] and their links int64[t, R], with those that lost all they knew linked to the nearest that stay."""
    staying = torch.nonzero(index.versions[: index.rows] > 0)[:, 0]
    staying = staying[~torch.isin(staying, gone)]
    nearby = nearest.exact(index.points, bare, staying, params.candidates)
    chosen, distances = _pruned(index.points, bare, nearby.rows, index.degree, params.alpha)
    changed = torch.unique(torch.cat([rows, chosen[chosen != NO_NEIGHBOR]]))
    adjacency = index.neighbors[changed].long()
    adjacency[torch.searchsorted(changed, rows)] = links
    adjacency[torch.searchsorted(changed, bare)] = chosen
    return changed, _linked_back(adjacency, changed, index.points, bare, chosen, distances, params)


def _linked_back(
    adjacency: torch.Tensor,
    rows: torch.Tensor,
    points: torch.Tensor,
    new: torch.Tensor,
    links: torch.Tensor,
    distances: torch.Tensor,
    params: GraphParams,
) -> torch.Tensor:
    """The adjacency int64[t, R] of ``rows`` int64[t], which are all that was chosen, with links back to who chose them.

    Of the many that may choose the same row in one batch, the nearest are enough.
    """
    source = new.repeat_interleave(links.shape[1])
    target, distance = links.reshape(-1), distances.reshape(-1)
    wanted = target != NO_NEIGHBOR
    source, target, distance = source[wanted], target[wanted], distance[wanted]
    if len(target) == 0:
        return adjacency
    order = torch.sort(distance, stable=True).indices
    order = order[torch.sort(target[order], stable=True).indices]
    chosen, counts = torch.unique_consecutive(target[order], return_counts=True)
    degree = adjacency.shape[1]
    incoming = _grouped(source[order], counts, at_most=max(1, params.candidates - degree))
    places = torch.searchsorted(rows, chosen)
    pool = _without_repeats(torch.cat([adjacency[places], incoming], dim=1))
    adjacency[places] = _pruned(points, chosen, pool, degree, params.alpha)[0]
    return adjacency


def _adopt_orphans(adjacency: torch.Tensor, rows: torch.Tensor, new: torch.Tensor, links: torch.Tensor) -> None:
    """Give every new row that pruning left without a link to it a place with its nearest neighbour, in ``adjacency``.

    What nothing links to can never be found by walking. The place is that of the farthest neighbour's that is linked
    from elsewhere too, or the last one.
    """
    times_linked = Counter(adjacency.reshape(-1).tolist())
    for row, parent in zip(new.tolist(), links[:, 0].tolist(), strict=True):
        if times_linked[row] or parent == NO_NEIGHBOR:
            continue
        mine = adjacency[int(torch.searchsorted(rows, parent))]
        occupants = mine.tolist()
        if NO_NEIGHBOR in occupants:
            place = occupants.index(NO_NEIGHBOR)
        else:
            spare = [place for place, other in enumerate(occupants) if times_linked[other] > 1]
            place = spare[-1] if spare else len(occupants) - 1
        times_linked[occupants[place]] -= 1
        times_linked[row] += 1
        mine[place] = row


def _pruned(
    points: torch.Tensor, rows: torch.Tensor, pool: torch.Tensor, degree: int, alpha: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Up to ``degree`` links of every row out of its pool int64[n, c]: int64[n, degree] with distances, in order."""
    needed = torch.unique(torch.cat([rows, pool.reshape(-1).clamp(min=0)]))
    norms = torch.zeros(len(points), device=points.device)
    norms[needed] = points[needed].square().sum(dim=1)
    links = torch.full((len(rows), degree), NO_NEIGHBOR, dtype=torch.int64, device=points.device)
    distances = torch.full((len(rows), degree), torch.inf, device=points.device)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        kept, far = _pruned_chunk(points, norms, rows[part], pool[part], degree, alpha)
        links[part, : kept.shape[1]], distances[part, : kept.shape[1]] = kept, far
    return links, distances


def _pruned_chunk(
    points: torch.Tensor, norms: torch.Tensor, rows: torch.Tensor, pool: torch.Tensor, degree: int, alpha: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Leave out a candidate when a chosen one is α times closer to it than the row is (relative neighbourhoods).

    Places that stay empty are filled with the nearest that were left out: what is close is what is asked for most.
    """
    block = points[pool.clamp(min=0)]
    to_row = norms[pool.clamp(min=0)] + norms[rows, None] - 2 * torch.bmm(block, points[rows][:, :, None])[:, :, 0]
    to_row = to_row.clamp_(min=0).masked_fill_(pool == NO_NEIGHBOR, torch.inf)
    between = nearest.squared_distances(block, block)
    to_row, order = to_row.sort(dim=1, stable=True)
    pool = pool.gather(1, order)
    which = torch.arange(len(rows), device=points.device)[:, None, None]
    shadow = alpha * alpha * between[which, order[:, :, None], order[:, None, :]] <= to_row[:, None, :]
    present = pool != NO_NEIGHBOR
    chosen = torch.zeros_like(present)
    left_out = ~present
    count = torch.zeros(len(rows), dtype=torch.int64, device=points.device)
    for place in range(pool.shape[1]):
        take = ~left_out[:, place] & (count < degree)
        chosen[:, place] = take
        count += take
        left_out |= take[:, None] & shadow[:, place]
    places = torch.arange(pool.shape[1], device=points.device)
    first = (places + len(places) * (~chosen + 1 * ~present)).argsort(dim=1)[:, :degree].sort(dim=1).values
    return pool.gather(1, first), to_row.gather(1, first)


def _points_with(index: ItemIndex, rows: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """The index's points with those of ``rows`` written over or added."""
    size = max(index.rows, int(rows.max()) + 1 if len(rows) else 0)
    merged = torch.zeros(size, points.shape[1], device=index.device)
    merged[: index.rows] = index.points[: index.rows]
    merged[rows] = points.to(index.device)
    return merged


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


def _grouped(values: torch.Tensor, counts: torch.Tensor, at_most: int) -> torch.Tensor:
    """The first values int64[n] of groups of ``counts``, as one padded row a group: int64[groups, ≤ at_most]."""
    group = torch.arange(len(counts), device=values.device).repeat_interleave(counts)
    place = torch.arange(len(values), device=values.device) - (counts.cumsum(0) - counts)[group]
    kept = place < at_most
    width = min(int(counts.max()), at_most)
    padded = torch.full((len(counts), width), NO_NEIGHBOR, dtype=torch.int64, device=values.device)
    padded[group[kept], place[kept]] = values[kept]
    return padded
