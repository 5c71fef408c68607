"""Level 1: inner products of many centres with every row, from bytes, each block of rows read once for all centres."""

from typing import NamedTuple

import numpy as np
from numba import njit

from engine.kernels import UNCOUNTED
from engine.kernels.byte_products import (
    CENTRES,
    GROUPS,
    find_above,
    multiply_by_matrix_unit,
    multiply_by_vectors,
    rows_above,
    set_up_matrix_unit,
)
from engine.kernels.instructions import LANES, bytes_below, lowest_bit, prefetch
from engine.kernels.ranking import key_of, row_of, select, sort, value_of

ZERO = 128

ROOM = 4
"""For how many times as many rows as it keeps a centre has room, before it chooses among them."""

SPARE = 3
"""Rows to spare in a sample, where it does not matter that a centre gets fewer rows now and then."""

_BLOCK_BYTES = 2**14
"""Of rows that all centres are multiplied with while they are in the cache."""

_LINE = 64
_SAMPLE = 16
_LOWEST, _HIGHEST = -(2**31), 2**31 - 1


class Scanned(NamedTuple):
    """What is scanned, and for whom.

    groups: uint8[≥ N / LANES, quads, LANES, 4], a multiple of GROUPS, of which ``rows`` rows are in use; versions:
    int64[N], positive for live rows. centres: int8[C, 4 · quads], C a multiple of CENTRES; owners: int64[C], the lane
    of each, −1 for padding behind the others. marks: uint8[lanes, ≥ rows of these groups], and
    floors: int64[lanes], as in `engine.kernels.marks`.
    """

    groups: np.ndarray
    versions: np.ndarray
    rows: int
    centres: np.ndarray
    owners: np.ndarray
    marks: np.ndarray
    floors: np.ndarray


class Scratch(NamedTuple):
    """What a scan works in.

    products: int32[2, GROUPS, CENTRES, LANES], two blocks, of which one is looked through while the matrix unit makes
    the other; setups: uint8[2, 64], how the matrix unit was set up.
    """

    products: np.ndarray
    setups: np.ndarray


@njit(nogil=True, cache=True)
def write_bytes(groups, codes, rows, values, scales):
    """Write values float32[n, D] of rows int64[n] into groups uint8[…, quads, LANES, 4] and codes uint8[N, ≥ D]."""
    for i in range(len(rows)):
        row = rows[i]
        group, place = row // LANES, row % LANES
        for d in range(values.shape[1]):
            step = min(max(np.rint(values[i, d] / scales[d]), -127.0), 127.0)
            codes[row, d] = groups[group, d // 4, place, d % 4] = np.uint8(step + ZERO)


@njit(**UNCOUNTED, fastmath=True)
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
def scan(scanned, keeps, found, sizes, matrix_unit, spare):
    """The live rows of the largest products of each centre, largest first, without those that their lane has marked.

    keeps: int64[C], rows wanted, 1 at least. found: int64[C, ≥ ROOM · keep] is filled with keys of products and rows,
    sizes: int64[C] says how far. matrix_unit: see `engine.kernels.byte_products.matrix_unit`.

    A first pass over a part of the groups finds a floor that some more than the wanted rows are above, so that few are
    ever kept and given up again: so many are to spare in the part. Should it be too high, a centre gets fewer rows;
    with as many to spare as are wanted it never is.
    """
    count = len(scanned.centres)
    floors, some, copy = np.full(count, _LOWEST, np.int32), np.empty_like(keeps), np.empty(found.shape[1], np.int64)
    products = _aligned(2 * GROUPS * CENTRES * LANES).reshape(2, GROUPS, CENTRES, LANES)
    scratch = Scratch(products, np.empty((2, 64), np.uint8))
    for c in range(count):
        if scanned.owners[c] < 0:
            floors[c] = _HIGHEST  # its products may never be made
        some[c] = min(keeps[c], keeps[c] // _SAMPLE + spare)
    if scanned.rows > 8 * LANES * _SAMPLE:
        _scan_every(scanned, _SAMPLE, some, floors, found, sizes, scratch, matrix_unit)
    _scan_every(scanned, 1, keeps, floors, found, sizes, scratch, matrix_unit)
    for c in range(count):
        sort(found, c, sizes[c], copy)


@njit(nogil=True, cache=True)
def find_along(first, last, slopes, own, items, rows, matrix_unit, found):
    """The live rows farthest along slopes float32[n, S], farthest first, each without its own, int64[n].

    items: `engine.kernels.columns.ItemColumns` with ``rows`` in use. found: int64[n, width], −1 so far.
    """
    count, width = last - first, found.shape[1]
    places = (count + CENTRES - 1) // CENTRES * CENTRES
    centres, owners = np.zeros((places, 4 * items.interleaved.shape[1]), np.int8), np.full(places, -1)
    for c in range(count):
        centre_bytes(slopes, first + c, items.scales, centres, c)
        owners[c] = 0
    keys, sizes = np.empty((places, ROOM * (width + 1)), np.int64), np.zeros(places, np.int64)
    marks, floors = np.zeros((1, len(items.interleaved) * LANES), np.uint8), np.ones(1, np.int64)
    scanned = Scanned(items.interleaved, items.versions, rows, centres, owners, marks, floors)
    keeps = np.full(places, width + 1)
    # What is found here stays: so that a part with more than its share hides nothing, five deviations are to spare.
    scan(scanned, keeps, keys, sizes, matrix_unit, SPARE + int(5 * np.sqrt(width / _SAMPLE)))
    if sizes[:count].min() <= width:
        scan(scanned, keeps, keys, sizes, matrix_unit, width)
    for c in range(count):
        taken = 0
        for place in range(sizes[c]):
            row = row_of(keys[c, place])
            if taken < width and row != own[first + c]:
                found[first + c, taken] = row
                taken += 1


@njit(**UNCOUNTED)
def _scan_every(scanned, stride, keeps, floors, found, sizes, scratch, matrix_unit):
    """Collect the rows above their centre's floor, of GROUPS groups after each other, every ``stride`` · GROUPS.

    At the end the floor of a centre that found enough is the least that it keeps, less one.
    """
    groups, centres = scanned.groups, scanned.centres
    quads, width, count, step = groups.shape[1], centres.shape[1], (scanned.rows + LANES - 1) // LANES, GROUPS * stride
    products, setups = scratch.products, scratch.setups
    bytes_a_step, tiles = GROUPS * quads * 4 * LANES, len(centres) // CENTRES
    block = max(1, _BLOCK_BYTES // bytes_a_step) * step
    lines_ahead = (bytes_a_step // _LINE + tiles - 1) // max(tiles, 1)
    sizes[:] = 0
    if matrix_unit is not None:
        set_up_matrix_unit(matrix_unit.ctypes.data, setups.ctypes.data)
    turn = 0
    for start in range(0, count, block):
        stop = min(start + block, count)
        for first in range(0, len(centres), CENTRES):
            centres_at, several = centres.ctypes.data + first * width, _owned(scanned.owners, first)
            for group in range(start, stop + step, step):  # once more than there are: each waits for the next to begin
                products_at = products[turn].ctypes.data
                if group < stop:
                    group_at = groups.ctypes.data + group * quads * 4 * LANES
                    # While this block is multiplied, the next one comes nearer, a part with every tile of centres.
                    ahead_at = group_at + block * quads * 4 * LANES + first // CENTRES * lines_ahead * _LINE
                    for line in range(lines_ahead):
                        prefetch(ahead_at + line * _LINE)
                    if matrix_unit is None:
                        multiply_by_vectors(group_at, quads, centres_at, several, width, products_at)
                    else:
                        multiply_by_matrix_unit(group_at, quads, centres_at, width, products_at)
                turn = 1 - turn
                before_at = products[turn].ctypes.data
                some = find_above(before_at, floors.ctypes.data + 4 * first) if group > start else np.uint64(0)
                _collect(scanned, products, turn, some, group - step, first, keeps, floors, found, sizes)
    if matrix_unit is not None:
        set_up_matrix_unit(setups.ctypes.data, setups[1:].ctypes.data)  # as others on this thread left it
    for c in range(len(centres)):
        _choose(scanned, keeps, floors, found, sizes, c)


@njit(**UNCOUNTED)
def _owned(owners, first):
    """How many centres there are in the tile that begins with this one: padding stands behind them."""
    several = 0
    while several < CENTRES and owners[first + several] >= 0:
        several += 1
    return several


@njit(nogil=True, cache=True, inline="always")
def _aligned(count):
    """int32[count] that begin with a line of the cache: a vector in two of them takes twice as long."""
    ints = np.empty(count + 16, np.int32)
    first = -(ints.ctypes.data // 4) % 16
    return ints[first : first + count]


@njit(nogil=True, cache=True, inline="always")
def _collect(scanned, products, turn, some, group, first, keeps, floors, found, sizes):
    """Take in what is above its floor of products[turn], of the rows from a group and the centres from ``first`` on.

    some: for which of these there is any, a bit each.
    """
    marks, row = scanned.marks, group * LANES
    while some:
        i = lowest_bit(some)
        some &= some - np.uint64(1)
        c = first + i
        size, room, owner = sizes[c], ROOM * keeps[c], scanned.owners[c]
        bits = rows_above(products[turn].ctypes.data, i, floors[c])
        bits &= bytes_below(marks.ctypes.data + marks.shape[1] * owner + row, scanned.floors[owner])
        while bits:
            place = lowest_bit(bits)
            bits &= bits - np.uint64(1)
            found[c, size] = key_of(products[turn, place // LANES, i, place % LANES], row + place)
            size += 1
            if size >= room:
                sizes[c] = size
                _choose(scanned, keeps, floors, found, sizes, c)
                size = sizes[c]
        sizes[c] = size


@njit(**UNCOUNTED)
def _choose(scanned, keeps, floors, found, sizes, c):
    """Of what a centre has collected keep the best that are live."""
    versions = scanned.versions
    for place in range(sizes[c]):  # all on their way before the first is waited for
        prefetch(versions.ctypes.data + versions.itemsize * row_of(found[c, place]))
    kept = 0
    for place in range(sizes[c]):
        row = row_of(found[c, place])
        found[c, kept] = found[c, place]
        kept += row < scanned.rows and versions[row] > 0
    if kept > keeps[c]:
        select(found, c, 0, kept, keeps[c])
        kept = keeps[c]
    if kept == keeps[c]:
        least = found[c, 0]
        for place in range(kept):
            least = min(least, found[c, place])
        floors[c] = max(floors[c], value_of(least) - 1)
    sizes[c] = kept
