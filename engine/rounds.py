"""A turn: which rows lanes at one stage score next, and where their scores belong.

*Near*: the graph neighbours of the best, by the first-order estimates of those who know them. *Far*: the rows of the
whole catalogue that lie farthest in the direction of a few middles of the gradients. By turns they find what a walk
alone does not reach, for a fraction of its evaluations.

In torch, on any device, and in Triton where that runs, all lanes in one operation. But for the walk at the end the
host asks for nothing, so a GPU is never waited for, and can record what it does (`engine.recording`).
`engine.kernels.steps` does the same in compiled code, on CPUs. What is chosen is live and unvisited, within the budget,
and visited from then on. The choices return a table int64[n, pairs] of rows to score, −1 behind them.
"""

from typing import NamedTuple

import torch

from engine import gpu_products
from engine.directions import MOST_FLOATS, clustered, farthest
from engine.index import ItemIndex
from engine.kernels.marks import BARRED, VISITED
from engine.kernels.rounds import EXTRA_FOUND
from engine.kernels.stages import BARREN, ENTERED, FAR, FILL, FULL, NEAR, SEEDS
from engine.lanes import NO_ROW, NO_SLOT, Lanes


class Turn(NamedTuple):
    """What each of n lanes is to do, int64[n] each, on the device.

    lanes: who they are. offered: how many of the rows that it was given were chosen from already. wanted: rows that it
    scores at most, and left: those that its budget leaves. evaluations: how many it has scored. floors: of its marks.
    beam, results: how many each keeps. The others as in `engine.lanes.Lanes`.
    """

    lanes: torch.Tensor
    offered: torch.Tensor
    wanted: torch.Tensor
    left: torch.Tensor
    widths: torch.Tensor
    clusters: torch.Tensor
    evaluations: torch.Tensor
    floors: torch.Tensor
    walks: torch.Tensor
    per_group: torch.Tensor
    beam: torch.Tensor
    results: torch.Tensor


class Extent(NamedTuple):
    """What kind of turn it is and how much room it needs: all that the host decides of it, beside the lanes' columns.

    derive: whether tangents are kept. pairs, an even number, parents, clusters, beam, results: columns for the rows to
    score, for those whose neighbours are looked at, for directions, and for what scores are merged into. rows: how many
    of the catalogue are looked at, by who looks far. grouped: whether any lane limits groups.
    """

    stage: int
    derive: bool
    pairs: int
    parents: int
    clusters: int
    beam: int
    results: int
    rows: int
    grouped: bool


def take_turn(index: ItemIndex, lanes: Lanes, turn: Turn, extent: Extent) -> torch.Tensor:
    """Choose, score and merge for n lanes at one stage.

    Returns int64[2, n]: how many pairs each scored, and what that did to it, bits of `engine.kernels.stages`.
    """
    table = _CHOICES[extent.stage](index, lanes, turn, extent)
    pairs, tangents = (index.state, table, lanes.users, turn.lanes), None
    if extent.derive:
        scores, tangents = index.metric.score_with_tangents(*pairs)
    else:
        scores = index.metric.score(*pairs)
    done = _merge(index, lanes, turn, extent, table, scores, tangents)
    return torch.stack([(table != NO_ROW).sum(dim=1), done])


# -- choosing ----------------------------------------------------------------------------------------------------------


def _given(index: ItemIndex, lanes: Lanes, turn: Turn, extent: Extent) -> torch.Tensor:
    """Of the next rows that a lane was given those that are to be scored."""
    places = torch.arange(extent.pairs, device=index.device)
    behind = (turn.offered[:, None] + places).clamp(max=lanes.given.shape[1] - 1)
    rows = lanes.given[turn.lanes[:, None], behind].masked_fill(places >= turn.wanted[:, None], NO_ROW)
    return _taken(lanes, turn, extent, rows, _unvisited(index, lanes, turn, rows) & _first_of_each(rows))


def _near(index: ItemIndex, lanes: Lanes, turn: Turn, extent: Extent) -> torch.Tensor:
    """The best unmarked neighbours of the best ``widths`` unexpanded beam entries, by these entries' tangents.

    What several link to counts with the largest of their estimates.
    """
    mine = turn.lanes
    places = _packing(lanes.unexpanded[mine] & _derived(lanes, mine), turn.widths, extent.parents)
    lanes.unexpanded[mine] &= places == extent.parents
    rows, slots = (_packed(of[mine], places, extent.parents) for of in (lanes.beam.rows, lanes.slots))
    neighbors = index.links[rows].masked_fill((rows == NO_ROW)[:, :, None], NO_ROW).long()
    estimates = _estimates(index.state, neighbors, lanes.tangents[mine[:, None], slots]).flatten(1)
    best_first = neighbors.flatten(1).gather(1, estimates.argsort(dim=1, descending=True, stable=True))
    unmarked = (best_first != NO_ROW) & (_marks(lanes, turn, best_first) == 0)
    live = index.versions[best_first] > 0
    return _taken(lanes, turn, extent, best_first, unmarked & live & _first_of_each(best_first))


def _far(index: ItemIndex, lanes: Lanes, turn: Turn, extent: Extent) -> torch.Tensor:
    """The unmarked rows that clusters of the beam's gradients point at, an equal share for each."""
    mine, known = turn.lanes, _derived(lanes, turn.lanes)
    slopes = lanes.tangents[mine[:, None], lanes.slots[mine]][:, :, :-1].masked_fill(~known[:, :, None], 0)
    centres, made = clustered(slopes, known, turn.clusters, extent.clusters)
    several = made.sum(dim=1).clamp(min=1)
    keeps = -(-turn.wanted // several) * torch.where(several > 1, EXTRA_FOUND, 1)
    found = farthest(index, lanes.marks, mine, turn.floors, centres, extent.pairs, extent.rows)
    beyond = torch.arange(found.shape[2], device=index.device) >= keeps[:, None, None]
    # By turns: the first of every centre, then the second of every centre.
    rows = found.masked_fill(~made[:, :, None] | beyond, NO_ROW).transpose(1, 2).flatten(1)
    return _taken(lanes, turn, extent, rows, (rows != NO_ROW) & _first_of_each(rows))


def _linked(index: ItemIndex, lanes: Lanes, turn: Turn, extent: Extent) -> torch.Tensor:
    """A step of the walk: the unvisited neighbours of the best unexpanded beam entries, as many as a round has pairs.

    Where nothing is left to expand, the lowest unvisited rows, so that nothing stays unseen while there is room.
    """
    mine, room = turn.lanes, torch.minimum(turn.wanted, turn.left)
    parents = lanes.unexpanded[mine] & (lanes.beam.rows[mine] != NO_ROW)
    expanded = lanes.beam.rows[mine].masked_fill(~parents, NO_ROW)
    neighbors = index.links[expanded].masked_fill(~parents[:, :, None], NO_ROW).long()
    rows = neighbors.flatten(1)
    fresh = _unvisited(index, lanes, turn, rows) & _first_of_each(rows)
    later = fresh & (fresh.cumsum(dim=1) > room[:, None])
    lanes.unexpanded[mine] = later.reshape(neighbors.shape).any(dim=2)
    table = _taken(lanes, turn, extent, rows, fresh)
    lost = torch.nonzero(~fresh.any(dim=1) & (room > 0))[:, 0]  # rare enough that the host may wait for how many
    if len(lost):
        alone = Turn(*(column[lost] for column in turn))
        every = torch.arange(index.rows, device=index.device).expand(len(lost), -1)
        unseen = _unvisited(index, lanes, alone, every)
        table[lost] = _taken(lanes, alone, extent, every, unseen)
    return table


_CHOICES = {SEEDS: _given, NEAR: _near, FAR: _far, FILL: _linked}


def _taken(lanes: Lanes, turn: Turn, extent: Extent, rows: torch.Tensor, fit: torch.Tensor) -> torch.Tensor:
    """The first of the rows int64[n, c] that ``fit``, bool[n, c], as many as each lane scores: int64[n, pairs]."""
    places = _packing(fit, torch.minimum(turn.wanted, turn.left), extent.pairs)
    table = _packed(rows, places, extent.pairs)
    where = turn.lanes[:, None], table
    lanes.marks[where] = torch.maximum(lanes.marks[where], turn.floors[:, None].to(torch.uint8)) | VISITED
    return table


# -- merging -----------------------------------------------------------------------------------------------------------


def _merge(
    index: ItemIndex, lanes: Lanes, turn: Turn, extent: Extent, rows: torch.Tensor, scores: torch.Tensor,
    tangents: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """Merge rows int64[n, p], −1 behind them, with scores float32[n, p], and tangents float32[n, p, S + 1] to be kept.

    Returns what this did to each lane, int64[n].
    """
    mine = turn.lanes
    scores, slots = scores.masked_fill(rows == NO_ROW, -torch.inf), torch.full_like(rows, NO_SLOT)
    if tangents is not None:
        # What has no place goes to the last one, of which nobody knows.
        last = lanes.tangents.shape[1] - 1
        slots = turn.evaluations[:, None] + torch.arange(extent.pairs, device=rows.device)
        lanes.tangents[mine[:, None], slots.clamp(max=last)] = tangents
        slots = slots.masked_fill((rows == NO_ROW) | (slots >= last), NO_SLOT)
    _into_beam(lanes, turn, extent.beam, rows, scores, slots)
    entered = _into_results(index, lanes, turn, extent, rows, scores)
    full = lanes.beam.full(mine, turn.beam) & lanes.results.full(mine, turn.results)
    barren = ~(lanes.unexpanded[mine] & _derived(lanes, mine)).any(dim=1)
    return entered * ENTERED + full * FULL + barren * BARREN


def _into_beam(
    lanes: Lanes, turn: Turn, width: int, rows: torch.Tensor, scores: torch.Tensor, slots: torch.Tensor
) -> None:
    mine, fresh = turn.lanes, (rows != NO_ROW) & (turn.walks[:, None] != 0)
    places = lanes.beam.merge(mine, turn.beam, width, scores, rows)
    unexpanded = torch.cat([lanes.unexpanded[mine, :width], fresh], dim=1).gather(1, places)
    lanes.unexpanded[mine, :width] = unexpanded & (lanes.beam.rows[mine, :width] != NO_ROW)
    lanes.slots[mine, :width] = torch.cat([lanes.slots[mine, :width], slots], dim=1).gather(1, places)


def _into_results(
    index: ItemIndex, lanes: Lanes, turn: Turn, extent: Extent, rows: torch.Tensor, scores: torch.Tensor
) -> torch.Tensor:
    mine, width = turn.lanes, extent.results
    barred = (rows == NO_ROW) | (_marks(lanes, turn, rows) & BARRED != 0) | (index.versions[rows] <= 0)
    scores, rows = scores.masked_fill(barred, -torch.inf), rows.masked_fill(barred, NO_ROW)
    if extent.grouped:
        rows, scores = _limit_groups(index, lanes, turn, rows, scores)
    places = lanes.results.merge(mine, turn.results, width, scores, rows)
    versions = torch.cat([lanes.result_versions[mine, :width], index.versions[rows]], dim=1)
    lanes.result_versions[mine, :width] = versions.gather(1, places)
    return ((places >= width) & (lanes.results.rows[mine, :width] != NO_ROW)).any(dim=1)


def _limit_groups(
    index: ItemIndex, lanes: Lanes, turn: Turn, rows: torch.Tensor, scores: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Empty the places, of the lanes' results and of new rows int64[n, p], whose group has enough better ones.

    Returns what is left of the new rows and scores.
    """
    mine, results = turn.lanes, lanes.results
    every, values = torch.cat([results.rows[mine], rows], dim=1), torch.cat([results.scores[mine], scores], dim=1)
    by_row = every.argsort(dim=1, stable=True)
    best_first = by_row.gather(1, values.gather(1, by_row).argsort(dim=1, descending=True, stable=True))
    # Another item may be in an old row by now, of another group: it is no result any more, and counts for nothing.
    known = torch.cat([lanes.result_versions[mine], index.versions[rows]], dim=1)
    gone = (every == NO_ROW) | (index.versions[every] != known)
    groups = index.groups[every].masked_fill(gone, 0).gather(1, best_first)
    together = groups.argsort(dim=1, stable=True)
    ordered = groups.gather(1, together)
    places = torch.arange(every.shape[1], device=every.device).expand_as(groups)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    better = places - torch.where(begins, places, 0).cummax(dim=1).values
    limits = turn.per_group.masked_fill(turn.per_group == 0, every.shape[1])
    surplus = torch.zeros_like(begins)
    surplus.scatter_(1, best_first.gather(1, together), (ordered != 0) & (better >= limits[:, None]))
    width = results.rows.shape[1]
    results.rows[mine] = every[:, :width].masked_fill(surplus[:, :width], NO_ROW)
    results.scores[mine] = values[:, :width].masked_fill(surplus[:, :width], -torch.inf)
    return rows.masked_fill(surplus[:, width:], NO_ROW), scores.masked_fill(surplus[:, width:], -torch.inf)


# -- rows, line by line ------------------------------------------------------------------------------------------------


def _derived(lanes: Lanes, mine: torch.Tensor) -> torch.Tensor:
    """bool[n, beam]: the entries whose tangents are known."""
    return (lanes.slots[mine] != NO_SLOT) & (lanes.beam.rows[mine] != NO_ROW)


def _marks(lanes: Lanes, turn: Turn, rows: torch.Tensor) -> torch.Tensor:
    """uint8[n, c]: the bits of the marks of rows int64[n, c], 0 for what was left by others."""
    marks = lanes.marks[turn.lanes[:, None], rows]
    return marks.masked_fill(marks < turn.floors[:, None], 0)


def _unvisited(index: ItemIndex, lanes: Lanes, turn: Turn, rows: torch.Tensor) -> torch.Tensor:
    """bool[n, c]: which of the rows int64[n, c] hold an item that the lane has not scored."""
    return (rows != NO_ROW) & (index.versions[rows] > 0) & (_marks(lanes, turn, rows) & VISITED == 0)


def _packing(kept: torch.Tensor, counts: torch.Tensor, width: int) -> torch.Tensor:
    """Where the first ``counts``, int64[n] of at most ``width``, that are ``kept``, bool[n, c], stand side by side.

    Returns int64[n, c]: ``width`` for the others.
    """
    order = kept.cumsum(dim=1)
    return torch.where(kept & (order <= counts[:, None]), order - 1, width)


def _packed(values: torch.Tensor, places: torch.Tensor, width: int) -> torch.Tensor:
    """The values int64[n, c] that have one of the first ``width`` places, there: int64[n, width], −1 in the others."""
    packed = torch.full((len(values), width + 1), NO_ROW, device=values.device)
    return packed.scatter_(1, places, values)[:, :width]


def _first_of_each(rows: torch.Tensor) -> torch.Tensor:
    """bool[n, c]: whether it is the first of its value in its line of rows int64[n, c]."""
    ordered, order = rows.sort(dim=1, stable=True)
    first = torch.ones_like(rows, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.empty_like(first).scatter_(1, order, first)


def _estimates(state: torch.Tensor, neighbors: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    """What planes float32[n, w, S + 1] say of the states of neighbors int64[n, w, R]: float32[n, w, R]."""
    if gpu_products.usable(state.device):
        return gpu_products.row_products(state, neighbors, planes)
    step = max(1, MOST_FLOATS // (neighbors[0].numel() * state.shape[1]))
    parts = []
    for rows, part in zip(torch.split(neighbors, step), torch.split(planes, step), strict=True):
        slopes, intercepts = part[:, :, :-1].flatten(0, 1), part[:, :, -1:]
        parts.append(torch.bmm(state[rows.flatten(0, 1)], slopes[:, :, None])[:, :, 0].reshape(rows.shape) + intercepts)
    return torch.cat(parts)
