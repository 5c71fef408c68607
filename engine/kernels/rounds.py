"""A round's work before its rows are scored, in compiled code: which rows are worth it, lane by lane.

Common arguments: chosen int64[n], lanes; lines int64[n], the line of each in table: int64[m, p], which is filled with
rows, and counts: int64[m], which says how far. `items` and `lanes` are the columns of `engine.kernels.columns`.
"""

import numpy as np
from numba import njit

from engine.kernels.merging import VISITED, take, visit
from engine.kernels.scan import centre_bytes
from engine.kernels.tangents import cluster, estimate_neighbors


@njit(nogil=True, cache=True)
def choose_given(first, last, chosen, lines, items, lanes, table, counts):
    """Of the rows that the table holds already, as many as ``counts`` says, those that are to be scored."""
    for i in range(first, last):
        counts[lines[i]] = take(items, lanes, chosen[i], table, lines[i], counts[lines[i]])


@njit(nogil=True, cache=True)
def choose_near(first, last, chosen, lines, items, lanes, table, counts):
    """The best unmarked neighbours of the best ``widths`` unexpanded beam entries, by these entries' tangents."""
    degree = items.neighbors.shape[1]
    most, size = lanes.widths[chosen].max(), 1
    while size < 2 * most * degree:
        size *= 2
    places = np.empty(size, np.int32)
    parents, planes = np.empty(most, np.int64), np.empty((most, lanes.tangents.shape[2]), np.float32)
    estimates, found = np.empty((1, most * degree), np.float32), np.empty((1, most * degree), np.int32)
    for i in range(first, last):
        lane, line = chosen[i], lines[i]
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
        wanted = min(lanes.pairs[lane], table.shape[1], lanes.budgets[lane] - lanes.evaluations[lane])
        several = 0
        if count > 0:
            several = estimate_neighbors(items, lanes, lane, parents, planes, count, places, estimates, found, wanted)
        for place in range(several):
            table[line, place] = found[0, place]
        counts[line] = take(items, lanes, lane, table, line, several)


@njit(nogil=True, cache=True)
def choose_linked(first, last, chosen, lines, items, lanes, table, counts):
    """A step of the walk: the unvisited neighbours of the best unexpanded beam entries, as many as a round has pairs.

    Where nothing is left to expand, the lowest unvisited rows, so that nothing stays unseen while there is room.
    """
    for i in range(first, last):
        lane, line, taken = chosen[i], lines[i], 0
        wanted = min(lanes.pairs[lane], table.shape[1], lanes.budgets[lane] - lanes.evaluations[lane])
        place = 0
        while taken < wanted and place < lanes.beam_sizes[lane] and lanes.beam_rows[lane, place] >= 0:
            if lanes.unexpanded[lane, place]:
                taken, done = _follow(items, lanes, lane, lanes.beam_rows[lane, place], table, line, taken, wanted)
                lanes.unexpanded[lane, place] = not done
            place += 1
        if taken == 0:
            for row in range(len(items.versions)):
                if taken == wanted:
                    break
                taken = _offer_unvisited(items, lanes, lane, row, table, line, taken)
        counts[line] = taken


@njit(nogil=True, cache=True)
def _follow(items, lanes, lane, parent, table, line, taken, wanted):
    """Take what a row links to; returns how many are taken then, and whether that is all of it."""
    for n in range(items.neighbors.shape[1]):
        row = items.neighbors[parent, n]
        if row < 0:
            break
        if taken == wanted:
            return taken, False
        taken = _offer_unvisited(items, lanes, lane, row, table, line, taken)
    return taken, True


@njit(nogil=True, cache=True, inline="always")
def _offer_unvisited(items, lanes, lane, row, table, line, taken):
    if items.versions[row] <= 0 or lanes.marks[lane, row] & VISITED:
        return taken
    visit(lanes, lane, row, lanes.evaluations[lane] + taken)
    table[line, taken] = row
    return taken + 1


@njit(nogil=True, cache=True)
def make_centres(first, last, chosen, rounds, scales, lanes, room, centres, owners):
    """Cluster the gradients of each lane's beam into ``clusters`` centres.

    Lane i's are written to centres: int8[≥ n · room, ≥ S] from place room · i, and owners: int64[≥ n · room] becomes
    its lane, −1 where there are fewer.
    """
    width, longest = lanes.tangents.shape[2] - 1, lanes.beam_rows.shape[1]
    slopes, middles = np.empty((longest, width), np.float32), np.empty((room, width), np.float32)
    for i in range(first, last):
        lane = chosen[i]
        count = 0
        for place in range(lanes.beam_sizes[lane]):
            slot = lanes.slots[lane, place]
            if lanes.beam_rows[lane, place] >= 0 and slot >= 0:
                for d in range(width):
                    slopes[count, d] = lanes.tangents[lane, slot, d]
                count += 1
        if count > 0:
            made = cluster(slopes[:count], middles[: lanes.clusters[lane]], rounds)
            for c in range(made):
                centre_bytes(middles, c, scales, centres, room * i + c)
                owners[room * i + c] = lane


@njit(nogil=True, cache=True)
def choose_far(first, last, chosen, lines, items, lanes, ends, found, sizes, table, counts):
    """Of what each lane's centres found, int32[≥ ends[−1], keep], an equal share from each, every row once.

    The centres of lane i end before ends[i], where those of the next begin.
    """
    for i in range(first, last):
        lane, line, taken = chosen[i], lines[i], 0
        wanted = min(lanes.pairs[lane], table.shape[1], lanes.budgets[lane] - lanes.evaluations[lane])
        for c in range(ends[i - 1] if i > 0 else 0, ends[i]):
            share = taken + (wanted - taken) // (ends[i] - c)
            for place in range(sizes[c]):
                if taken >= share:
                    break
                taken = _offer_unvisited(items, lanes, lane, found[c, place], table, line, taken)
        counts[line] = taken
