"""Scores and gradients of pairs in compiled code, a kernel for each kind of metric.

Common arguments: rows int64[n, P], −1 behind the last, of whose line i all are scored for lane lanes[i]; scores
float32[n, P] are filled, with −inf behind the last, and, where ``derive``, tangents float32[n, P, S + 1], as far as
there are rows: a gradient by the state and the intercept, so that a row of state s near by is worth about gradient · s
+ intercept.
"""

import numpy as np
from numba import njit

from engine.kernels import UNCOUNTED
from engine.kernels.products import PANEL, ROWS, exp, multiply

_TILE = 64
_REASSOCIATE = {"reassoc", "contract", "nsz", "arcp"}  # infinities mean something here


@njit(**UNCOUNTED)
def count_rows(rows, scores, line):
    """How many rows a line has; the places behind them are worth −inf."""
    count = rows.shape[1]
    while count > 0 and rows[line, count - 1] < 0:
        count -= 1
        scores[line, count] = -np.inf
    return count


@njit(nogil=True, cache=True, fastmath=_REASSOCIATE)
def score_vectors(first, last, squared, state, rows, lanes, users, scores, tangents, derive):
    """Inner products with users float32[lanes, D], or negative squared distances from them."""
    dimensions = users.shape[1]
    for i in range(first, last):
        lane = lanes[i]
        for p in range(count_rows(rows, scores, i)):
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
    first, last, state, rows, lanes, users, candidate_bias, prior, bonus, scores, tangents, derive
):  # fmt: skip
    """The learned metric: log of a sum of exponentials of products with the lane's history.

    users: the columns of `engine.mlp_metric.MlpUsers`. candidate_bias and prior name columns of the state; bonus is
    what a touched row gets. An item does not count for itself, but it does for what is close to it: tangents are those
    of a neighbour.
    """
    longest, padded_dimensions = users.vectors.shape[1], users.vectors.shape[2]
    dimensions = users.operands.shape[1] // longest
    x, logits = np.zeros((_TILE, dimensions), np.float32), np.zeros(_TILE * longest, np.float32)
    g, no_bias = np.empty((_TILE, padded_dimensions), np.float32), np.zeros(padded_dimensions, np.float32)
    priors, peaks, around = np.zeros(_TILE, np.float32), np.zeros(_TILE, np.float32), np.empty(_TILE, np.float32)
    for i in range(first, last):
        lane = lanes[i]
        length = max(1, users.lengths[lane])
        width = max(PANEL, (length + PANEL - 1) // PANEL * PANEL)
        forward, biases = users.operands[lane, : dimensions * width].reshape((dimensions, width)), users.biases[lane]
        own_rows, touched = users.rows[lane, :width], users.touched[lane]
        z = logits[: _TILE * width].reshape((_TILE, width))
        count = count_rows(rows, scores, i)
        for start in range(0, count, _TILE):
            size = min(_TILE, count - start)
            full = (size + ROWS - 1) // ROWS * ROWS
            for t in range(size):
                row = rows[i, start + t]
                for d in range(dimensions):
                    x[t, d] = state[row, d]
            multiply(x, forward, biases, z, full)
            for t in range(size):
                row = rows[i, start + t]
                own_bias, priors[t] = state[row, candidate_bias], state[row, prior]
                peaks[t] = _peak(z, t, own_bias, priors[t])
                own = _place_of(own_rows, row)
                scores[i, start + t] = _score_of_own(z, t, priors[t], own, touched[own], bonus) if own >= 0 else np.nan
            _weigh(z, priors, peaks, around)
            for t in range(size):
                if np.isnan(scores[i, start + t]):
                    scores[i, start + t] = around[t]
            if derive:
                multiply(z, users.vectors[lane, :length], no_bias, g, full)
                for t in range(size):
                    _write_tangent(
                        z, t, g, x, around[t], priors[t], state[rows[i, start + t], candidate_bias],
                        candidate_bias, prior, tangents, i, start + t,
                    )  # fmt: skip


@njit(**UNCOUNTED, fastmath=_REASSOCIATE)
def _peak(z, t, own_bias, prior):
    """Add the row's own bias to its logits z[t]; the largest of them and the prior."""
    peak = prior
    for h in range(z.shape[1]):
        z[t, h] += own_bias
        peak = max(peak, z[t, h])
    return peak


@njit(**UNCOUNTED)
def _place_of(own_rows, row):
    """Where a row is in the lane's own history, −1 for any other row."""
    found = 0
    for h in range(len(own_rows)):  # the sum in one go, since hardly any is
        found += own_rows[h] == row
    if found == 0:
        return -1
    own = 0
    while own_rows[own] != row:
        own += 1
    return own


@njit(**UNCOUNTED, fastmath=_REASSOCIATE)
def _score_of_own(z, t, prior, own, touched, bonus):
    """δ of the row of the lane's history in place ``own``, out of its logits z[t]."""
    peak = prior
    for h in range(z.shape[1]):
        peak = max(peak, z[t, h] if h != own else prior)
    total = exp(prior - peak)
    for h in range(z.shape[1]):
        total += exp(z[t, h] - peak) if h != own else np.float32(0)
    return peak + np.log(total) + (bonus if touched else np.float32(0))


@njit(**UNCOUNTED, fastmath=_REASSOCIATE)
def _weigh(z, priors, peaks, around):
    """Turn logits z[t] into the weights of the history items, and say what δ is around each row."""
    every = z.reshape(-1)
    for t in range(len(z)):
        for h in range(z.shape[1]):
            z[t, h] -= peaks[t]
    for place in range(len(every)):  # all of them in one loop, long enough for whole vectors
        every[place] = exp(every[place])
    for t in range(len(z)):
        total = exp(priors[t] - peaks[t])
        for h in range(z.shape[1]):
            total += z[t, h]
        around[t] = peaks[t] + np.log(total)
        for h in range(z.shape[1]):
            z[t, h] /= total


@njit(**UNCOUNTED, fastmath=_REASSOCIATE)
def _write_tangent(z, t, g, x, around, own_prior, own_bias, candidate_bias, prior, tangents, i, place):
    """The gradient of row t of a tile, by its vector, its bias and its prior, and the intercept."""
    dimensions, share = x.shape[1], np.float32(0)
    for h in range(z.shape[1]):
        share += z[t, h]
    for d in range(dimensions, tangents.shape[2]):
        tangents[i, place, d] = 0
    intercept = around - share * own_bias - (np.float32(1) - share) * own_prior
    for d in range(dimensions):
        tangents[i, place, d] = g[t, d]
        intercept -= g[t, d] * x[t, d]
    tangents[i, place, candidate_bias] = share
    tangents[i, place, prior] = np.float32(1) - share
    tangents[i, place, tangents.shape[2] - 1] = intercept
