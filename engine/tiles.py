"""Pairs cut into tiles of one fixed size, so that the same question always has the same answer.

A floating-point product depends on the shape of its batch: the same row scored in a batch of 3 and of 4,096
differs in its last bits. Within a tile of a fixed number of rows, padded at its end, it does not, at any position and
beside any other tiles. Exhaustive scoring uses the same tiles, so recall compares equal with equal.
"""

from dataclasses import dataclass

import torch

TILE_ROWS = 64
"""Rows of one tile. Products of 64 rows reach the full rate of a CPU core; a step rarely has fewer per lane."""

OPERAND_COLUMNS = 8
"""A product with one vector is made with so many: below it libraries switch to matrix-vector routines, whose bits
depend on the position of a row."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """The pairs of a step, cut up.

    rows: int64[tiles, TILE_ROWS], row 0 where there is none. lines: int64[tiles], which line of the pairs each tile is
    of. real: bool[tiles, TILE_ROWS]: which places are pairs and which are padding. Tiles without any pair are among
    them: to leave them out the host would have to wait for the device.
    """

    rows: torch.Tensor
    lines: torch.Tensor
    real: torch.Tensor
    _shape: torch.Size

    def join(self, values: torch.Tensor, fill: float) -> torch.Tensor:
        """Undo the cut: values [tiles, TILE_ROWS, …] become [lines, pairs, …], with ``fill`` where there is no pair."""
        beyond = values.shape[2:]
        real = self.real.reshape(self.real.shape + (1,) * len(beyond))
        lines, pairs = self._shape
        return torch.where(real, values, fill).reshape(lines, pairs + -pairs % TILE_ROWS, *beyond)[:, :pairs]


def cut(rows: torch.Tensor) -> Tiles:
    """Cut pairs, int64[lines, pairs] with −1 for none, into tiles of one line each."""
    lines, pairs = rows.shape
    padding = -pairs % TILE_ROWS
    every = torch.nn.functional.pad(rows, (0, padding), value=-1).reshape(-1, TILE_ROWS)
    line = torch.arange(lines, device=rows.device).repeat_interleave((pairs + padding) // TILE_ROWS)
    return Tiles(every.clamp(min=0), line, every >= 0, rows.shape)
