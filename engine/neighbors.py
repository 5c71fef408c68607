"""Nearest neighbours under L2 and the choice of links among them: the arithmetic of building a graph.

In plain torch, on any device. `engine.kernels.neighbors` has the same functions in compiled code, for CPUs.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from engine.index import NO_NEIGHBOR, ItemIndex

BEAM = 2
"""How many times as many rows a walk keeps as are wanted: what it does not find, nothing will link to."""

_CHUNK = 256
_WIDTH = 8


@dataclass(frozen=True, slots=True)
class Candidates:
    """For each point the rows near it, nearest first: rows int32[n, c] (−1: none), squared distances float32[n, c]."""

    rows: torch.Tensor
    distances: torch.Tensor


@dataclass(frozen=True, slots=True)
class Points:
    """The points of an index as they are once a batch is in it, without a copy of those that stay.

    stored: float32[capacity, G]. fresh: float32[n, G]. place: int32[rows], 1 + where in ``fresh`` the row's point is, 0
    for a row of ``stored``.
    """

    stored: torch.Tensor
    fresh: torch.Tensor
    place: torch.Tensor

    @classmethod
    def of(cls, index: ItemIndex, rows: torch.Tensor, fresh: torch.Tensor) -> "Points":
        """Those of the index with ``fresh`` float32[n, G] at the ``rows`` int64[n]."""
        size = max(index.rows, int(rows.max()) + 1 if len(rows) else 0)
        place = torch.zeros(size, dtype=torch.int32, device=index.device)
        place[rows] = torch.arange(1, len(rows) + 1, dtype=torch.int32, device=index.device)
        return cls(index.points, fresh.to(index.device), place)

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """float32[..., G] of rows int[...]; what −1 gives means nothing."""
        place = self.place[rows.clamp(min=0)]
        found = self.stored[rows.clamp(min=0, max=len(self.stored) - 1)]
        found[place > 0] = self.fresh[place[place > 0] - 1]
        return found


class Arithmetic(Protocol):
    """What a graph is built with: this module, or `engine.kernels.neighbors`."""

    def exact(
        self, targets: torch.Tensor, among: torch.Tensor, usable: torch.Tensor, own: torch.Tensor, count: int
    ) -> Candidates:
        """See `exact`."""

    def walked(self, index: ItemIndex, targets: torch.Tensor, count: int) -> Candidates:
        """See `walked`."""

    def pruned(self, points: Points, rows: torch.Tensor, pool: torch.Tensor, degree: int, alpha: float) -> Candidates:
        """See `pruned`."""

    def linking_to(self, links: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """See `linking_to`."""

    def link_back(
        self,
        points: Points,
        rows: torch.Tensor,
        adjacency: torch.Tensor,
        new: torch.Tensor,
        links: Candidates,
        alpha: float,
    ) -> None:
        """See `link_back`."""


def linking_to(links: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """bool[rows]: which rows of links int32[rows, R], −1 for none, link to a wanted one, bool[rows]."""
    return (wanted[links.clamp(min=0)] & (links != NO_NEIGHBOR)).any(dim=1)


def squared_distances(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """‖a − b‖² float32[..., n, m] of points float32[..., n, G] and float32[..., m, G]; never negative."""
    products = left @ right.transpose(-1, -2)
    norms = left.square().sum(-1)[..., :, None] + right.square().sum(-1)[..., None, :]
    return (norms - 2 * products).clamp_(min=0)


def exact(
    targets: torch.Tensor, among: torch.Tensor, usable: torch.Tensor, own: torch.Tensor, count: int
) -> Candidates:
    """The ``count`` nearest of ``among`` for each target, by comparing every pair.

    targets: float32[n, G]. among: float32[m, G], of which those that are ``usable`` (bool[m]) count. own: int64[n], the
    row of ``among`` that is the target itself and does not count, −1 for none.
    """
    found = []
    for chunk, mine in zip(torch.split(targets, _CHUNK), torch.split(own, _CHUNK), strict=True):
        distances = squared_distances(chunk, among).masked_fill_(~usable, torch.inf)
        itself = torch.nonzero(mine >= 0)[:, 0]
        distances[itself, mine[itself]] = torch.inf
        nearest = distances.topk(min(count, len(among)), dim=1, largest=False)
        found.append(Candidates(_present(nearest.indices, nearest.values), nearest.values))
    return _joined(found)


def walked(index: ItemIndex, targets: torch.Tensor, count: int) -> Candidates:
    """About the ``count`` nearest linked rows for each target float32[n, G], by a best-first walk from the seeds."""
    return _joined([_walked(index, chunk, count) for chunk in torch.split(targets, _CHUNK)])


def pruned(points: Points, rows: torch.Tensor, pool: torch.Tensor, degree: int, alpha: float) -> Candidates:
    """Up to ``degree`` links of every row int64[n] out of its pool int32[n, c] (−1: none): n lists, ``degree`` wide.

    A candidate is left out when a chosen one is α times closer to it than the row is (relative neighbourhoods). Places
    that stay empty are filled with the nearest that were left out: what is close is what is asked for most. Repeats
    in a pool count once, the row itself never.
    """
    parts = zip(torch.split(rows, _CHUNK), torch.split(pool, _CHUNK), strict=True)
    return _joined([_pruned(points, mine, near, degree, alpha) for mine, near in parts])


def link_back(
    points: Points, rows: torch.Tensor, adjacency: torch.Tensor, new: torch.Tensor, links: Candidates, alpha: float
) -> None:
    """In the adjacency int32[t, R] of ``rows`` int64[t], all that the ``new`` int64[n] chose link back to them.

    Each chooses anew among what it links to and those that chose it. Of the many that may choose the same row in one
    batch, the nearest R are enough.
    """
    wanted = links.rows != NO_NEIGHBOR
    source = new.int()[:, None].expand_as(wanted)[wanted]
    target, distance = links.rows[wanted], links.distances[wanted]
    if len(target) == 0:
        return
    order = torch.sort(distance, stable=True).indices
    order = order[torch.sort(target[order], stable=True).indices]
    chosen, counts = torch.unique_consecutive(target[order].long(), return_counts=True)
    places, degree = torch.searchsorted(rows, chosen), adjacency.shape[1]
    pool = torch.cat([adjacency[places], _grouped(source[order], counts, at_most=degree)], dim=1)
    adjacency[places] = pruned(points, chosen, pool, degree, alpha).rows


def sorted_rows(pool: torch.Tensor) -> torch.Tensor:
    """Each row of the pool int[n, c] once, −1 for the others, highest first, no wider than needed."""
    ordered = pool.sort(dim=1, descending=True).values
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    ordered = ordered.masked_fill_(again, NO_NEIGHBOR).sort(dim=1, descending=True).values
    width = int((ordered != NO_NEIGHBOR).sum(dim=1).max()) if len(ordered) else 0
    return ordered[:, : max(1, width)]


def _walked(index: ItemIndex, targets: torch.Tensor, count: int) -> Candidates:
    """All targets at once, hop by hop. What a beam gave up is no better when it comes again."""
    points = index.points
    beam = max(BEAM * count, _WIDTH)
    lanes = torch.arange(len(targets), device=targets.device)[:, None]
    rows = torch.from_numpy(index.seeds).to(index.device, torch.int32).repeat(len(targets), 1)
    distances = (points[rows] - targets[:, None]).square().sum(dim=2)
    expanded = torch.zeros_like(rows, dtype=torch.bool)
    while True:
        waiting = distances.masked_fill(expanded, torch.inf)
        best = waiting.topk(min(_WIDTH, rows.shape[1]), dim=1, largest=False)
        if not torch.isfinite(best.values).any():
            return Candidates(rows[:, :count], distances[:, :count])
        expanded[lanes, best.indices] = True
        parents = rows.gather(1, best.indices).clamp(min=0)
        found = index.neighbors[parents].masked_fill(torch.isinf(best.values)[:, :, None], NO_NEIGHBOR)
        found = sorted_rows(found.reshape(len(targets), -1))
        known = (found[:, :, None] == rows[:, None, :]).any(dim=2)
        beyond = (points[found.clamp(min=0)] - targets[:, None]).square().sum(dim=2)
        beyond.masked_fill_(known | (found == NO_NEIGHBOR), torch.inf)
        distances, order = torch.cat([distances, beyond], dim=1).sort(dim=1, stable=True)
        distances, order = distances[:, :beam], order[:, :beam]
        rows = _present(torch.cat([rows, found], dim=1).gather(1, order), distances)
        expanded = torch.cat([expanded, torch.zeros_like(known)], dim=1).gather(1, order)


def _pruned(points: Points, rows: torch.Tensor, pool: torch.Tensor, degree: int, alpha: float) -> Candidates:
    pool = sorted_rows(pool.masked_fill(pool == rows[:, None], NO_NEIGHBOR)).flip(1)
    block = points[pool]
    to_row = (block - points[rows][:, None]).square().sum(dim=2).masked_fill_(pool == NO_NEIGHBOR, torch.inf)
    to_row, order = to_row.sort(dim=1, stable=True)
    pool, block = pool.gather(1, order), block.gather(1, order[:, :, None].expand_as(block))
    shadow = alpha * alpha * squared_distances(block, block) <= to_row[:, None, :]
    present = pool != NO_NEIGHBOR
    chosen, left_out = torch.zeros_like(present), ~present
    count = torch.zeros(len(rows), dtype=torch.int64, device=pool.device)
    for place in range(pool.shape[1]):
        take = ~left_out[:, place] & (count < degree)
        chosen[:, place] = take
        count += take
        left_out |= take[:, None] & shadow[:, place]
    places = torch.arange(pool.shape[1], device=pool.device)
    first = (places + len(places) * (~chosen + 1 * ~present)).argsort(dim=1)[:, :degree].sort(dim=1).values
    empty = (0, degree - first.shape[1])
    links = torch.nn.functional.pad(pool.gather(1, first), empty, value=NO_NEIGHBOR)
    return Candidates(links, torch.nn.functional.pad(to_row.gather(1, first), empty, value=torch.inf))


def _grouped(values: torch.Tensor, counts: torch.Tensor, at_most: int) -> torch.Tensor:
    """The first values int32[n] of groups of ``counts``, as one padded row a group: int32[groups, ≤ at_most]."""
    group = torch.arange(len(counts), device=values.device).repeat_interleave(counts)
    place = torch.arange(len(values), device=values.device) - (counts.cumsum(0) - counts)[group]
    kept = place < at_most
    width = min(int(counts.max()), at_most)
    padded = torch.full((len(counts), width), NO_NEIGHBOR, dtype=values.dtype, device=values.device)
    padded[group[kept], place[kept]] = values[kept]
    return padded


def _present(rows: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
    """The rows as int32, −1 where there is no distance."""
    return rows.to(torch.int32).masked_fill_(torch.isinf(distances), NO_NEIGHBOR)


def _joined(parts: list[Candidates]) -> Candidates:
    """The candidates of one chunk of points after the other."""
    return Candidates(torch.cat([part.rows for part in parts]), torch.cat([part.distances for part in parts]))
