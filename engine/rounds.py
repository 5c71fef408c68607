"""A step: which rows a lane scores next, and where their scores belong.

*Near*: the graph neighbours of the best, by the first-order estimates of those who know them. *Far*: the rows of the
whole catalogue that lie farthest in the direction of a few middles of the gradients. By turns they find what a walk
alone does not reach, for a fraction of its evaluations.

In plain torch, on any device, all lanes in one operation: the host is never asked, so a GPU is never waited for.
`engine.kernels.steps` does the same in compiled code, on CPUs. What is chosen is live and unvisited, within the budget,
and visited from then on. Common arguments of the choices: chosen int64[n], lanes; lines int64[n], the line of each in
table: int64[m, p], which is filled with rows to score, −1 behind them, and counts: int64[m], how many.
"""

from collections.abc import Callable

import numpy as np
import torch

from engine.columns import back, moved
from engine.directions import MOST_FLOATS, clustered, farthest
from engine.index import ItemIndex
from engine.kernels.merging import BARRED, VISITED
from engine.kernels.products import padded
from engine.kernels.rounds import EXTRA_FOUND
from engine.kernels.stages import BARREN, ENTERED, FAR, FILL, FULL, NEAR, SEEDS
from engine.lanes import NO_ROW, NO_SLOT, Lanes


def hop(
    index: ItemIndex, lanes: Lanes, running: np.ndarray, _threads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose, score and merge for lanes int64[n].

    Returns these lanes in any order, how many pairs each scored, int64[n], and what that did to it, uint8[n]: bits of
    `engine.kernels.stages`. How many threads are worth waking only compiled code asks; torch knows by itself.
    """
    return hop_by(choose, merge, index, lanes, running)


def hop_by(
    choose: Callable[..., None], merge: Callable[..., torch.Tensor], index: ItemIndex, lanes: Lanes, running: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A hop whose pairs the metric is asked for, between functions like `choose` and `merge`, on this thread."""
    later, device = lanes.later(running), index.device
    chosen, derived = np.concatenate([running[later], running[~later]]), int(np.count_nonzero(later))
    widest = int(lanes.wanted[chosen].max())
    empty = np.full((len(chosen), widest), NO_ROW), np.zeros(len(chosen), int), np.zeros(len(chosen), np.uint8)
    table, counts, done = (torch.from_numpy(column).to(device, non_blocking=True) for column in empty)
    if widest > 0:  # something was given to somebody
        choose(index, lanes, chosen, table, counts)
        mine = torch.from_numpy(chosen).to(device, non_blocking=True)
        for part, derive in ((slice(0, derived), True), (slice(derived, len(chosen)), False)):
            if part.start == part.stop:
                continue
            pairs, tangents = (index.state, table[part], lanes.users, mine[part]), None
            if derive:
                scores, tangents = index.metric.score_with_tangents(*pairs)
            else:
                scores = index.metric.score(*pairs)
            done[part] = merge(index, lanes, chosen[part], table[part], counts[part], scores, tangents)
    counted, did = back(counts, done)
    return chosen, counted, did


def choose(index: ItemIndex, lanes: Lanes, chosen: np.ndarray, table: torch.Tensor, counts: torch.Tensor) -> None:
    """Fill a table int64[n, p], −1 so far, with what each lane scores next, at most ``wanted``, and counts int64[n]."""
    stages = lanes.stages[chosen]
    for stage, choose_its in ((SEEDS, _given), (NEAR, _near), (FAR, _far), (FILL, _linked)):
        lines = np.flatnonzero(stages == stage)
        if len(lines):
            choose_its(index, lanes, chosen[lines], lines, table, counts)


def _given(
    index: ItemIndex, lanes: Lanes, chosen: np.ndarray, lines: np.ndarray, table: torch.Tensor, counts: torch.Tensor
) -> None:
    """Of the next rows that a lane was given those that are to be scored."""
    mine, offered, wanted = moved(index.device, chosen, lanes.offered[chosen], lanes.wanted[chosen])
    places = _places(table)
    given = lanes.given[mine[:, None], (offered[:, None] + places).clamp(max=lanes.given.shape[1] - 1)]
    _take(index, lanes, chosen, lines, table, counts, given.masked_fill(places >= wanted[:, None], NO_ROW))


def _near(
    index: ItemIndex, lanes: Lanes, chosen: np.ndarray, lines: np.ndarray, table: torch.Tensor, counts: torch.Tensor
) -> None:
    """The best unmarked neighbours of the best ``widths`` unexpanded beam entries, by these entries' tangents.

    What several link to counts with the largest of their estimates.
    """
    mine, widths, wanted = moved(index.device, chosen, lanes.widths[chosen], lanes.wanted[chosen])
    known = lanes.unexpanded[mine] & _derived(lanes, mine)
    parents = _first_few(known, widths)
    lanes.unexpanded[mine] &= ~parents
    widest = min(int(lanes.widths[chosen].max()), known.shape[1])
    rows = _leftmost(lanes.beam.rows[mine], parents, widest)
    planes = lanes.tangents[mine[:, None], _leftmost(lanes.slots[mine], parents, widest)]
    neighbors = index.links[rows].masked_fill((rows == NO_ROW)[:, :, None], NO_ROW).long()
    estimates, neighbors = _estimates(index.state, neighbors, planes).flatten(1), neighbors.flatten(1)
    best_first = neighbors.gather(1, estimates.argsort(dim=1, descending=True, stable=True))
    real = (best_first != NO_ROW) & (lanes.marks[mine[:, None], best_first] == 0) & _first_of_each(best_first)
    candidates = _leftmost(best_first, _first_few(real, wanted), table.shape[1])
    _take(index, lanes, chosen, lines, table, counts, candidates)


def _far(
    index: ItemIndex, lanes: Lanes, chosen: np.ndarray, lines: np.ndarray, table: torch.Tensor, counts: torch.Tensor
) -> None:
    """The unmarked rows that clusters of the beam's gradients point at, an equal share for each."""
    mine, wanted, clusters = moved(index.device, chosen, lanes.wanted[chosen], lanes.clusters[chosen])
    known = _derived(lanes, mine)
    slopes = lanes.tangents[mine[:, None], lanes.slots[mine]][:, :, :-1].masked_fill(~known[:, :, None], 0)
    centres, made = clustered(slopes, known, clusters, int(lanes.clusters[chosen].max()))
    several = made.sum(dim=1).clamp(min=1)
    keeps = -(-wanted // several) * torch.where(several > 1, EXTRA_FOUND, 1)
    # The most are those of two centres, or of one.
    found = farthest(index, lanes.marks, mine, centres, padded(int(lanes.wanted[chosen].max()), EXTRA_FOUND))
    found = found.masked_fill(~made[:, :, None] | (_places(found) >= keeps[:, None, None]), NO_ROW)
    # By turns: the first of every centre, then the second of every centre.
    candidates = found.transpose(1, 2).flatten(1)
    real = (candidates != NO_ROW) & _first_of_each(candidates)
    candidates = _leftmost(candidates, _first_few(real, wanted), table.shape[1])
    _take(index, lanes, chosen, lines, table, counts, candidates)


def _linked(
    index: ItemIndex, lanes: Lanes, chosen: np.ndarray, lines: np.ndarray, table: torch.Tensor, counts: torch.Tensor
) -> None:
    """A step of the walk: the unvisited neighbours of the best unexpanded beam entries, as many as a round has pairs.

    Where nothing is left to expand, the lowest unvisited rows, so that nothing stays unseen while there is room.
    """
    left = np.minimum(lanes.wanted[chosen], lanes.budgets[chosen] - lanes.evaluations[chosen])
    mine, wanted = moved(index.device, chosen, np.minimum(left, table.shape[1]))
    parents = lanes.unexpanded[mine] & (lanes.beam.rows[mine] != NO_ROW)
    rows = lanes.beam.rows[mine].masked_fill(~parents, NO_ROW)
    neighbors = index.links[rows].masked_fill(~parents[:, :, None], NO_ROW).long()
    rows = neighbors.flatten(1)
    fresh = _unvisited(index, lanes, mine, rows) & _first_of_each(rows)
    later = fresh & ~_first_few(fresh, wanted)
    lanes.unexpanded[mine] = later.reshape(neighbors.shape).any(dim=2)
    candidates = _leftmost(rows, fresh & ~later, table.shape[1])
    lost = torch.nonzero(~fresh.any(dim=1))[:, 0]  # rare enough that the host may wait for how many
    if len(lost):
        every = torch.arange(index.rows, device=index.device).expand(len(lost), -1)
        unseen = _unvisited(index, lanes, mine[lost], every)
        candidates[lost] = _leftmost(every, _first_few(unseen, wanted[lost]), table.shape[1])
    _take(index, lanes, chosen, lines, table, counts, candidates)


def merge(
    index: ItemIndex, lanes: Lanes, chosen: np.ndarray, table: torch.Tensor, counts: torch.Tensor,
    scores: torch.Tensor, tangents: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """Merge the rows of the table int64[n, p] with scores float32[n, p] into lanes int64[n].

    tangents: float32[n, p, S + 1], where they are to be kept. Returns what this did to each lane, uint8[n]: bits of
    `engine.kernels.stages`.
    """
    mine, first = moved(index.device, chosen, lanes.evaluations[chosen])
    rows = table.masked_fill(_places(table) >= counts[:, None], NO_ROW)
    scores = scores.masked_fill(rows == NO_ROW, -torch.inf)
    slots = torch.full_like(rows, NO_SLOT)
    if tangents is not None:
        # What has no place goes to the last one, of which nobody knows.
        last = lanes.tangents.shape[1] - 1
        slots = first[:, None] + _places(rows)
        lanes.tangents[mine[:, None], slots.clamp(max=last)] = tangents
        slots = slots.masked_fill((rows == NO_ROW) | (slots >= last), NO_SLOT)
    _into_beam(lanes, chosen, rows, scores, slots)
    entered = _into_results(index, lanes, chosen, rows, scores)
    full = lanes.beam.full(chosen) & lanes.results.full(chosen)
    barren = ~(lanes.unexpanded[mine] & _derived(lanes, mine)).any(dim=1)
    return (entered * ENTERED + full * FULL + barren * BARREN).to(torch.uint8)


def _into_beam(lanes: Lanes, chosen: np.ndarray, rows: torch.Tensor, scores: torch.Tensor, slots: torch.Tensor) -> None:
    mine, walks = moved(rows.device, chosen, lanes.walks[chosen])
    places = lanes.beam.merge(chosen, scores, rows)
    width = places.shape[1]
    fresh = (rows != NO_ROW) & (walks[:, None] != 0)
    unexpanded = torch.cat([lanes.unexpanded[mine, :width], fresh], dim=1).gather(1, places)
    lanes.unexpanded[mine, :width] = unexpanded & (lanes.beam.rows[mine, :width] != NO_ROW)
    lanes.slots[mine, :width] = torch.cat([lanes.slots[mine, :width], slots], dim=1).gather(1, places)


def _into_results(
    index: ItemIndex, lanes: Lanes, chosen: np.ndarray, rows: torch.Tensor, scores: torch.Tensor
) -> torch.Tensor:
    mine, per_group = moved(rows.device, chosen, lanes.per_group[chosen])
    barred = (rows == NO_ROW) | (lanes.marks[mine[:, None], rows] & BARRED != 0) | (index.versions[rows] <= 0)
    scores, rows = scores.masked_fill(barred, -torch.inf), rows.masked_fill(barred, NO_ROW)
    if lanes.per_group[chosen].any():
        rows, scores = _limit_groups(index, lanes, mine, per_group, rows, scores)
    places = lanes.results.merge(chosen, scores, rows)
    width = places.shape[1]
    versions = torch.cat([lanes.result_versions[mine, :width], index.versions[rows]], dim=1)
    lanes.result_versions[mine, :width] = versions.gather(1, places)
    return ((places >= width) & (lanes.results.rows[mine, :width] != NO_ROW)).any(dim=1)


def _limit_groups(
    index: ItemIndex,
    lanes: Lanes,
    mine: torch.Tensor,
    per_group: torch.Tensor,
    rows: torch.Tensor,
    scores: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Empty the places, of the lanes' results and of new rows int64[n, p], whose group has enough better ones.

    Returns what is left of the new rows and scores.
    """
    results = lanes.results
    every, values = torch.cat([results.rows[mine], rows], dim=1), torch.cat([results.scores[mine], scores], dim=1)
    by_row = every.argsort(dim=1, stable=True)
    best_first = by_row.gather(1, values.gather(1, by_row).argsort(dim=1, descending=True, stable=True))
    # Another item may be in an old row by now, of another group: it is no result any more, and counts for nothing.
    known = torch.cat([lanes.result_versions[mine], index.versions[rows]], dim=1)
    gone = (every == NO_ROW) | (index.versions[every] != known)
    groups = index.groups[every].masked_fill(gone, 0).gather(1, best_first)
    together = groups.argsort(dim=1, stable=True)
    ordered, places = groups.gather(1, together), _places(groups).expand_as(groups)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    better = places - torch.where(begins, places, 0).cummax(dim=1).values
    limits = per_group.masked_fill(per_group == 0, every.shape[1])
    surplus = torch.zeros_like(begins)
    surplus.scatter_(1, best_first.gather(1, together), (ordered != 0) & (better >= limits[:, None]))
    width = results.rows.shape[1]
    results.rows[mine] = every[:, :width].masked_fill(surplus[:, :width], NO_ROW)
    results.scores[mine] = values[:, :width].masked_fill(surplus[:, :width], -torch.inf)
    return rows.masked_fill(surplus[:, width:], NO_ROW), scores.masked_fill(surplus[:, width:], -torch.inf)


def _take(
    index: ItemIndex, lanes: Lanes, chosen: np.ndarray, lines: np.ndarray, table: torch.Tensor, counts: torch.Tensor,
    candidates: torch.Tensor,
) -> None:  # fmt: skip
    """Write to the lines those of the candidates int64[n, c], −1 for none, that are to be scored."""
    mine, places, left = moved(index.device, chosen, lines, lanes.budgets[chosen] - lanes.evaluations[chosen])
    wanted = _unvisited(index, lanes, mine, candidates) & _first_of_each(candidates)
    wanted = _first_few(wanted, left.clamp(max=table.shape[1]))
    rows = _leftmost(candidates, wanted, table.shape[1])
    lanes.marks[mine[:, None], rows] |= VISITED
    table[places] = rows
    counts[places] = wanted.sum(dim=1)


def _derived(lanes: Lanes, mine: torch.Tensor) -> torch.Tensor:
    """bool[n, beam]: the entries whose tangents are known."""
    return (lanes.slots[mine] != NO_SLOT) & (lanes.beam.rows[mine] != NO_ROW)


def _unvisited(index: ItemIndex, lanes: Lanes, mine: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """bool[n, c]: which of the rows int64[n, c] hold an item that the lane has not scored."""
    return (rows != NO_ROW) & (index.versions[rows] > 0) & (lanes.marks[mine[:, None], rows] & VISITED == 0)


def _places(columns: torch.Tensor) -> torch.Tensor:
    return torch.arange(columns.shape[-1], device=columns.device)


def _leftmost(values: torch.Tensor, kept: torch.Tensor, width: int) -> torch.Tensor:
    """The first of the values int64[n, c] that are ``kept``, bool[n, c], side by side: int64[n, width], −1 behind."""
    place = torch.where(kept, kept.cumsum(dim=1) - 1, width).clamp(max=width)
    packed = torch.full((len(values), width + 1), NO_ROW, device=values.device)
    return packed.scatter_(1, place, values)[:, :width]


def _first_few(kept: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """bool[n, c]: the first so many, int64[n], of the places that are ``kept``, bool[n, c]."""
    return kept & (kept.cumsum(dim=1) <= counts[:, None])


def _first_of_each(rows: torch.Tensor) -> torch.Tensor:
    """bool[n, c]: whether it is the first of its value in its line of rows int64[n, c]."""
    ordered, order = rows.sort(dim=1, stable=True)
    first = torch.ones_like(rows, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.empty_like(first).scatter_(1, order, first)


def _estimates(state: torch.Tensor, neighbors: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    """What planes float32[n, w, S + 1] say of the states of neighbors int64[n, w, R]: float32[n, w, R]."""
    step = max(1, MOST_FLOATS // (neighbors[0].numel() * state.shape[1]))
    parts = []
    for rows, part in zip(torch.split(neighbors, step), torch.split(planes, step), strict=True):
        slopes, intercepts = part[:, :, :-1].flatten(0, 1), part[:, :, -1:]
        parts.append(torch.bmm(state[rows.flatten(0, 1)], slopes[:, :, None])[:, :, 0].reshape(rows.shape) + intercepts)
    return torch.cat(parts)
