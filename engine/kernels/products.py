"""Matrix products and exponentials in compiled code, for metrics that score in kernels of their own."""

import numpy as np
from numba import njit

from engine.kernels import UNCOUNTED
from engine.kernels.float_products import TILE_COLUMNS, TILE_ROWS, multiply_column, multiply_tile
from engine.kernels.instructions import LANES, float_of_bits

PANEL = LANES
"""Matrices' widths are padded to a multiple of this, the width of the narrowest product."""

ROWS = 8
"""Products are made of so many rows at a time, the last ones padded; a multiple of a tile's rows on any CPU."""

_LOG2_E = np.float32(1.4426950408889634)
_LOWEST = np.float32(-87.0)


def padded(count: int, to: int) -> int:
    """The next multiple of ``to``."""
    return -(-count // to) * to


@njit(**UNCOUNTED)
def multiply(a, b, bias, out, rows):
    """out[:rows] = a[:rows] · b + bias, all float32 and contiguous.

    a: [≥ rows, ≥ K], b: [K, N], bias: [≥ N], out: [≥ rows, ≥ N]. ``rows`` is a multiple of ROWS, N one of PANEL. Each
    row's bits depend on that row, ``b`` and ``bias`` alone.
    """
    _multiply(a, b, bias.ctypes.data, 0, out, rows)


@njit(**UNCOUNTED)
def multiply_onto(a, b, out, rows):
    """out[:rows] += a[:rows] · b, with shapes as for `multiply`."""
    _multiply(a, b, out.ctypes.data, out.shape[1], out, rows)


@njit(nogil=True, cache=True, inline="always")
def _multiply(a, b, start_at, start_stride, out, rows):
    depth, width = b.shape
    a_at, b_at, out_at = a.ctypes.data, b.ctypes.data, out.ctypes.data
    a_stride, out_stride = a.shape[1], out.shape[1]
    whole = width // TILE_COLUMNS * TILE_COLUMNS
    for column in range(0, whole, TILE_COLUMNS):
        for row in range(0, rows, TILE_ROWS):
            multiply_tile(
                a_at + 4 * row * a_stride, a_stride, b_at + 4 * column, width,
                start_at + 4 * (row * start_stride + column), start_stride,
                out_at + 4 * (row * out_stride + column), out_stride, depth,
            )  # fmt: skip
    for column in range(whole, width, LANES):
        for row in range(0, rows, TILE_ROWS):
            multiply_column(
                a_at + 4 * row * a_stride, a_stride, b_at + 4 * column, width,
                start_at + 4 * (row * start_stride + column), start_stride,
                out_at + 4 * (row * out_stride + column), out_stride, depth,
            )  # fmt: skip


@njit(nogil=True, cache=True, inline="always", fastmath=True)
def exp(x):
    """e^x for float32 x ≤ 88, within 2 units of its last place; 0 below −87. In a loop LLVM makes vectors of it.

    2^n · 2^f with a polynomial for f in [−½, ½] (Cephes, expf).
    """
    clipped = max(x, _LOWEST)
    n = np.floor(clipped * _LOG2_E + np.float32(0.5))
    f = clipped - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * f + np.float32(1.3981999507e-3)
    p = p * f + np.float32(8.3334519073e-3)
    p = p * f + np.float32(4.1665795894e-2)
    p = p * f + np.float32(1.6666665459e-1)
    p = p * f + np.float32(5.0000001201e-1)
    p = p * f * f + f + np.float32(1.0)
    value = p * float_of_bits((np.int32(n) + np.int32(127)) << np.int32(23))
    return value if x > _LOWEST else np.float32(0.0)
