"""What a step does beside scoring: which rows a lane scores next, and where their scores belong.

*Near*: the graph neighbours of the best, by the first-order estimates of those who know them. *Far*: the rows of the
whole catalogue that lie farthest in the direction of a few middles of the gradients. By turns they find what a walk
alone does not reach, for a fraction of its evaluations.

In plain torch, on any device. `engine.kernels.steps` has the same functions in compiled code, for CPUs. Common
arguments: chosen int64[n], lanes; lines int64[n], the line of each in table: int64[m, p], which is filled with rows to
score, and counts: int64[m], which says how many. What is chosen is live and unvisited, within the budget, and visited
from then on.
"""

from typing import Protocol

import numpy as np
import torch

from engine.index import NO_NEIGHBOR, ItemIndex
from engine.kernels.merging import BARRED, VISITED
from engine.lanes import NO_ROW, NO_SLOT, Lanes

CLUSTER_ROUNDS = 4


class Choose(Protocol):
    """Chooses the rows of some lanes' next step."""

    def __call__(
        self, index: ItemIndex, lanes: Lanes, chosen: np.ndarray, lines: np.ndarray, table: torch.Tensor,
        counts: np.ndarray,
    ) -> None:  # fmt: skip
        """Fill the lanes' lines of the table."""


class Rounds(Protocol):
    """What a search computes with: this module, or `engine.kernels.steps`."""

    choose_given: Choose
    choose_near: Choose
    choose_far: Choose
    choose_linked: Choose

    def merge(
        self, index: ItemIndex, lanes: Lanes, chosen: np.ndarray, table: torch.Tensor, counts: np.ndarray,
        scores: torch.Tensor, tangents: torch.Tensor | None,
    ) -> np.ndarray:  # fmt: skip
        """See `merge`."""


def choose_given(
    index: ItemIndex, lanes: Lanes, chosen: np.ndarray, lines: np.ndarray, table: torch.Tensor, counts: np.ndarray
) -> None:
    """Of the rows that the table holds already, as many as ``counts`` says, those that are to be scored."""
    for lane, line in zip(chosen.tolist(), lines.tolist(), strict=True):
        counts[line] = _take(index, lanes, lane, table[line], table[line, : counts[line]].clone())


def choose_near(
    index: ItemIndex, lanes: Lanes, chosen: np.ndarray, lines: np.ndarray, table: torch.Tensor, counts: np.ndarray
) -> None:
    """The best unmarked neighbours of the best ``widths`` unexpanded beam entries, by these entries' tangents.

    What several link to counts with the largest of their estimates.
    """
    for lane, line in zip(chosen.tolist(), lines.tolist(), strict=True):
        known = lanes.unexpanded[lane] & (lanes.slots[lane] != NO_SLOT) & (lanes.beam.rows[lane] != NO_ROW)
        places = torch.nonzero(known)[: int(lanes.widths[lane]), 0]
        lanes.unexpanded[lane, places] = False
        tangents = lanes.tangents[lane, lanes.slots[lane, places]]
        neighbors = index.neighbors[lanes.beam.rows[lane, places]].long()
        states = index.state[neighbors.clamp(min=0)]
        estimates = ((states * tangents[:, None, :-1]).sum(dim=2) + tangents[:, -1:]).reshape(-1)
        best = neighbors.reshape(-1)[estimates.argsort(descending=True, stable=True)]
        real = (best != NO_NEIGHBOR) & (lanes.marks[lane, best] == 0) & _first_of_each(best)
        counts[line] = _take(index, lanes, lane, table[line], best[real][: int(lanes.pairs[lane])])


def choose_far(
    index: ItemIndex, lanes: Lanes, chosen: np.ndarray, lines: np.ndarray, table: torch.Tensor, counts: np.ndarray
) -> None:
    """The unmarked rows that clusters of the beam's gradients point at, an equal share for each."""
    for lane, line in zip(chosen.tolist(), lines.tolist(), strict=True):
        known = (lanes.slots[lane] != NO_SLOT) & (lanes.beam.rows[lane] != NO_ROW)
        slopes = lanes.tangents[lane, lanes.slots[lane][known], :-1]
        barred = (lanes.marks[lane] != 0) | (index.versions <= 0)
        found = [torch.zeros(0, dtype=torch.int64, device=index.device)]
        centres = _clustered(slopes, int(lanes.clusters[lane])) if len(slopes) else slopes
        taken = 0
        for number, centre in enumerate(centres):
            share = (int(lanes.pairs[lane]) - taken) // (len(centres) - number)
            products = (index.state @ centre).masked_fill(barred, -torch.inf)
            best = products.topk(min(share, len(products)))
            found.append(best.indices[torch.isfinite(best.values)])
            barred[found[-1]] = True
            taken += len(found[-1])
        counts[line] = _take(index, lanes, lane, table[line], torch.cat(found))


def choose_linked(
    index: ItemIndex, lanes: Lanes, chosen: np.ndarray, lines: np.ndarray, table: torch.Tensor, counts: np.ndarray
) -> None:
    """A step of the walk: the unvisited neighbours of the best unexpanded beam entries, as many as a round has pairs.

    Where nothing is left to expand, the lowest unvisited rows, so that nothing stays unseen while there is room.
    """
    for lane, line in zip(chosen.tolist(), lines.tolist(), strict=True):
        wanted = min(int(lanes.pairs[lane]), table.shape[1], int(lanes.budgets[lane] - lanes.evaluations[lane]))
        open_places = torch.nonzero(lanes.unexpanded[lane] & (lanes.beam.rows[lane] != NO_ROW))[:, 0]
        neighbors = index.neighbors[lanes.beam.rows[lane, open_places]].long()
        rows = neighbors.reshape(-1)
        fresh = (rows != NO_NEIGHBOR) & (index.versions[rows] > 0) & (lanes.marks[lane, rows] & VISITED == 0)
        fresh &= _first_of_each(rows)
        left = fresh & (fresh.cumsum(dim=0) > wanted)
        lanes.unexpanded[lane, open_places] = left.reshape(neighbors.shape).any(dim=1)
        candidates = rows[fresh][:wanted]
        if len(candidates) == 0:
            unseen = index.live & (lanes.marks[lane] & VISITED == 0)
            candidates = torch.nonzero(unseen)[:wanted, 0]
        counts[line] = _take(index, lanes, lane, table[line], candidates)


def merge(
    index: ItemIndex, lanes: Lanes, chosen: np.ndarray, table: torch.Tensor, counts: np.ndarray, scores: torch.Tensor,
    tangents: torch.Tensor | None,
) -> np.ndarray:  # fmt: skip
    """Merge the rows of the table int64[n, p] with scores float32[n, p] into lanes int64[n].

    tangents: float32[n, p, S + 1], where they are to be kept. Counts the evaluations. Returns bool[n], whether a lane's
    results changed.
    """
    places = torch.arange(table.shape[1], device=table.device)
    real = places < torch.from_numpy(counts).to(table.device)[:, None]
    rows, scores = table.masked_fill(~real, NO_ROW), scores.masked_fill(~real, -torch.inf)
    slots = torch.from_numpy(lanes.evaluations[chosen]).to(table.device)[:, None] + places
    slots = slots.masked_fill(~real | (slots >= lanes.tangents.shape[1]) | (tangents is None), NO_SLOT)
    if tangents is not None:
        for line, lane in enumerate(chosen.tolist()):
            kept = slots[line] != NO_SLOT
            lanes.tangents[lane, slots[line][kept]] = tangents[line, kept]
    lanes.evaluations[chosen] += counts
    return _merge_lists(index, lanes, chosen, rows, scores, slots)


def _merge_lists(
    index: ItemIndex, lanes: Lanes, chosen: np.ndarray, rows: torch.Tensor, scores: torch.Tensor, slots: torch.Tensor
) -> np.ndarray:
    mine = torch.from_numpy(chosen).to(rows.device)
    walks = torch.from_numpy(lanes.walks[chosen]).to(rows.device)
    places = lanes.beam.merge(chosen, scores, rows)
    width = places.shape[1]
    fresh = (rows != NO_ROW) & walks[:, None]
    unexpanded = torch.cat([lanes.unexpanded[mine, :width], fresh], dim=1).gather(1, places)
    lanes.unexpanded[mine, :width] = unexpanded & (lanes.beam.rows[mine, :width] != NO_ROW)
    lanes.slots[mine, :width] = torch.cat([lanes.slots[mine, :width], slots], dim=1).gather(1, places)

    barred = (rows == NO_ROW) | (lanes.marks[mine[:, None], rows] & BARRED != 0) | (index.versions[rows] <= 0)
    scores, rows = scores.masked_fill(barred, -torch.inf), rows.masked_fill(barred, NO_ROW)
    for line in np.flatnonzero(lanes.per_group[chosen]).tolist():
        _limit_groups(index, lanes, int(chosen[line]), rows[line], scores[line])
    places = lanes.results.merge(chosen, scores, rows)
    width = places.shape[1]
    versions = torch.cat([lanes.result_versions[mine, :width], index.versions[rows]], dim=1)
    lanes.result_versions[mine, :width] = versions.gather(1, places)
    entered: np.ndarray = ((places >= width) & (lanes.results.rows[mine, :width] != NO_ROW)).any(dim=1).cpu().numpy()
    return entered


def _limit_groups(index: ItemIndex, lanes: Lanes, lane: int, rows: torch.Tensor, scores: torch.Tensor) -> None:
    """Empty the places, of the lane's results and of new rows int64[p], of those whose group has enough better ones."""
    own_rows, own_scores = lanes.results.rows[lane], lanes.results.scores[lane]
    every, values = torch.cat([own_rows, rows]), torch.cat([own_scores, scores])
    by_row = every.argsort(stable=True)
    best_first = by_row[values[by_row].argsort(descending=True, stable=True)]
    times: dict[int, int] = {}
    for place in best_first.tolist():
        group = int(index.groups[every[place]]) if every[place] != NO_ROW else 0
        times[group] = times.get(group, 0) + 1
        if group and times[group] > lanes.per_group[lane]:
            into = (own_rows, own_scores) if place < len(own_rows) else (rows, scores)
            local = place if place < len(own_rows) else place - len(own_rows)
            into[0][local], into[1][local] = NO_ROW, -torch.inf


def _take(index: ItemIndex, lanes: Lanes, lane: int, line: torch.Tensor, candidates: torch.Tensor) -> int:
    """Write to the line those of the candidates int64[c] that are to be scored; returns how many."""
    wanted = (index.versions[candidates] > 0) & (lanes.marks[lane, candidates] & VISITED == 0)
    wanted &= _first_of_each(candidates)
    first = int(lanes.evaluations[lane])
    rows = candidates[wanted][: min(len(line), int(lanes.budgets[lane]) - first)]
    line[: len(rows)] = rows
    line[len(rows) :] = NO_ROW
    lanes.marks[lane, rows] |= VISITED
    kept = rows[: max(0, lanes.scored.shape[1] - first)]
    lanes.scored[lane, first : first + len(kept)] = kept.int()
    return len(rows)


def _first_of_each(rows: torch.Tensor) -> torch.Tensor:
    """bool[n]: whether it is the first of its value among rows int64[n]."""
    ordered, order = rows.sort(stable=True)
    first = torch.ones_like(rows, dtype=torch.bool)
    first[order[1:]] = ordered[1:] != ordered[:-1]
    return first


def _clustered(slopes: torch.Tensor, clusters: int) -> torch.Tensor:
    """k-means as `engine.kernels.tangents.cluster` does it; float32[≤ clusters, S]."""
    centres = slopes[:1]
    while len(centres) < min(clusters, len(slopes)):
        nearest = (slopes[:, None] - centres[None]).square().sum(dim=2).amin(dim=1)
        farthest = int(nearest.argmax())
        if nearest[farthest] == 0:
            break
        centres = torch.cat([centres, slopes[farthest][None]])
    for _ in range(CLUSTER_ROUNDS):
        owner = (slopes[:, None] - centres[None]).square().sum(dim=2).argmin(dim=1)
        members = torch.nn.functional.one_hot(owner, len(centres)).to(slopes.dtype)
        counts = members.sum(dim=0)
        centres = torch.where(counts[:, None] > 0, members.T @ slopes / counts.clamp(min=1)[:, None], centres)
    return centres
