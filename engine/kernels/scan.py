"""Level 1: inner products of many centres with every row, from bytes, each block of rows read once for all centres."""

import numpy as np
from numba import njit

from engine.kernels.instructions import CENTRES, GROUPS, LANES, lowest_bit, nonzero, scan_groups
from engine.kernels.memory import prefetch
from engine.kernels.ranking import select, sort

_BLOCK_STEPS = 128
ZERO = 128
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
def scan(groups, versions, rows, centres, lanes, keeps, marks, products, found, sizes):
    """The live rows of the largest products of each centre, largest first, without those that their lane has marked.

    groups: uint8[≥ N / LANES, quads, LANES, 4], a multiple of GROUPS, of which ``rows`` rows are in use; versions:
    int64[N], positive for live rows. centres: int8[C, 4 · quads], C a multiple of CENTRES. lanes: int64[C], −1 for
    padding. keeps: int64[C], rows wanted. marks: uint8[lanes, N]. products, found: int32[C, > keep] are
    filled, sizes: int64[C] says how far.

    A first pass over a part of the groups finds a floor that some more than the wanted rows are above, so that few are
    ever kept and given up again. Should that be too high, a centre gets fewer rows.
    """
    floors, some = np.full(len(centres), _LOWEST, np.int32), np.empty_like(keeps)
    for c in range(len(centres)):
        if lanes[c] < 0:
            floors[c] = _HIGHEST
        some[c] = min(keeps[c], keeps[c] // _SAMPLE + _MORE)
    if rows > 8 * LANES * _SAMPLE:
        _scan_every(groups, versions, rows, _SAMPLE, centres, lanes, some, marks, floors, products, found, sizes)
    _scan_every(groups, versions, rows, 1, centres, lanes, keeps, marks, floors, products, found, sizes)
    for c in range(len(centres)):
        sort(products, found, c, sizes[c])


@njit(nogil=True, cache=True)
def _scan_every(groups, versions, rows, stride, centres, lanes, keeps, marks, floors, products, found, sizes):
    """Collect the rows above their centre's floor, of GROUPS groups after each other, every ``stride`` · GROUPS.

    At the end the floor of a centre that found enough is the least that it keeps, less one.
    """
    quads, room = groups.shape[1], products.shape[1]
    count = (rows + LANES - 1) // LANES
    out, above = np.empty((GROUPS * CENTRES, LANES), np.int32), np.empty(GROUPS * CENTRES, np.uint16)
    sizes[:] = 0
    groups_at, centres_at, floors_at = groups.ctypes.data, centres.ctypes.data, floors.ctypes.data
    out_at, above_at, width, step = out.ctypes.data, above.ctypes.data, centres.shape[1], GROUPS * stride
    for block in range(0, count, _BLOCK_STEPS * step):
        for first in range(0, len(centres), CENTRES):
            for group in range(block, min(block + _BLOCK_STEPS * step, count), step):
                if not scan_groups(
                    groups_at + group * quads * 4 * LANES, centres_at + first * width, width,
                    floors_at + 4 * first, out_at, above_at, quads,
                ):  # fmt: skip
                    continue
                some = nonzero(above_at)
                while some:
                    i = lowest_bit(some)
                    some &= some - np.uint16(1)
                    bits, c = above[i], first + i % CENTRES
                    while bits:
                        place = lowest_bit(bits)
                        bits &= bits - np.uint16(1)
                        products[c, sizes[c]] = out[i, place]
                        found[c, sizes[c]] = (group + i // CENTRES) * LANES + place
                        sizes[c] += 1
                        if sizes[c] == room:
                            _choose(versions, rows, lanes, keeps, marks, floors, products, found, sizes, c)
    for c in range(len(centres)):
        _choose(versions, rows, lanes, keeps, marks, floors, products, found, sizes, c)


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
