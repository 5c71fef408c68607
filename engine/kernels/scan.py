"""Level 1: inner products of many centres with every row, from bytes, each block of rows read once for all centres."""

import numpy as np
from numba import njit

from engine.kernels.byte_products import (
    CENTRES,
    GROUPS,
    find_above,
    multiply_by_matrix_unit,
    multiply_by_vectors,
    set_up_matrix_unit,
)
from engine.kernels.instructions import LANES, lowest_bit, nonzero, prefetch
from engine.kernels.ranking import select, sort

ZERO = 128

ROOM = GROUPS + 1
"""For how many times as many rows as it keeps a centre has room, before it chooses among them: for one beside the rows
of all groups at least."""

_BLOCK_BYTES = 2**15
"""Of rows that all centres are multiplied with while they are in the cache."""

_LINE = 64
_SAMPLE, _MORE = 16, 3
_LOWEST, _HIGHEST = -(2**31), 2**31 - 1


@njit(nogil=True, cache=True)
def write_bytes(groups, codes, rows, values, scales):
    """Write values float32[n, D] of rows int64[n] into groups uint8[…, quads, LANES, 4] and codes uint8[N, ≥ D]."""
    for i in range(len(rows)):
        row = rows[i]
        group, place = row // LANES, row % LANES
        for d in range(values.shape[1]):
            step = min(max(np.rint(values[i, d] / scales[d]), -127.0), 127.0)
            codes[row, d] = groups[group, d // 4, place, d % 4] = np.uint8(step + ZERO)


@njit(nogil=True, cache=True, fastmath=True)
def centre_bytes(centres, c, scales, out, place):
    """Centre c of float32[C, ≥ D] as out[place] of int8[…, ≥ D], at a scale of its own, which is returned."""
    largest = np.float32(1e-30)
    for d in range(len(scales)):
        largest = max(largest, abs(centres[c, d] * scales[d]))
    factor = np.float32(127) / largest
    for d in range(len(scales)):  # rounded by cutting off what is positive: a loop of vectors
        out[place, d] = np.int32(centres[c, d] * scales[d] * factor + np.float32(ZERO + 0.5)) - ZERO
    return largest / np.float32(127)


@njit(nogil=True, cache=True)
def scan(groups, versions, rows, centres, lanes, keeps, marks, products, found, sizes, matrix_unit):
    """The live rows of the largest products of each centre, largest first, without those that their lane has marked.

    groups: uint8[≥ N / LANES, quads, LANES, 4], a multiple of GROUPS, of which ``rows`` rows are in use; versions:
    int64[N], positive for live rows. centres: int8[C, 4 · quads], C a multiple of CENTRES. lanes: int64[C], −1 for
    padding. keeps: int64[C], rows wanted. marks: uint8[lanes, N]. products, found: int32[C, ≥ ROOM · keep] are filled,
    sizes: int64[C] says how far. matrix_unit: see `engine.kernels.byte_products.matrix_unit`.

    A first pass over a part of the groups finds a floor that some more than the wanted rows are above, so that few are
    ever kept and given up again. Should that be too high, a centre gets fewer rows.
    """
    floors, some = np.full(len(centres), _LOWEST, np.int32), np.empty_like(keeps)
    # Made here, so that it is there to the end: numba gives up an array after its last mention, be it as an address.
    setups = np.empty((2, 64), np.uint8)
    for c in range(len(centres)):
        if lanes[c] < 0:
            floors[c] = _HIGHEST
        some[c] = min(keeps[c], keeps[c] // _SAMPLE + _MORE)
    if rows > 8 * LANES * _SAMPLE:
        _scan_every(
            groups, versions, rows, _SAMPLE, centres, lanes, some, marks, floors, products, found, sizes, matrix_unit,
            setups,
        )  # fmt: skip
    _scan_every(
        groups, versions, rows, 1, centres, lanes, keeps, marks, floors, products, found, sizes, matrix_unit, setups
    )
    for c in range(len(centres)):
        sort(products, found, c, sizes[c])


@njit(nogil=True, cache=True)
def _scan_every(
    groups, versions, rows, stride, centres, lanes, keeps, marks, floors, products, found, sizes, matrix_unit, setups
):
    """Collect the rows above their centre's floor, of GROUPS groups after each other, every ``stride`` · GROUPS.

    At the end the floor of a centre that found enough is the least that it keeps, less one.
    """
    quads, width, count = groups.shape[1], centres.shape[1], (rows + LANES - 1) // LANES
    out, above = _aligned(GROUPS * CENTRES * LANES).reshape(GROUPS, CENTRES, LANES), np.zeros(LANES, np.uint16)
    groups_at, centres_at, floors_at = groups.ctypes.data, centres.ctypes.data, floors.ctypes.data
    out_at, above_at, step = out.ctypes.data, above.ctypes.data, GROUPS * stride
    bytes_a_step, tiles = GROUPS * quads * 4 * LANES, len(centres) // CENTRES
    block = max(1, _BLOCK_BYTES // bytes_a_step) * step
    lines_ahead = (bytes_a_step // _LINE + tiles - 1) // max(tiles, 1)
    sizes[:] = 0
    if matrix_unit is not None:
        set_up_matrix_unit(matrix_unit.ctypes.data, setups.ctypes.data)
    for start in range(0, count, block):
        for first in range(0, len(centres), CENTRES):
            for group in range(start, min(start + block, count), step):
                # While this block is multiplied, the next one comes nearer, a part with every tile of centres.
                ahead_at = groups_at + (group + block) * quads * 4 * LANES + first // CENTRES * lines_ahead * _LINE
                for line in range(lines_ahead):
                    prefetch(ahead_at + line * _LINE)
                block_at, block_centres_at = groups_at + group * quads * 4 * LANES, centres_at + first * width
                if matrix_unit is None:
                    multiply_by_vectors(block_at, quads, block_centres_at, width, out_at)
                else:
                    multiply_by_matrix_unit(block_at, quads, block_centres_at, width, out_at)
                if not find_above(out_at, floors_at + 4 * first, above_at):
                    continue
                some = nonzero(above_at)
                while some:
                    i = lowest_bit(some)
                    some &= some - np.uint16(1)
                    bits, c = above[i], first + i
                    while bits:
                        place, size, floor = lowest_bit(bits), sizes[c], floors[c]
                        bits &= bits - np.uint16(1)
                        for g in range(GROUPS):  # kept or overwritten by the next: a CPU could not foresee a branch
                            products[c, size] = out[g, i, place]
                            found[c, size] = (group + g) * LANES + place
                            size += out[g, i, place] > floor
                        sizes[c] = size
                        if size + GROUPS > ROOM * keeps[c]:
                            _choose(versions, rows, lanes, keeps, marks, floors, products, found, sizes, c)
    if matrix_unit is not None:
        set_up_matrix_unit(setups.ctypes.data, setups[1:].ctypes.data)  # as others on this thread left it
    for c in range(len(centres)):
        _choose(versions, rows, lanes, keeps, marks, floors, products, found, sizes, c)


@njit(nogil=True, cache=True, inline="always")
def _aligned(count):
    """int32[count] that begin with a line of the cache: a vector in two of them takes twice as long."""
    ints = np.empty(count + 16, np.int32)
    first = -(ints.ctypes.data // 4) % 16
    return ints[first : first + count]


@njit(nogil=True, cache=True)
def _choose(versions, rows, lanes, keeps, marks, floors, products, found, sizes, c):
    """Of what a centre has collected keep the best that are live and not marked."""
    for place in range(sizes[c]):  # all on their way before the first is waited for
        prefetch(versions.ctypes.data + versions.itemsize * found[c, place])
        prefetch(marks.ctypes.data + marks.shape[1] * lanes[c] + found[c, place])
    kept = 0
    for place in range(sizes[c]):
        row = found[c, place]
        if row < rows and marks[lanes[c], row] == 0 and versions[row] > 0:
            products[c, kept], found[c, kept] = products[c, place], row
            kept += 1
    if kept > keeps[c]:
        select(products, found, c, kept, keeps[c])
        kept = keeps[c]
    if kept == keeps[c]:
        least = products[c, 0]
        for place in range(kept):
            least = min(least, products[c, place])
        floors[c] = max(floors[c], least - 1)
    sizes[c] = kept
