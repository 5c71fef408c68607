"""Scores and gradients of pairs in compiled code: of vectors here, of the learned metric in `engine.kernels.histories`.

Common arguments of both: rows int64[n, P], −1 behind the last, of whose line i all are scored for lane lanes[i]; own,
what the metric reads beside the state; scores float32[n, P] are filled, with −inf behind the last, and, where
``derive``, tangents float32[n, P, S + 1], as far as there are rows: a gradient by the state and the intercept, so that
a row of state s near by is worth about gradient · s + intercept.
"""

import numpy as np
from numba import njit

from engine.kernels import UNCOUNTED
from engine.kernels.hops import take_parts
from engine.kernels.instructions import prefetch

_LINE = 64
"""Bytes in a line of the cache."""

_TILE = 8
"""Rows whose vectors are fetched at a time."""

_REASSOCIATE = {"reassoc", "contract", "nsz", "arcp"}  # infinities mean something here


@njit(**UNCOUNTED)
def count_rows(rows, scores, line):
    """How many rows a line has; the places behind them are worth −inf."""
    count = rows.shape[1]
    while count > 0 and rows[line, count - 1] < 0:
        count -= 1
        scores[line, count] = -np.inf
    return count


@njit(**UNCOUNTED)
def fetch(state, rows, line, last, start, several):
    """Bring the states float32[N, S] of so many rows of a line nearer, without waiting for them.

    Of those from ``start`` on, or, where the line ends before, of the first of the next line before ``last``. Whoever
    scores some rows lets the next ones come meanwhile: states are large, and they lie anywhere.
    """
    if line < last and (start >= rows.shape[1] or rows[line, start] < 0):
        line, start = line + 1, 0
    if line >= last:
        return
    bytes_a_row = state.itemsize * state.shape[1]
    for place in range(start, min(start + several, rows.shape[1])):
        if rows[line, place] < 0:
            break
        for offset in range(0, bytes_a_row, _LINE):
            prefetch(state.ctypes.data + bytes_a_row * rows[line, place] + offset)


@njit(nogil=True, cache=True, fastmath=_REASSOCIATE)
def score_vectors(first, last, state, rows, lanes, own, scores, tangents, derive):
    """Inner products with users float32[lanes, D], or, where ``squared``, negative squared distances from them."""
    users, squared = own
    dimensions = users.shape[1]
    for i in range(first, last):
        lane = lanes[i]
        for p in range(count_rows(rows, scores, i)):
            if p % _TILE == 0:
                fetch(state, rows, i, last, p + _TILE, _TILE)
            row = rows[i, p]
            total = np.float32(0)
            if squared:
                for d in range(dimensions):
                    total -= (state[row, d] - users[lane, d]) * (state[row, d] - users[lane, d])
            else:
                for d in range(dimensions):
                    total += state[row, d] * users[lane, d]
            scores[i, p] = total
            if derive:
                for d in range(dimensions):
                    difference = np.float32(2) * (users[lane, d] - state[row, d])
                    tangents[i, p, d] = difference if squared else users[lane, d]
                    total -= tangents[i, p, d] * state[row, d]
                tangents[i, p, dimensions] = total


@njit(nogil=True, cache=True)
def hop_vectors(gate, leads, hop, items, lanes, matrix_unit, state, own):
    """See `engine.kernels.hops.take_parts`."""
    take_parts(score_vectors, gate, leads, hop, items, lanes, matrix_unit, state, own)
