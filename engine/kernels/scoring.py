"""Scores and gradients of pairs in compiled code, a kernel for each kind of metric.

Common arguments: rows int64[n, P], of whose line i the first counts[i] are scored for lane lanes[i]; scores
float32[n, P] and, where ``derive``, tangents float32[n, P, S + 1], zeros so far, are filled as far: a gradient by the
state and the intercept, so that a row of state s near by is worth about gradient · s + intercept.
"""

import numpy as np
from numba import njit

from engine.kernels.products import PANEL, ROWS, exp, multiply

_TILE = 64
_REASSOCIATE = {"reassoc", "contract", "nsz", "arcp"}  # infinities mean something here


@njit(nogil=True, cache=True, fastmath=_REASSOCIATE)
def score_vectors(first, last, squared, state, rows, counts, lanes, users, scores, tangents, derive):
    """Inner products with users float32[lanes, D], or negative squared distances from them."""
    dimensions = users.shape[1]
    for i in range(first, last):
        lane = lanes[i]
        for p in range(counts[i]):
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


@njit(nogil=True, cache=True, fastmath=_REASSOCIATE)
def score_kernels(
    first, last, state, rows, counts, lanes, vectors, operands, biases, histories, touched, lengths,
    candidate_bias, prior, bonus, scores, tangents, derive,
):  # fmt: skip
    """The learned metric: log of a sum of exponentials of products with the lane's history.

    vectors: float32[lanes, L, ≥ D], zeros beyond D; operands: float32[lanes, D · L], of a lane with l history items,
    padded to a multiple of PANEL, the first D · l as [D, l]; biases: float32[lanes, L]; histories: int64[lanes, L];
    touched: bool[lanes, L]; lengths: int64[lanes]. candidate_bias and prior name columns of the state; bonus is what a
    touched row gets.
    """
    longest, padded_dimensions = vectors.shape[1], vectors.shape[2]
    dimensions = operands.shape[1] // longest
    x = np.zeros((_TILE, dimensions), np.float32)
    z = np.zeros((_TILE, longest), np.float32)
    g = np.zeros((_TILE, padded_dimensions), np.float32)
    around = np.zeros(_TILE, np.float32)
    for i in range(first, last):
        lane = lanes[i]
        length = lengths[lane]
        width = (length + PANEL - 1) // PANEL * PANEL
        forward = operands[lane, : dimensions * width].reshape((dimensions, width))
        backward = vectors[lane, :width]
        for start in range(0, counts[i], _TILE):
            size = min(_TILE, counts[i] - start)
            full = (size + ROWS - 1) // ROWS * ROWS
            for t in range(size):
                row = rows[i, start + t]
                for d in range(dimensions):
                    x[t, d] = state[row, d]
            multiply(x, forward, z, full)
            for t in range(size):
                row = rows[i, start + t]
                own_bias, popularity = state[row, candidate_bias], state[row, prior]
                scores[i, start + t], around[t] = _log_sum(
                    z, t, width, own_bias, popularity, biases, histories, touched, lane, row, bonus
                )
            if derive:
                multiply(z, backward, g, full)
                for t in range(size):
                    row, place = rows[i, start + t], start + t
                    share, intercept = np.float32(0), around[t]
                    for h in range(width):
                        share += z[t, h]
                    for d in range(dimensions):
                        tangents[i, place, d] = g[t, d]
                        intercept -= g[t, d] * state[row, d]
                    tangents[i, place, candidate_bias] = share
                    tangents[i, place, prior] = np.float32(1) - share
                    intercept -= share * state[row, candidate_bias] + (np.float32(1) - share) * state[row, prior]
                    tangents[i, place, state.shape[1]] = intercept


@njit(nogil=True, cache=True, fastmath=_REASSOCIATE, inline="always")
def _log_sum(z, t, width, own_bias, prior, biases, histories, touched, lane, row, bonus):
    """δ of one pair out of its products z[t, :width], which become the weights of the history items; and δ around it.

    An item does not count for itself, but it does for what is close to it: δ around it and the weights are a
    neighbour's.
    """
    peak, own = prior, np.float32(-np.inf)
    extra = np.float32(0)
    for h in range(width):
        z[t, h] += biases[lane, h] + own_bias
        if histories[lane, h] == row:
            own = max(own, z[t, h])
            if touched[lane, h]:
                extra = bonus
        else:
            peak = max(peak, z[t, h])
    highest = max(peak, own)
    others, every = exp(prior - peak), exp(prior - highest)
    for h in range(width):
        others += exp(z[t, h] - peak) if histories[lane, h] != row else np.float32(0)
        z[t, h] = exp(z[t, h] - highest)
        every += z[t, h]
    for h in range(width):
        z[t, h] /= every
    return peak + np.log(others) + extra, highest + np.log(every)
