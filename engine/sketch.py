"""The items' state in bytes: four times as many fit a cache, and a CPU multiplies bytes four times as fast."""

import numpy as np
import torch

from engine.kernels.byte_products import GROUPS, MATRIX_QUADS, matrix_unit
from engine.kernels.instructions import LANES
from engine.kernels.products import padded
from engine.kernels.scan import ZERO, write_bytes

_HEADROOM = 1.25
"""How much larger than the largest value so far one may be without everything being written anew."""


class Sketch:
    """A copy of the state, float32[rows, S], in bytes, each dimension at a scale of its own.

    scales: float32[S], what one step of a byte stands for. codes: uint8[capacity, ≥ S], 128 and so many steps, row by
    row, for reading a few. interleaved: uint8[≥ capacity / LANES, ≥ ⌈S / 4⌉, LANES, 4], the same for scanning all.
    """

    def __init__(self, width: int) -> None:
        self.scales = np.full(width, 1e-30, np.float32)
        self.codes = _filled((0, padded(width, 4 * LANES)), 0)
        quads = padded(width, 4) // 4
        if matrix_unit() is not None:
            quads = padded(quads, MATRIX_QUADS)
        self.interleaved = _filled((0, quads, LANES, 4), ZERO)

    def write(self, state: torch.Tensor, rows: np.ndarray) -> None:
        """Take over rows int64[n] of the state float32[capacity, S]."""
        self.reserve(len(state))
        if len(rows) == 0:
            return
        values = state.numpy()[rows]
        largest = np.abs(values).max(axis=0)
        if (largest > 127 * self.scales).any():
            np.maximum(self.scales, largest * _HEADROOM / 127, out=self.scales)
            rows = np.arange(len(state))
            values = state.numpy()
        write_bytes(self.interleaved, self.codes, rows, values, self.scales)

    def reserve(self, capacity: int) -> None:
        """Make room for so many rows."""
        if capacity <= len(self.codes):
            return
        self.codes = _lengthened(self.codes, capacity, 0)
        self.interleaved = _lengthened(self.interleaved, padded(capacity, GROUPS * LANES) // LANES, ZERO)


def _lengthened(column: np.ndarray, length: int, filling: int) -> np.ndarray:
    longer = _filled((length, *column.shape[1:]), filling)
    longer[: len(column)] = column
    return longer


def _filled(shape: tuple[int, ...], filling: int) -> np.ndarray:
    """By torch, whose arrays begin with a line of the cache: so does each row then, and each vector of a scan."""
    return torch.full(shape, filling, dtype=torch.uint8).numpy()
