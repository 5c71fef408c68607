"""Finding the rows near a point, in compiled code: the nearest of a block, and the walk of the graph under L2.

Points lie in one flat array, a row every ``stride`` elements, so that a column of a wider state is read where it is.
Lists of candidates are sorted, nearest first, ties to the lower row: what is found does not depend on threads.
"""

import numpy as np
from numba import njit

from engine.kernels import UNCOUNTED
from engine.kernels.instructions import prefetch
from engine.kernels.products import ROWS, multiply

_INEXACT = {"reassoc", "nsz"}
_TARGETS = 64
_LINE = 16

BLOCK = 64
"""Points whose distances are compared with a list's last at once."""


@njit(**UNCOUNTED, fastmath=_INEXACT)
def squared_distance(a, b):
    """‖a − b‖² of float32[G] and float32[G]."""
    total = np.float32(0)
    for d in range(len(a)):
        difference = a[d] - b[d]
        total += difference * difference
    return total


@njit(**UNCOUNTED)
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
def take_nearest(first, last, targets, block, norms, own, start, distances, rows, sizes):
    """Take the nearest of a block of points into the sorted list of each target from ``first`` to ``last``.

    targets: float32[n, G], times −2. block: float32[G, w], points as columns, of which the first is number ``start``.
    norms: float32[w], ‖point‖², inf for what may not be taken; w is a multiple of `BLOCK`. own: int64[n], the number of
    the target itself, never taken. distances, rows: float32 and int32[n, count], the lists, by ‖point‖² − 2 · target ·
    point. sizes: int64[n].
    """
    room = distances.shape[1]
    few, lengths = np.zeros((_TARGETS, len(block)), np.float32), np.empty((_TARGETS, len(norms)), np.float32)
    for group in range(first, last, _TARGETS):
        count = min(_TARGETS, last - group)
        few[:count] = targets[group : group + count]
        multiply(few, block, norms, lengths, -(-count // ROWS) * ROWS)
        for i in range(group, group + count):
            mine, found, size = distances[i], rows[i], sizes[i]
            for column in range(0, len(norms), BLOCK):
                floor = mine[room - 1] if size == room else np.float32(np.inf)
                nearer = 0
                for j in range(column, column + BLOCK):
                    nearer += lengths[i - group, j] < floor
                if nearer == 0:
                    continue
                for j in range(column, column + BLOCK):
                    if lengths[i - group, j] < floor and start + j != own[i]:
                        insert(mine, found, size, lengths[i - group, j], start + j)
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


@njit(**UNCOUNTED)
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


@njit(**UNCOUNTED)
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
