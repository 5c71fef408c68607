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
    multiply_rows_by_one,
    multiply_rows_by_quad,
    multiply_rows_by_quads,
    multiply_rows_by_three,
    multiply_rows_by_two,
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


def power_of_two(count: int) -> int:
    """The next one, so that what is made of this size has to be made anew for few others."""
    return 1 << max(0, count - 1).bit_length()


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
def multiply_rows(table, rows, others, quads, count, out):
    """out[h, i] = inner products of row rows[i] of a table with the others h < count, all float32 and contiguous.

    table: [N, S], rows: int64[LANES]. others: [≥ count, D padded to PANEL], and the same as quads: [⌈count / QUAD⌉,
    ⌈D / QUAD⌉, QUAD, QUAD], four by four, of each four dimensions after the other. out: [≥ count padded to QUAD,
    LANES]. Each number's bits depend on its row and on the others alone: not on the rows beside it.
    """
    fours, left = count // QUAD, count % QUAD
    if others.shape[1] > table.shape[1]:  # rows cannot be read to the others' last dimension, which is padding
        fours, left = (count + QUAD - 1) // QUAD, 0
    stride, depth, table_at, rows_at = table.shape[1], quads.shape[1], table.ctypes.data, rows.ctypes.data
    size = depth * LANES
    whole = fours // QUADS * QUADS
    for row in range(0, LANES, TABLE_ROWS):
        mine_at, out_at = rows_at + 8 * row, out.ctypes.data + 4 * row
        for quad in range(0, whole, QUADS):
            multiply_rows_by_quads(
                table_at, stride, mine_at, quads.ctypes.data + 4 * quad * size, size, depth,
                out_at + 4 * quad * QUAD * LANES, LANES,
            )  # fmt: skip
        for quad in range(whole, fours):
            multiply_rows_by_quad(
                table_at, stride, mine_at, quads.ctypes.data + 4 * quad * size, size, depth,
                out_at + 4 * quad * QUAD * LANES, LANES,
            )  # fmt: skip
        width, others_at = others.shape[1], others.ctypes.data + 4 * fours * QUAD * others.shape[1]
        out_at += 4 * fours * QUAD * LANES
        if left == 3:
            multiply_rows_by_three(table_at, stride, mine_at, others_at, width, width // LANES, out_at, LANES)
        elif left == 2:
            multiply_rows_by_two(table_at, stride, mine_at, others_at, width, width // LANES, out_at, LANES)
        elif left == 1:
            multiply_rows_by_one(table_at, stride, mine_at, others_at, width, width // LANES, out_at, LANES)


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
