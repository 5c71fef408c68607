"""The items' state in bytes: four times as many fit a cache, and a CPU multiplies bytes four times as fast."""

import numpy as np
import torch

from engine.kernels.instructions import GROUPS, LANES
from engine.kernels.products import padded
from engine.kernels.scan import write_bytes

_HEADROOM = 1.25
"""How much larger than the largest value so far one may be without everything being written anew."""


class Sketch:
    """A copy of the state, float32[rows, S], in bytes, each dimension at a scale of its own.

    scales: float32[S], what one step of a byte stands for. codes: uint8[capacity, ≥ S], 128 and so many steps, row by
    row, for reading a few. groups: uint8[≥ capacity / LANES, ⌈S / 4⌉, LANES, 4], the same for scanning all.
    """

    def __init__(self, width: int) -> None:
        self.scales = np.full(width, 1e-30, np.float32)
        self.codes = np.zeros((0, padded(width, 4 * LANES)), np.uint8)
        self.groups = np.zeros((0, padded(width, 4) // 4, LANES, 4), np.uint8)

    def write(self, state: torch.Tensor, rows: np.ndarray) -> None:
        """Take over rows int64[n] of the state float32[capacity, S]."""
        self._reserve(len(state))
        if len(rows) == 0:
            return
        values = state.numpy()[rows]
        largest = np.abs(values).max(axis=0)
        if (largest > 127 * self.scales).any():
            self.scales = np.maximum(self.scales, largest * _HEADROOM / 127).astype(np.float32)
            rows = np.arange(len(state))
            values = state.numpy()
        write_bytes(self.groups, self.codes, rows, values, self.scales)

    def _reserve(self, capacity: int) -> None:
        if capacity <= len(self.codes):
            return
        self.codes = np.concatenate([self.codes, np.zeros((capacity - len(self.codes), self.codes.shape[1]), np.uint8)])
        missing = padded(capacity, GROUPS * LANES) // LANES - len(self.groups)
        self.groups = np.concatenate([self.groups, np.full((missing, *self.groups.shape[1:]), 128, np.uint8)])
