"""A round's work before its rows are scored, in compiled code: which rows are worth it, lane by lane.

Common arguments: lanes int64[n]; wanted int64[lanes], rows that a lane may score in a round; beam_rows, slots:
int64[lanes, L], best first, with the places of their tangents in tangents: float32[lanes, slots, S + 1], −1 where
there is none; table: int64[n, ≥ wanted], −1 where nothing is written.
"""

import numpy as np
from numba import njit

from engine.kernels.scan import centre_bytes
from engine.kernels.tangents import cluster, estimate_neighbors


@njit(nogil=True, cache=True)
def choose_near(
    first, last, lanes, wanted, widths, beam_rows, slots, unexpanded, tangents, codes, scales, neighbors, marks, table
):  # fmt: skip
    """The best unmarked neighbours of the best ``widths[lane]`` unexpanded beam entries, by these entries' tangents.

    unexpanded: bool[lanes, L], from which the entries are taken. See `estimate_neighbors` for the rest.
    """
    most = max(1, widths[lanes].max())
    size = 16
    while size < 2 * most * neighbors.shape[1]:
        size *= 2
    keys, best = np.empty(size, np.int32), np.empty(size, np.float32)
    parents, planes = np.empty(most, np.int64), np.empty((most, tangents.shape[2]), np.float32)
    for i in range(first, last):
        lane = lanes[i]
        count = 0
        for place in range(beam_rows.shape[1]):
            slot = slots[lane, place]
            if count == widths[lane] or beam_rows[lane, place] < 0:
                break
            if slot >= 0 and unexpanded[lane, place]:
                unexpanded[lane, place] = False
                parents[count], planes[count] = beam_rows[lane, place], tangents[lane, slot]
                count += 1
        estimates, found = np.empty((1, wanted[lane]), np.float32), np.empty((1, wanted[lane]), np.int32)
        if count > 0:
            several = estimate_neighbors(
                codes, scales, neighbors, marks, lane, parents[:count], planes, keys, best, estimates, found
            )  # fmt: skip
            for place in range(several):
                table[i, place] = found[0, place]


@njit(nogil=True, cache=True)
def make_centres(first, last, lanes, clusters, rounds, beam_rows, slots, tangents, scales, centres, owners):
    """Cluster the gradients of each lane's beam into ``clusters[lane]`` centres.

    Lane i's are written to centres: int8[≥ n · C, ≥ S] from place C · i, and owners: int64[≥ n · C] becomes its lane.
    """
    room = clusters[lanes].max()
    width = tangents.shape[2] - 1
    slopes, middles = np.empty((beam_rows.shape[1], width), np.float32), np.empty((room, width), np.float32)
    for i in range(first, last):
        lane = lanes[i]
        count = 0
        for place in range(beam_rows.shape[1]):
            if beam_rows[lane, place] >= 0 and slots[lane, place] >= 0:
                slopes[count] = tangents[lane, slots[lane, place], :width]
                count += 1
        if count > 0:
            made = cluster(slopes[:count], middles[: clusters[lane]], rounds)
            for c in range(made):
                centre_bytes(middles, c, scales, centres, room * i + c)
                owners[room * i + c] = lane


@njit(nogil=True, cache=True)
def choose_far(first, last, lanes, wanted, owners, found, sizes, table):
    """Of what each lane's centres found, int32[≥ n · C, keep], an equal share from each, every row once."""
    room = len(owners) // len(lanes)
    for i in range(first, last):
        centres = 0
        for c in range(room):
            centres += owners[room * i + c] >= 0
        taken = 0
        for c in range(room * i, room * i + centres):
            share = (wanted[lanes[i]] - taken) // (room * i + centres - c)
            for place in range(sizes[c]):
                if share == 0:
                    break
                again = False
                for other in range(taken):
                    again |= table[i, other] == found[c, place]
                if not again:
                    table[i, taken] = found[c, place]
                    taken += 1
                    share -= 1
