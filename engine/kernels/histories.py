"""The learned metric in compiled code: its users are their histories, which are looked up once, at admission.

Rows are scored LANES at a time, side by side in the vectors of the CPU, so that whatever a row needs beside its
products is done for all of them at once.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from engine.behavior_codes import OTHER_ONLY, TARGET_ONLY
from engine.kernels import UNCOUNTED
from engine.kernels.exponentials import add_and_find_largest, exp, exponentiate, log
from engine.kernels.float_products import QUAD
from engine.kernels.hops import take_parts
from engine.kernels.instructions import LANES
from engine.kernels.products import multiply, multiply_rows
from engine.kernels.scoring import count_rows


class Histories(NamedTuple):
    """What n users touched, newest first, one user after the other.

    rows: int64[m], with codes: int8[m]; those of user i end before ends[i], int64[n]. own: float32[o, D], one more item
    each for those whose line it is in owners, int64[n], −1 for none.
    """

    rows: np.ndarray
    codes: np.ndarray
    ends: np.ndarray
    own: np.ndarray
    owners: np.ndarray


@njit(nogil=True, cache=True)
def fold_histories(first, last, state, histories, code_bias, history_bias, lanes, users):
    """Write the users of `Histories` into lanes int64[n] of the columns of `engine.mlp_metric.MlpUsers`.

    code_bias: float32[codes]; history_bias names a column of the state.
    """
    dimensions, longest = histories.own.shape[1], users.vectors.shape[1]
    for i in range(first, last):
        lane, length = lanes[i], 0
        for h in range(longest):
            users.biases[lane, h], users.rows[lane, h], users.touched[lane, h] = -np.inf, -1, False
        for place in range(histories.ends[i - 1] if i > 0 else 0, histories.ends[i]):
            row, code = histories.rows[place], histories.codes[place]
            for d in range(dimensions):
                users.vectors[lane, length, d] = state[row, d]
            users.biases[lane, length] = state[row, history_bias] + code_bias[code]
            users.rows[lane, length], users.touched[lane, length] = row, code == OTHER_ONLY
            length += 1
        if histories.owners[i] >= 0:
            for d in range(dimensions):
                users.vectors[lane, length, d] = histories.own[histories.owners[i], d]
            users.biases[lane, length] = code_bias[TARGET_ONLY]
            length += 1
        users.lengths[lane] = length
        for h in range(length):
            for d in range(dimensions):
                users.quads[lane, h // QUAD, d // QUAD, h % QUAD, d % QUAD] = users.vectors[lane, h, d]


class Tile(NamedTuple):
    """LANES rows that are scored together, and what is worked out of them.

    rows: int64[LANES]. logits: float32[L, LANES], of every item of the history, later e to their power, less the
    peak's. weights: float32[LANES · L], the parts of the items in each row's total, as a matrix; gradients:
    float32[LANES, ≥ D], by the rows' vectors; no_bias: zeros, float32[≥ D]. The rest is float32[LANES]. biases and
    priors: the rows' own. peaks: the largest logit or prior. totals: the sum of logits and prior after e was raised to
    them; products: the same sum of each part times the product and own bias behind it. around: δ of what is close to a
    row, of which prior_parts are what the prior makes up. scores: δ of rows in the lane's own history, −inf for others.
    """

    rows: np.ndarray
    logits: np.ndarray
    weights: np.ndarray
    gradients: np.ndarray
    no_bias: np.ndarray
    biases: np.ndarray
    priors: np.ndarray
    peaks: np.ndarray
    totals: np.ndarray
    products: np.ndarray
    around: np.ndarray
    prior_parts: np.ndarray
    scores: np.ndarray


@njit(nogil=True, cache=True)
def score_histories(first, last, state, rows, lanes, own, scores, tangents, derive):
    """The learned metric: log of a sum of exponentials of products with the lane's history.

    own: the columns of `engine.mlp_metric.MlpUsers`, and how a state is read: so many dimensions, then the row's own
    bias; column ``prior`` is its prior. bonus is what a touched row gets. An item does not count for itself, but it
    does for what is close to it: tangents are those of a neighbour.
    """
    users, dimensions, prior, bonus = own
    longest, width = users.vectors.shape[1], users.vectors.shape[2]
    lines = np.zeros((8, LANES), np.float32)
    tile = Tile(
        np.zeros(LANES, np.int64), np.zeros((longest, LANES), np.float32), np.zeros(LANES * longest, np.float32),
        np.zeros((LANES, width), np.float32), np.zeros(width, np.float32),
        lines[0], lines[1], lines[2], lines[3], lines[4], lines[5], lines[6], lines[7],
    )  # fmt: skip
    for i in range(first, last):
        _score_line(state, rows, i, lanes[i], users, dimensions, prior, bonus, scores, tangents, derive, tile)


@njit(nogil=True, cache=True)
def hop_histories(gate, leads, hop, items, lanes, matrix_unit, state, own):
    """See `engine.kernels.hops.take_parts`."""
    take_parts(score_histories, gate, leads, hop, items, lanes, matrix_unit, state, own)


@njit(**UNCOUNTED, error_model="numpy")  # a score that overflows is its question's failure, not the worker's
def _score_line(state, rows, i, lane, users, dimensions, prior, bonus, scores, tangents, derive, tile):
    """Score the rows of line i for a lane, tile by tile."""
    length = max(1, users.lengths[lane])
    own_rows, biases = users.rows[lane, :length], users.biases[lane, :length]
    count = count_rows(rows, scores, i)
    for start in range(0, count, LANES):
        size = min(LANES, count - start)
        for t in range(LANES):  # the last row fills up what is left
            row = rows[i, start + min(t, size - 1)]
            tile.rows[t], tile.biases[t], tile.priors[t] = row, state[row, dimensions], state[row, prior]
        multiply_rows(state, tile.rows, users.vectors[lane], users.quads[lane], length, tile.logits)
        _add_biases(biases, tile)
        some_own = _some_own(own_rows, tile)
        if some_own:
            _score_own(own_rows, users.touched[lane], bonus, tile)
        _weigh(biases, tile)
        for t in range(size):
            scores[i, start + t] = tile.scores[t] if some_own and tile.scores[t] > -np.inf else tile.around[t]
        if derive:
            _derive(users.vectors[lane, :length], tile)
            for t in range(size):
                _write_tangent(tile, t, dimensions, prior, tangents, i, start + t)


@njit(nogil=True, cache=True, inline="always")
def _add_biases(biases, tile):
    """Make logits of products, and find the peaks."""
    for t in range(LANES):
        tile.peaks[t] = tile.priors[t]
    add_and_find_largest(
        tile.logits.ctypes.data, len(biases), biases.ctypes.data, tile.biases.ctypes.data, tile.peaks.ctypes.data
    )


@njit(nogil=True, cache=True, inline="always")
def _some_own(own_rows, tile):
    """Whether any row is in the lane's own history."""
    found = 0
    for h in range(len(own_rows)):  # all in one go, since hardly any is
        for t in range(LANES):
            found += own_rows[h] == tile.rows[t]
    return found > 0


@njit(nogil=True, cache=True, inline="always")
def _score_own(own_rows, touched, bonus, tile):
    """δ of the rows that are in the lane's own history, out of their logits."""
    for t in range(LANES):
        own, peak = -1, tile.priors[t]
        for h in range(len(own_rows)):
            if own_rows[h] == tile.rows[t]:
                own = h
            else:
                peak = max(peak, tile.logits[h, t])
        tile.scores[t] = -np.inf
        if own >= 0:
            total = exp(tile.priors[t] - peak)
            for h in range(len(own_rows)):
                total += exp(tile.logits[h, t] - peak) if h != own else np.float32(0)
            tile.scores[t] = peak + log(total) + (bonus if touched[own] else np.float32(0))


@njit(nogil=True, cache=True, inline="always")
def _weigh(biases, tile):
    """Raise e to the logits, and say what δ is around each row."""
    for t in range(LANES):
        tile.totals[t] = exp(tile.priors[t] - tile.peaks[t])
        tile.products[t] = 0
    exponentiate(
        tile.logits.ctypes.data, len(biases), biases.ctypes.data, tile.peaks.ctypes.data, tile.totals.ctypes.data,
        tile.products.ctypes.data,
    )  # fmt: skip
    for t in range(LANES):
        tile.around[t] = tile.peaks[t] + log(tile.totals[t])


@njit(nogil=True, cache=True, inline="always")
def _derive(vectors, tile):
    """The gradients by the rows' vectors: the history's vectors, each by its part in a row's total."""
    length = len(vectors)
    weights = tile.weights[: LANES * length].reshape((LANES, length))
    for t in range(LANES):
        scale = np.float32(1) / tile.totals[t]
        for h in range(length):
            weights[t, h] = tile.logits[h, t] * scale
        tile.products[t] *= scale
    for t in range(LANES):
        tile.prior_parts[t] = exp(tile.priors[t] - tile.around[t])
    multiply(weights, vectors, tile.no_bias, tile.gradients, LANES)


@njit(nogil=True, cache=True, inline="always")
def _write_tangent(tile, t, dimensions, prior, tangents, i, place):
    """The tangent of row t: by its vector, its own bias and its prior, and the intercept."""
    for d in range(dimensions):
        tangents[i, place, d] = tile.gradients[t, d]
    for d in range(dimensions, tangents.shape[2]):
        tangents[i, place, d] = 0
    part = tile.prior_parts[t]
    tangents[i, place, dimensions], tangents[i, place, prior] = np.float32(1) - part, part
    tangents[i, place, tangents.shape[2] - 1] = tile.around[t] - tile.products[t] - part * tile.priors[t]
