"""The pairs of a step: which candidates are scored, and the merging of their scores into the lanes."""

import numpy as np
import torch

from engine.index import ItemIndex
from engine.kernels import merging
from engine.kernels.merging import BARRED, VISITED
from engine.kernels.threads import over_lanes
from engine.lanes import NO_ROW, NO_SLOT, Lanes


def take(index: ItemIndex, lanes: Lanes, chosen: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Rows to score, int64[n, p], −1 behind the last: the candidates int64[n, c] that are live and not visited.

    Each once, the first to come, as many as the budget of their lane, of lanes int64[n], leaves. They are visited from
    now on.
    """
    mine = chosen.cpu().numpy()
    left = np.minimum(lanes.budgets[mine] - lanes.evaluations[mine], candidates.shape[1])
    if index.sketch is None:
        rows = _take_plain(index, lanes, chosen, candidates, torch.from_numpy(left).to(chosen.device))
    else:
        rows = torch.full_like(candidates, NO_ROW)
        arguments = (mine, candidates.numpy(), left, index.versions.numpy(), lanes.marks.numpy(), rows.numpy())
        over_lanes(merging.take, len(mine), *arguments)
    return rows[:, : int((rows != NO_ROW).sum(dim=1).max()) if len(mine) else 0]


def merge(
    index: ItemIndex, lanes: Lanes, chosen: torch.Tensor, rows: torch.Tensor, scores: torch.Tensor,
    tangents: torch.Tensor,
) -> None:  # fmt: skip
    """Merge rows int64[n, p] with scores float32[n, p] into lanes int64[n], and the tangents of the first of them.

    tangents: float32[m ≤ n, p, S + 1]. Counts the evaluations, and the steps in which a lane's results did not change.
    """
    slots = torch.full_like(rows, NO_SLOT)
    mine = chosen.cpu().numpy()
    if index.sketch is None:
        _keep_tangents_plain(lanes, chosen, rows, tangents, slots)
        entered = _merge_plain(index, lanes, chosen, rows, scores, slots).cpu().numpy()
    else:
        over_lanes(
            merging.keep_tangents, len(tangents), mine, rows.numpy(), lanes.evaluations, tangents.numpy(),
            lanes.tangents.numpy(), slots.numpy(),
        )  # fmt: skip
        entered = np.zeros(len(mine), dtype=bool)
        beam, results = lanes.beam, lanes.results
        over_lanes(
            merging.merge, len(mine), mine, rows.numpy(), scores.numpy(), slots.numpy(), lanes.walks,
            index.versions.numpy(), lanes.marks.numpy(), beam.sizes.numpy(), beam.scores.numpy(), beam.rows.numpy(),
            lanes.unexpanded.numpy(), lanes.slots.numpy(), results.sizes.numpy(), results.scores.numpy(),
            results.rows.numpy(), lanes.result_versions.numpy(), entered,
        )  # fmt: skip
    lanes.evaluations[mine] += (rows != NO_ROW).sum(dim=1).cpu().numpy()
    lanes.quiet[mine] = np.where(entered, 0, lanes.quiet[mine] + 1)


def _take_plain(
    index: ItemIndex, lanes: Lanes, chosen: torch.Tensor, candidates: torch.Tensor, left: torch.Tensor
) -> torch.Tensor:
    lines, rows = chosen[:, None], candidates
    wanted = (rows != NO_ROW) & (index.versions[rows] > 0) & (lanes.marks[lines, rows] & VISITED == 0)
    rows = rows.masked_fill(~wanted, NO_ROW)
    ordered, order = rows.sort(dim=1, stable=True)
    again = torch.zeros_like(wanted)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    rows = rows.masked_fill(again.scatter(1, order, again), NO_ROW)
    # Those that are there first, in the order in which they came.
    rows = rows.gather(1, (rows == NO_ROW).to(torch.uint8).argsort(dim=1, stable=True))
    rows = rows.masked_fill(torch.arange(rows.shape[1], device=rows.device) >= left[:, None], NO_ROW)
    line, place = torch.nonzero(rows != NO_ROW, as_tuple=True)
    lanes.marks[chosen[line], rows[line, place]] |= VISITED
    return rows


def _keep_tangents_plain(
    lanes: Lanes, chosen: torch.Tensor, rows: torch.Tensor, tangents: torch.Tensor, slots: torch.Tensor
) -> None:
    for line, lane in enumerate(chosen[: len(tangents)].tolist()):
        first = int(lanes.evaluations[lane])
        count = min(int((rows[line] != NO_ROW).sum()), max(0, lanes.tangents.shape[1] - first))
        lanes.tangents[lane, first : first + count] = tangents[line, :count]
        slots[line, :count] = torch.arange(first, first + count, device=rows.device)


def _merge_plain(
    index: ItemIndex, lanes: Lanes, chosen: torch.Tensor, rows: torch.Tensor, scores: torch.Tensor, slots: torch.Tensor
) -> torch.Tensor:
    """bool[n]: whether a lane's results changed."""
    walks = torch.from_numpy(lanes.walks).to(rows.device)[chosen]
    places = lanes.beam.merge(chosen, scores, rows)
    width = places.shape[1]
    fresh = (rows != NO_ROW) & walks[:, None]
    unexpanded = torch.cat([lanes.unexpanded[chosen, :width], fresh], dim=1).gather(1, places)
    lanes.unexpanded[chosen, :width] = unexpanded & (lanes.beam.rows[chosen, :width] != NO_ROW)
    lanes.slots[chosen, :width] = torch.cat([lanes.slots[chosen, :width], slots], dim=1).gather(1, places)

    barred = (rows == NO_ROW) | (lanes.marks[chosen[:, None], rows] & BARRED != 0) | (index.versions[rows] <= 0)
    scores, rows = scores.masked_fill(barred, -torch.inf), rows.masked_fill(barred, NO_ROW)
    places = lanes.results.merge(chosen, scores, rows)
    width = places.shape[1]
    versions = torch.cat([lanes.result_versions[chosen, :width], index.versions[rows]], dim=1)
    lanes.result_versions[chosen, :width] = versions.gather(1, places)
    return ((places >= width) & (lanes.results.rows[chosen, :width] != NO_ROW)).any(dim=1)
