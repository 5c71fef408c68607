"""A step's work before its rows are scored, in compiled code: which rows are worth it, lane by lane.

Common arguments: chosen int64[n], lanes; table: int64[n, p], −1 so far, of which the line of each lane whose turn it is
gets the rows that it scores next, and counts: int64[n], which says how many. `items` and `lanes` are the columns of
`engine.kernels.columns`.
"""

import numpy as np
from numba import njit

from engine.kernels import UNCOUNTED
from engine.kernels.byte_products import CENTRES
from engine.kernels.instructions import prefetch
from engine.kernels.marks import BARRED, VISITED, mark_of, visit
from engine.kernels.merging import take
from engine.kernels.ranking import row_of, select
from engine.kernels.scan import ROOM, SPARE, Scanned, centre_bytes, scan
from engine.kernels.stages import FAR, FILL, NEAR, SEEDS
from engine.kernels.tangents import cluster, estimate_neighbors

EXTRA_FOUND = 2
"""How many times its share a centre finds, since two may find the same."""

_BATCH = 2
"""How many times as many links as rows are missing are selected at a time, since several lead to the same."""


@njit(nogil=True, cache=True)
def choose(chosen, rows, items, lanes, matrix_unit, table, counts):
    """Fill every lane's line by the stage it is at. rows: how many are in use; matrix_unit: as for a scan."""
    _choose_given(chosen, items, lanes, table, counts)
    _choose_near(chosen, items, lanes, table, counts)
    _choose_far(chosen, rows, items, lanes, matrix_unit, table, counts)
    _choose_linked(chosen, items, lanes, table, counts)


@njit(nogil=True, cache=True, inline="always")
def _left(lanes, lane):
    """How many rows a lane may score in this step."""
    return min(lanes.wanted[lane], lanes.budgets[lane] - lanes.evaluations[lane])


@njit(**UNCOUNTED)
def _choose_given(chosen, items, lanes, table, counts):
    """Of the next rows that a lane was given those that are to be scored."""
    for i in range(len(chosen)):
        lane = chosen[i]
        if lanes.stages[lane] == SEEDS:
            for place in range(lanes.wanted[lane]):
                table[i, place] = lanes.given[lane, lanes.offered[lane] + place]
            counts[i] = take(items, lanes, lane, table, i, lanes.wanted[lane])


@njit(nogil=True, cache=True)
def _choose_near(chosen, items, lanes, table, counts):
    """The best unmarked neighbours of the best ``widths`` unexpanded beam entries, by these entries' tangents."""
    most = 0
    for lane in chosen:
        if lanes.stages[lane] == NEAR:
            most = max(most, lanes.widths[lane])
    if most == 0:
        return
    most, slopes = min(most, lanes.beam_rows.shape[1]), np.zeros((1, items.codes.shape[1]), np.int8)
    parents, planes = np.empty(most, np.int64), np.empty((most, lanes.tangents.shape[2]), np.float32)
    found = np.empty((1, most * items.links.shape[1]), np.int64)
    for i in range(len(chosen)):
        lane = chosen[i]
        if lanes.stages[lane] != NEAR:
            continue
        count = _gather_parents(lanes, lane, parents, planes)
        several = estimate_neighbors(items, parents, planes, count, slopes, found)
        counts[i] = take_best(items, lanes, lane, found, several, table, i)


@njit(**UNCOUNTED)
def _gather_parents(lanes, lane, parents, planes):
    """Copy the best entries of a lane's beam that are to be expanded, and their tangents; returns how many they are."""
    count = 0
    for place in range(lanes.beam_sizes[lane]):
        slot = lanes.slots[lane, place]
        if count == lanes.widths[lane] or lanes.beam_rows[lane, place] < 0:
            break
        if slot >= 0 and lanes.unexpanded[lane, place]:
            lanes.unexpanded[lane, place] = False
            parents[count] = lanes.beam_rows[lane, place]
            for d in range(planes.shape[1]):
                planes[count, d] = lanes.tangents[lane, slot, d]
            count += 1
    return count


@njit(**UNCOUNTED)
def take_best(items, lanes, lane, found, several, table, line):
    """Take the unmarked rows of the largest of several keys, each row once; returns how many are taken.

    What several parents link to counts with the largest of their estimates: where δ is convex, as the log of a sum of
    exponentials is, each is a lower bound. As many keys as rows are missing have to be looked at in any case: they are
    the next, in whatever order. Only these are asked whether they are marked, unless a whole batch did not do: for all,
    that would be as much to read as the bytes of their rows.
    """
    wanted, taken, first, narrowed = _left(lanes, lane), 0, 0, 0
    while taken < wanted and first < several:
        if first == narrowed:
            if first > 0:  # the batch did not do: all marked ones drop out before the next is selected
                several = _without_marked(lanes, lane, found, first, several)
            narrowed = min(several, first + _BATCH * (wanted - taken))
            select(found, 0, first, several, narrowed - first)
        stop = min(first + wanted - taken, narrowed)
        select(found, 0, first, narrowed, stop - first)
        for place in range(first, stop):  # all on their way before the first is waited for
            row = row_of(found[0, place])
            prefetch(items.versions.ctypes.data + items.versions.itemsize * row)
            prefetch(lanes.marks.ctypes.data + lanes.marks.shape[1] * lane + row)
        for place in range(first, stop):
            taken = _offer(items, lanes, lane, row_of(found[0, place]), VISITED | BARRED, table, line, taken)
        first = stop
    return taken


@njit(**UNCOUNTED)
def _without_marked(lanes, lane, found, first, several):
    """Close the gaps that the keys of marked rows leave behind a place; returns how many keys there are then."""
    kept = first
    for place in range(first, several):
        found[0, kept] = found[0, place]
        kept += mark_of(lanes, lane, row_of(found[0, place])) == 0
    return kept


@njit(nogil=True, cache=True)
def _choose_far(chosen, rows, items, lanes, matrix_unit, table, counts):
    """The unmarked rows that clusters of the beam's gradients point at, an equal share for each.

    From bytes, each block of rows read once for all lanes.
    """
    looking, room = 0, 0
    for lane in chosen:
        if lanes.stages[lane] == FAR:
            looking, room = looking + 1, max(room, lanes.clusters[lane])
    if looking == 0:
        return
    places = (looking * room + CENTRES - 1) // CENTRES * CENTRES
    centres, owners = np.zeros((places, 4 * items.interleaved.shape[1]), np.int8), np.full(places, -1)
    keeps, ends = np.ones(places, np.int64), np.zeros(len(chosen), np.int64)
    width, made = lanes.tangents.shape[2] - 1, 0
    slopes, middles = np.empty((lanes.beam_rows.shape[1], width), np.float32), np.empty((room, width), np.float32)
    for i in range(len(chosen)):
        lane = chosen[i]
        count = _gather_slopes(lanes, lane, slopes) if lanes.stages[lane] == FAR else 0
        if count > 0:
            several = cluster(slopes[:count], middles[: lanes.clusters[lane]])
            made = _write_centres(lanes, lane, items.scales, middles, several, centres, owners, keeps, made)
        ends[i] = made
    # A lane whose gradients agree has few centres: they stand close together, and no scan is made for gaps.
    places = (made + CENTRES - 1) // CENTRES * CENTRES
    found, sizes = np.empty((places, ROOM * keeps.max()), np.int64), np.zeros(places, np.int64)
    marks = lanes.marks, lanes.floors
    scanned = Scanned(items.interleaved, items.versions, rows, centres[:places], owners[:places], *marks)
    scan(scanned, keeps[:places], found, sizes, matrix_unit, SPARE)
    for i in range(len(chosen)):
        if lanes.stages[chosen[i]] == FAR:
            first = ends[i - 1] if i > 0 else 0
            counts[i] = _take_shares(items, lanes, chosen[i], found, sizes, first, ends[i], table, i)


@njit(**UNCOUNTED)
def _gather_slopes(lanes, lane, slopes):
    """Copy the gradients that are known of a lane's beam to slopes float32[≥ beam, S]; returns how many there are."""
    count = 0
    for entry in range(lanes.beam_sizes[lane]):
        slot = lanes.slots[lane, entry]
        if lanes.beam_rows[lane, entry] >= 0 and slot >= 0:
            for d in range(slopes.shape[1]):
                slopes[count, d] = lanes.tangents[lane, slot, d]
            count += 1
    return count


@njit(**UNCOUNTED)
def _write_centres(lanes, lane, scales, middles, several, centres, owners, keeps, place):
    """Write the first ``several`` middles float32[…, S] as centres from a place on; returns the place behind them.

    centres: int8[places, ≥ S]; owners: int64[places] becomes the lane, keeps: int64[places] what a scan is to find for
    each.
    """
    for c in range(several):
        centre_bytes(middles, c, scales, centres, place + c)
        owners[place + c] = lane
        keeps[place + c] = (lanes.wanted[lane] + several - 1) // several * (EXTRA_FOUND if several > 1 else 1)
    return place + several


@njit(**UNCOUNTED)
def _take_shares(items, lanes, lane, found, sizes, first, last, table, line):
    """Take what was found for a lane's centres, from the first to the last, as much of each; returns how many rows."""
    taken, wanted = 0, _left(lanes, lane)
    for c in range(first, last):
        share = taken + (wanted - taken) // (last - c)
        for place in range(sizes[c]):
            if taken >= share:
                break
            taken = _offer(items, lanes, lane, row_of(found[c, place]), VISITED, table, line, taken)
    return taken


@njit(**UNCOUNTED)
def _choose_linked(chosen, items, lanes, table, counts):
    """A step of the walk: the unvisited neighbours of the best unexpanded beam entries, as many as a round has pairs.

    Where nothing is left to expand, the lowest unvisited rows, so that nothing stays unseen while there is room.
    """
    for i in range(len(chosen)):
        lane, taken, place = chosen[i], 0, 0
        if lanes.stages[lane] != FILL:
            continue
        wanted = _left(lanes, lane)
        while taken < wanted and place < lanes.beam_sizes[lane] and lanes.beam_rows[lane, place] >= 0:
            if lanes.unexpanded[lane, place]:
                taken, done = _follow(items, lanes, lane, lanes.beam_rows[lane, place], table, i, taken, wanted)
                lanes.unexpanded[lane, place] = not done
            place += 1
        if taken == 0:
            for row in range(len(items.versions)):
                if taken == wanted:
                    break
                taken = _offer(items, lanes, lane, row, VISITED, table, i, taken)
        counts[i] = taken


@njit(**UNCOUNTED)
def _follow(items, lanes, lane, parent, table, line, taken, wanted):
    """Take what a row links to; returns how many are taken then, and whether that is all of it."""
    for n in range(items.links.shape[1]):
        row = items.links[parent, n]
        if row < 0:
            continue
        if taken == wanted:
            return taken, False
        taken = _offer(items, lanes, lane, row, VISITED, table, line, taken)
    return taken, True


@njit(nogil=True, cache=True, inline="always")
def _offer(items, lanes, lane, row, without, table, line, taken):
    """Take a row unless it is dead or has one of the marks ``without``; returns how many are taken then."""
    if items.versions[row] <= 0 or mark_of(lanes, lane, row) & without:
        return taken
    visit(lanes, lane, row)
    table[line, taken] = row
    return taken + 1
