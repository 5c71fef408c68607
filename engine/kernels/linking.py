"""Choosing links in compiled code: relative-neighbourhood pruning of new rows, and of those that they link to."""

from typing import NamedTuple

import numpy as np
from numba import njit

from engine.kernels import UNCOUNTED
from engine.kernels.graph import insert, squared_distance
from engine.kernels.instructions import prefetch

_LINE = 16


class Points(NamedTuple):
    """The points of an index once a batch is in it: `engine.neighbors.Points` as kernels read them.

    stored: float32[≥ rows · stride]. fresh: float32[f, G]; place: int32[≥ rows], 1 + where in ``fresh`` a row's point
    is, 0 for in ``stored``.
    """

    stored: np.ndarray
    stride: int
    fresh: np.ndarray
    place: np.ndarray


class Pool(NamedTuple):
    """The candidates of one row, nearest first: float32[c] their squared distances, int32[c] rows.

    chosen: bool[c], which become links. lights: float32[R, G], points of those that keep others in their shadow.
    """

    near: np.ndarray
    members: np.ndarray
    chosen: np.ndarray
    lights: np.ndarray


@njit(nogil=True, cache=True)
def prune(first, last, points, rows, pool, alpha, links, distances):
    """Up to R links of each row out of its pool: relative neighbourhoods, then the nearest of what is left.

    rows: int64[n]. pool: int32[n, c], −1 for none; repeats and the row itself count for nothing.
    links, distances: int32 and float32[n, R], filled with −1 and inf.
    """
    mine = _pool(pool.shape[1], links.shape[1], points.fresh.shape[1])
    for i in range(first, last):
        if i + 1 < last:
            _read_ahead(points, pool[i + 1])
        count = _collect(points, rows[i], pool[i], mine, 0)
        _choose(points, count, alpha, mine, links[i], distances[i])


@njit(nogil=True, cache=True)
def link_back(first, last, points, rows, sources, starts, alpha, adjacency):
    """Let each row choose anew among its links and the new rows that chose it.

    rows: int64[t]; adjacency: int32[t, R], their links, nearest first. Row i is chosen by int32 sources[starts[i] :
    starts[i + 1]], no more than R.
    """
    degree = adjacency.shape[1]
    mine, distances = _pool(2 * degree, degree, points.fresh.shape[1]), np.empty(degree, np.float32)
    for i in range(first, last):
        if i + 1 < last and starts[i + 1] < starts[i + 2]:
            _read_ahead(points, adjacency[i + 1])
            _read_ahead(points, sources[starts[i + 1] : starts[i + 2]])
        if starts[i] < starts[i + 1]:
            count = _collect(points, rows[i], adjacency[i], mine, 0)
            count = _collect(points, rows[i], sources[starts[i] : starts[i + 1]], mine, count)
            _choose(points, count, alpha, mine, adjacency[i], distances)


@njit(nogil=True, cache=True)
def group(new, links, distances, places, starts, sources):
    """The nearest of the new rows that chose each row, nearest first.

    links, distances: int32 and float32[n, R], what the ``new`` int64[n] chose. places: int32[≥ rows], the group of each
    that was chosen. starts: int64[t + 1], where in sources: int32[starts[t]] the groups begin, which are filled.
    """
    near, sizes = np.empty(len(sources), np.float32), np.zeros(len(starts) - 1, np.int64)
    for i in range(len(new)):
        for j in range(links.shape[1]):
            if links[i, j] >= 0:
                place = places[links[i, j]]
                mine = slice(starts[place], starts[place + 1])
                insert(near[mine], sources[mine], sizes[place], distances[i, j], new[i])
                sizes[place] = min(sizes[place] + 1, starts[place + 1] - starts[place])


@njit(nogil=True, cache=True)
def find_linking(first, last, links, wanted, linking):
    """Which rows link to a wanted one: linking, bool[rows], of links int32[rows, R] and wanted bool[rows]."""
    for row in range(first, last):
        several = 0
        for n in range(links.shape[1]):
            link = links[row, n]
            several += wanted[link] if link >= 0 else 0
        linking[row] = several > 0


@njit(nogil=True, cache=True)
def _pool(width, degree, dimensions):
    return Pool(
        np.empty(width, np.float32),
        np.empty(width, np.int32),
        np.empty(width, np.bool_),
        np.empty((degree, dimensions), np.float32),
    )


@njit(nogil=True, cache=True, inline="always")
def _point(points, row):
    if points.place[row] > 0:
        return points.fresh[points.place[row] - 1]
    start = row * points.stride
    return points.stored[start : start + points.fresh.shape[1]]


@njit(**UNCOUNTED)
def _read_ahead(points, rows):
    """Bring the points of rows nearer: they lie anywhere, and waiting for them would take longer than the sums."""
    for row in rows:
        if row >= 0:
            start = _point(points, row).ctypes.data
            for d in range(0, points.fresh.shape[1], _LINE):
                prefetch(start + 4 * d)


@njit(**UNCOUNTED)
def _collect(points, row, candidates, pool, count):
    """Put candidates, −1 for none, into the row's pool of ``count``; returns how many it holds then."""
    own = _point(points, row)
    for candidate in candidates:
        if candidate >= 0 and candidate != row:
            distance = squared_distance(_point(points, candidate), own)
            insert(pool.near, pool.members, count, distance, candidate)
            count += 1
    return count


@njit(**UNCOUNTED)
def _choose(points, count, alpha, pool, links, distances):
    """Write the links int32[R] that a row chooses from the first ``count`` of its pool, and how far they are.

    A candidate is left out when a chosen one is α times closer to it than the row is; of those the nearest fill up.
    """
    shadow, taken, degree = alpha * alpha, 0, len(links)
    count = _without_repeats(pool.near, pool.members, count)
    for c in range(count):
        pool.chosen[c] = False
        if taken < degree:
            point, reach = _point(points, pool.members[c]), pool.near[c]
            if not _left_out(pool.lights, taken, point, shadow, reach):
                pool.chosen[c] = True
                for d in range(len(point)):
                    pool.lights[taken, d] = point[d]
                taken += 1
    for c in range(count):
        if taken < degree and not pool.chosen[c]:
            pool.chosen[c] = True
            taken += 1
    place = 0
    for c in range(count):
        if pool.chosen[c]:
            links[place], distances[place] = pool.members[c], pool.near[c]
            place += 1


@njit(**UNCOUNTED)
def _left_out(lights, taken, point, shadow, reach):
    """Whether one of the first ``taken`` lights is so close to a point that is ``reach`` from its row."""
    light = 0
    while light < taken and shadow * squared_distance(lights[light], point) > reach:
        light += 1
    return light < taken


@njit(**UNCOUNTED)
def _without_repeats(near, members, count):
    """Close the gaps of a sorted list; a row that comes again stands beside itself. Returns how many are left."""
    kept = 0
    for c in range(count):
        if c == 0 or members[c] != members[c - 1]:
            near[kept], members[kept] = near[c], members[c]
            kept += 1
    return kept
