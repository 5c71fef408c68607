"""Building the graph in compiled code: the nearest of a block, the walk under L2, relative-neighbourhood pruning.

Points lie in one flat array, a row every ``stride`` elements, so that a column of a wider state is read where it is.
Lists of candidates are sorted, nearest first, ties to the lower row: what is found does not depend on threads.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from engine.kernels.instructions import TILE_COLUMNS, TILE_ROWS, multiply_tile
from engine.kernels.memory import prefetch

_INEXACT = {"reassoc", "nsz"}
_BLOCK = 64
_LINE = 16


@njit(nogil=True, cache=True, fastmath=_INEXACT)
def squared_distance(a, b):
    """‖a − b‖² of float32[G] and float32[G]."""
    total = np.float32(0)
    for d in range(len(a)):
        difference = a[d] - b[d]
        total += difference * difference
    return total


@njit(nogil=True, cache=True)
def insert(distances, rows, size, distance, row):
    """Put a candidate that is not there yet into its place of a sorted list, where a full one gives up its last.

    distances, rows: the list, of which ``size`` places are taken; an expanded row r is held as ~r. Returns the place
    that was taken, or the length of the list.
    """
    room = len(rows)
    if size == room:
        if distance >= distances[room - 1]:
            return room
        size -= 1
    place = size
    while place > 0:
        before = distances[place - 1]
        if before < distance or (before == distance and max(rows[place - 1], ~rows[place - 1]) < row):
            break
        distances[place], rows[place] = before, rows[place - 1]
        place -= 1
    distances[place], rows[place] = distance, row
    return place


@njit(nogil=True, cache=True)
def take_nearest(products, norms, usable, own, first, distances, rows, sizes):
    """Take the nearest of a block of points into the sorted list of each target.

    products: float32[n, m], target · point. norms: float32[m], ‖point‖². usable: bool[m], which points may be taken.
    own: int64[n], the number of the target itself, never taken. first: the number of the block's first point.
    distances, rows: float32 and int32[n, count], the lists, by ‖point‖² − 2 · target · point. sizes: int64[n].
    """
    room = distances.shape[1]
    for i in range(len(products)):
        mine, found, size = distances[i], rows[i], sizes[i]
        for start in range(0, len(norms), _BLOCK):
            stop = min(start + _BLOCK, len(norms))
            floor = mine[room - 1] if size == room else np.float32(np.inf)
            nearer = 0
            for j in range(start, stop):
                nearer += norms[j] - np.float32(2) * products[i, j] < floor
            if nearer == 0:
                continue
            for j in range(start, stop):
                distance = norms[j] - np.float32(2) * products[i, j]
                if distance < floor and usable[j] and first + j != own[i]:
                    insert(mine, found, size, distance, first + j)
                    size = min(size + 1, room)
        sizes[i] = size


@njit(nogil=True, cache=True)
def walk(points, stride, neighbors, entries, targets, distances, rows):
    """For each target the nearest rows that a best-first walk of the graph from the entries comes to.

    points: float32[≥ rows · stride]. neighbors: int32[rows, R]. entries: int32[e]. targets: float32[n, G].
    distances, rows: float32 and int32[n, beam], filled with inf and −1, are the beams. Returns evaluations.
    """
    marks = np.zeros(len(neighbors), np.uint8)
    unseen = np.empty(max(neighbors.shape[1], len(entries)), np.int64)
    evaluations = 0
    for i in range(len(targets)):
        mark = np.uint8(i % 255 + 1)
        if mark == 1:
            marks[:] = 0
        count = _unmarked(entries, marks, mark, unseen, points, stride, targets.shape[1])
        size, _ = _visit(points, stride, targets[i], unseen[:count], distances[i], rows[i], 0)
        evaluations += count
        place = 0
        while place < size:
            row = rows[i, place]
            if row < 0:
                place += 1
                continue
            rows[i, place] = ~row
            count = _unmarked(neighbors[row], marks, mark, unseen, points, stride, targets.shape[1])
            size, lowest = _visit(points, stride, targets[i], unseen[:count], distances[i], rows[i], size)
            evaluations += count
            place = min(place + 1, lowest)
        for place in range(size):
            rows[i, place] = ~rows[i, place]
    return evaluations


@njit(nogil=True, cache=True)
def _unmarked(candidates, marks, mark, unseen, points, stride, width):
    """Mark the candidates and list those that were not in ``unseen``; their points are on the way to the cache."""
    count = 0
    start = points.ctypes.data
    for candidate in candidates:
        if candidate < 0:
            break
        if marks[candidate] != mark:
            marks[candidate] = mark
            unseen[count] = candidate
            count += 1
            for d in range(0, width, _LINE):
                prefetch(start + 4 * (candidate * stride + d))
    return count


@njit(nogil=True, cache=True)
def _visit(points, stride, target, unseen, distances, rows, size):
    """Take rows into a beam; returns its size and the lowest place that changed."""
    lowest = len(rows)
    for row in unseen:
        start = row * stride
        distance = squared_distance(points[start : start + len(target)], target)
        place = insert(distances, rows, size, distance, row)
        if place < len(rows):
            size = min(size + 1, len(rows))
            lowest = min(lowest, place)
    return size, lowest


class Points(NamedTuple):
    """The points of an index once a batch is in it: `engine.neighbors.Points` as kernels read them.

    stored: float32[≥ rows · stride]. fresh: float32[f, G]; place: int32[≥ rows], 1 + where in ``fresh`` a row's point
    is, 0 for in ``stored``.
    """

    stored: np.ndarray
    stride: int
    fresh: np.ndarray
    place: np.ndarray


@njit(nogil=True, cache=True)
def _point(points, row):
    if points.place[row] > 0:
        return points.fresh[points.place[row] - 1]
    start = row * points.stride
    return points.stored[start : start + points.fresh.shape[1]]


@njit(nogil=True, cache=True)
def prune(points, rows, pool, alpha, links, distances):
    """Up to R links of each row out of its pool: relative neighbourhoods, then the nearest of what is left.

    rows: int64[n]. pool: int32[n, c], −1 for none; repeats and the row itself count for nothing.
    links, distances: int32 and float32[n, R], filled with −1 and inf.
    """
    near, members = np.empty(pool.shape[1], np.float32), np.empty(pool.shape[1], np.int32)
    scratch = _scratch(pool.shape[1], points.fresh.shape[1])
    for i in range(len(rows)):
        own = _point(points, rows[i])
        count = 0
        for candidate in pool[i]:
            if candidate >= 0 and candidate != rows[i]:
                insert(near, members, count, squared_distance(_point(points, candidate), own), candidate)
                count += 1
        count = _without_repeats(near, members, count)
        _gather(points, members[:count], scratch)
        _choose(near[:count], alpha * alpha, links.shape[1], scratch)
        taken = 0
        for c in range(count):
            if scratch.chosen[c]:
                links[i, taken], distances[i, taken] = members[c], near[c]
                taken += 1


@njit(nogil=True, cache=True)
def _without_repeats(near, members, count):
    """Close the gaps of a sorted list; a row that comes again stands beside itself. Returns how many are left."""
    kept = 0
    for c in range(count):
        if c == 0 or members[c] != members[c - 1]:
            near[kept], members[kept] = near[c], members[c]
            kept += 1
    return kept


class Scratch(NamedTuple):
    """The candidates of one row while links are chosen among them; w: their number, filled up to whole tiles.

    block: float32[w, G], their points; across: float32[G, w], the same. norms: float32[w]. products: float32[tile, w],
    of a tile of them with all. chosen: bool[w]. left_out: uint8[w]. nothing: float32[tile], zeros.
    """

    block: np.ndarray
    across: np.ndarray
    norms: np.ndarray
    products: np.ndarray
    chosen: np.ndarray
    left_out: np.ndarray
    nothing: np.ndarray


@njit(nogil=True, cache=True)
def _scratch(candidates, dimensions):
    width = -(-candidates // TILE_COLUMNS) * TILE_COLUMNS
    return Scratch(
        np.zeros((width, dimensions), np.float32),
        np.zeros((dimensions, width), np.float32),
        np.zeros(width, np.float32),
        np.empty((TILE_ROWS, width), np.float32),
        np.empty(width, np.bool_),
        np.empty(width, np.uint8),
        np.zeros(TILE_COLUMNS, np.float32),
    )


@njit(nogil=True, cache=True)
def _gather(points, members, scratch):
    """Read the points of candidates int32[c] into the scratch."""
    origin = np.zeros(points.fresh.shape[1], np.float32)
    for c in range(len(members)):
        point, copy = _point(points, members[c]), scratch.block[c]
        for d in range(len(copy)):
            copy[d] = point[d]
        scratch.norms[c] = squared_distance(copy, origin)
    for d in range(len(origin)):
        for c in range(len(members)):
            scratch.across[d, c] = scratch.block[c, d]


@njit(nogil=True, cache=True)
def _choose(near, shadow, degree, scratch):
    """Say in ``scratch.chosen`` which of the sorted candidates, ``near`` float32[c], become links.

    One is left out when a chosen one is √shadow times closer to it than the row is.
    """
    count, taken = len(near), 0
    scratch.chosen[:count] = False
    scratch.left_out[:count] = 0
    for c in range(count):
        if c % TILE_ROWS == 0 and taken < degree:
            _multiply(scratch, c, count)
        if taken < degree and not scratch.left_out[c]:
            scratch.chosen[c] = True
            taken += 1
            _leave_out(near, shadow, c, scratch)
    for c in range(count):
        if taken < degree and not scratch.chosen[c]:
            scratch.chosen[c] = True
            taken += 1


@njit(nogil=True, cache=True)
def _multiply(scratch, first, count):
    """Inner products of a tile of points, from the ``first`` on, with those of its own columns and behind them."""
    dimensions, step = scratch.across.shape
    start, across = scratch.block.ctypes.data + 4 * first * dimensions, scratch.across.ctypes.data
    for column in range(first // TILE_COLUMNS * TILE_COLUMNS, count, TILE_COLUMNS):
        multiply_tile(
            start, dimensions, across + 4 * column, step, scratch.nothing.ctypes.data, 0,
            scratch.products.ctypes.data + 4 * column, step, dimensions,
        )  # fmt: skip


@njit(nogil=True, cache=True)
def _leave_out(near, shadow, one, scratch):
    """Leave out what lies in the shadow of one candidate, of those after it."""
    # Slices counted from zero: in a loop that begins at ``one + 1`` numba sees indices that might be negative.
    reach, left_out = near[one + 1 :], scratch.left_out[one + 1 : len(near)]
    norms, products = scratch.norms[one + 1 : len(near)], scratch.products[one % TILE_ROWS, one + 1 : len(near)]
    own, two = scratch.norms[one], np.float32(2)
    for other in range(len(left_out)):
        left_out[other] |= shadow * (own + norms[other] - two * products[other]) <= reach[other]
