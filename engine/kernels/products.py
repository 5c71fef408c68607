"""Matrix products in compiled code, for metrics that score in kernels of their own."""

from numba import njit

from engine.kernels import UNCOUNTED
from engine.kernels.float_products import (
    QUAD,
    QUADS,
    TABLE_ROWS,
    TILE_COLUMNS,
    TILE_ROWS,
    multiply_column,
    multiply_rows_by_quad,
    multiply_rows_by_quads,
    multiply_tile,
)
from engine.kernels.instructions import LANES

PANEL = LANES
"""Matrices' widths are padded to a multiple of this, the width of the narrowest product."""

ROWS = 8
"""Products are made of so many rows at a time, the last ones padded; a multiple of a tile's rows on any CPU."""


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


@njit(**UNCOUNTED)
def multiply_rows(table, rows, others, count, out):
    """out[:QUAD · count, i] = inner products of row rows[i] of a table with others, all float32 and contiguous.

    table: [N, ≥ QUAD · depth], rows: int64[LANES], others: [≥ count, depth, QUAD, QUAD], out: [≥ QUAD · count, LANES].
    Others lie four by four, of each four dimensions after the other. Each number's bits depend on its two rows alone.
    """
    width, depth, rows_at, out_at = table.shape[1], others.shape[1], rows.ctypes.data, out.ctypes.data
    whole = count // QUADS * QUADS
    for quad in range(0, whole, QUADS):
        for row in range(0, LANES, TABLE_ROWS):
            multiply_rows_by_quads(
                table.ctypes.data, width, rows_at + 8 * row, others.ctypes.data + 4 * quad * depth * LANES, depth,
                out_at + 4 * (quad * QUAD * LANES + row), LANES,
            )  # fmt: skip
    for quad in range(whole, count):
        for row in range(0, LANES, TABLE_ROWS):
            multiply_rows_by_quad(
                table.ctypes.data, width, rows_at + 8 * row, others.ctypes.data + 4 * quad * depth * LANES, depth,
                out_at + 4 * (quad * QUAD * LANES + row), LANES,
            )  # fmt: skip


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
