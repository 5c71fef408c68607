"""Pairs cut into tiles of one fixed size, so that the same question always has the same answer.

A floating-point product depends on the shape of its batch: the same row scored in a batch of 3 and of 4,096
differs in its last bits. Within a tile of a fixed number of rows, padded at its end, it does not, at any position and
beside any other tiles. Exhaustive scoring uses the same tiles, so recall compares equal with equal.
"""

from dataclasses import dataclass

import numpy as np
import torch

TILE_ROWS = 64
"""Rows of one tile. Products of 64 rows reach the full rate of a CPU core; a step rarely has fewer per lane."""

_OPERAND_LENGTHS = (8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class Tiles:
    """The pairs of a step, cut up.

    rows: int64[tiles, TILE_ROWS], padded with row 0.
    lanes: int64[tiles] (numpy): the lane of each tile.
    real: bool[tiles, TILE_ROWS]: which places are pairs and which are padding.
    """

    rows: torch.Tensor
    lanes: np.ndarray
    real: torch.Tensor

    def join(self, scores: torch.Tensor) -> torch.Tensor:
        """Undo the cut: scores float32[tiles, TILE_ROWS] become float32[pairs], in the order of the pairs."""
        return scores[self.real]


def cut(rows: torch.Tensor, lane_offsets: np.ndarray) -> Tiles:
    """Cut pairs into tiles that hold one lane each.

    rows: int64[pairs], grouped by lane; lane_offsets: int64[lanes + 1], where each lane's pairs begin and end.
    """
    counts = np.diff(lane_offsets)
    tiles_per_lane = -(-counts // TILE_ROWS)
    lanes = np.repeat(np.arange(len(counts)), tiles_per_lane)
    first_tile = np.cumsum(tiles_per_lane) - tiles_per_lane
    start = lane_offsets[:-1][lanes] + (np.arange(len(lanes)) - first_tile[lanes]) * TILE_ROWS
    places = start[:, None] + np.arange(TILE_ROWS)
    real = places < lane_offsets[1:][lanes][:, None]
    index = torch.from_numpy(np.where(real, places, 0)).to(rows.device)
    real_places = torch.from_numpy(real).to(rows.device)
    return Tiles(torch.where(real_places, rows[index], 0), lanes, real_places)


def operand_length(needed: int) -> int:
    """The padded length of a lane's own operand: a product's shape may depend on its lane, never on other lanes.

    The shortest is 8: below it libraries switch to matrix-vector routines, whose bits depend on the position of a row.
    """
    for length in _OPERAND_LENGTHS:
        if needed <= length:
            return length
    return -(-needed // _OPERAND_LENGTHS[-1]) * _OPERAND_LENGTHS[-1]
