"""Hops in torch: lanes that do the same take their turn together, recorded where a GPU can."""

from itertools import pairwise

import numpy as np
import torch

from engine.index import ROW_BLOCK, ItemIndex
from engine.kernels.products import padded, power_of_two
from engine.kernels.stages import FAR, FILL, NEAR, STAGES
from engine.lanes import NO_ROW, Lanes, Results
from engine.recording import Recorder
from engine.rounds import Extent, Turn, take_turn
from engine.tiles import TILE_ROWS

_PAIRS, _PARENTS, _KEPT = 32, 8, 16
_FINE = 128
"""Columns come in so many at a time, beyond so many in powers of two: then a few recordings serve all requests."""


class TorchHops:
    """Takes lanes through their hops, a kind of turn after the other, on any device."""

    def __init__(self, device: torch.device) -> None:
        self._recorder = Recorder(device)

    def hop(
        self, index: ItemIndex, lanes: Lanes, running: np.ndarray, _threads: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Choose, score and merge for lanes int64[n].

        Returns these lanes in any order, how many pairs each scored, int64[n], and what that did to it, uint8[n]: bits
        of `engine.kernels.stages`. How many threads are worth waking only compiled code asks.
        """
        idle = lanes.wanted[running] == 0  # nothing was given to them
        groups = [running[idle], *_alike(lanes, running[~idle])]
        outcomes = [torch.zeros(2, len(groups[0]), dtype=torch.int64, device=index.device)]
        outcomes += [self._take(index, lanes, mine) for mine in groups[1:]]
        counts, done = torch.cat(outcomes, dim=1).cpu().numpy()
        return np.concatenate(groups), counts, done.astype(np.uint8)

    def results(self, index: ItemIndex, lanes: Lanes, done: np.ndarray) -> list[Results]:
        """Results of lanes int64[n], less the rows whose item changed or went since it was scored."""
        mine = torch.from_numpy(done).to(index.device, non_blocking=True)
        rows, scores = lanes.results.rows[mine], lanes.results.scores[mine]
        gone = index.versions[rows] != lanes.result_versions[mine]
        together = torch.stack([rows.masked_fill(gone, NO_ROW).int(), scores.view(torch.int32)]).cpu().numpy()
        good = together[0] != NO_ROW
        kept, ends = np.flatnonzero(good), good.sum(axis=1).cumsum().tolist()
        kept_rows, kept_scores = together[0].ravel()[kept].astype(np.int64), together[1].ravel()[kept].view(np.float32)
        return [(kept_rows[first:end], kept_scores[first:end]) for first, end in pairwise([0, *ends])]

    def _take(self, index: ItemIndex, lanes: Lanes, mine: np.ndarray) -> torch.Tensor:
        """The turn of lanes int64[n] that do the same: int64[2, n]."""
        extent = _extent(index, lanes, mine)
        recorded = self._recorder.records and index.metric.recordable and extent.stage != FILL
        outcome = self._recorder.run(
            lambda given: take_turn(index, lanes, Turn(*given.unbind()), extent),
            _asked(lanes, mine, power_of_two(len(mine)) if recorded else len(mine)),
            extent if recorded else None,
            (index.metric, *index.on_device, *lanes.on_device),
        )
        return outcome[:, : len(mine)].clone()  # before the next turn is taken in the same memory


def _alike(lanes: Lanes, running: np.ndarray) -> list[np.ndarray]:
    """Lanes int64[n] in groups: of those that are at one stage, all of which will want their tangents or none.

    And that score about as many pairs, so that who scores a thousand does not make the others' tables as wide.
    """
    sizes = np.ceil(np.log2(np.maximum(lanes.wanted[running], TILE_ROWS))).astype(np.int64)
    kinds = (sizes * 2 + lanes.later(running)) * STAGES + lanes.stages[running]
    return [running[kinds == kind] for kind in np.unique(kinds)]


def _extent(index: ItemIndex, lanes: Lanes, mine: np.ndarray) -> Extent:
    """What lanes int64[n] that are alike need; what their stage does not look at is 0."""
    stage, columns = int(lanes.stages[mine[0]]), lanes.unexpanded.shape[1]
    return Extent(
        stage,
        derive=bool(lanes.later(mine[:1])[0]),
        pairs=_room(lanes.wanted[mine], _PAIRS),
        parents=min(_room(lanes.widths[mine], _PARENTS), columns) if stage == NEAR else 0,
        clusters=int(lanes.clusters[mine].max()) if stage == FAR else 0,
        beam=min(_room(lanes.beam.sizes[mine], _KEPT), columns),
        results=min(_room(lanes.results.sizes[mine], _KEPT), lanes.result_versions.shape[1]),
        rows=_reach(index.rows, index.capacity) if stage == FAR else 0,
        grouped=bool(lanes.per_group[mine].any()),
    )


def _room(counts: np.ndarray, step: int) -> int:
    """Columns for the largest of some counts int64[n]."""
    most = int(counts.max())
    return padded(most, step) if most <= _FINE else power_of_two(most)


def _reach(rows: int, capacity: int) -> int:
    """Whole blocks that hold so many rows; up to an eighth more than that, as a recording serves until there are more.

    At most the capacity, itself whole blocks.
    """
    return min(padded(max(rows, 1), max(ROW_BLOCK, 1 << max(0, rows.bit_length() - 4))), capacity)


def _asked(lanes: Lanes, mine: np.ndarray, lines: int) -> np.ndarray:
    """The columns of a `Turn` of lanes int64[n], int64[12, lines], the spare lane in what remains."""
    evaluations = lanes.evaluations[mine]
    values = {
        "lanes": mine,
        "offered": lanes.offered[mine],
        "wanted": lanes.wanted[mine],
        "left": lanes.budgets[mine] - evaluations,
        "widths": lanes.widths[mine],
        "clusters": lanes.clusters[mine],
        "evaluations": evaluations,
        "floors": lanes.floors[mine],
        "walks": lanes.walks[mine],
        "per_group": lanes.per_group[mine],
        "beam": lanes.beam.sizes[mine],
        "results": lanes.results.sizes[mine],
    }
    asked = np.zeros((len(values), lines), np.int64)
    asked[Turn._fields.index("lanes")] = lanes.spare
    asked[:, : len(mine)] = [values[name] for name in Turn._fields]
    return asked
