"""The frozen reference metric in compiled code, on CPUs.

The layers and the users' columns are those of `benchmarks.reference_metric`, as arrays.
"""

import numpy as np
from numba import njit

from benchmarks.narrow_state import array_of, widen
from engine.kernels.exponentials import exp
from engine.kernels.hops import take_parts
from engine.kernels.products import PANEL, ROWS, multiply, multiply_onto
from engine.kernels.scoring import count_rows, fetch

HIDDEN, SECOND, LONGEST = 128, 64, 32
_TILE = 64
_FAST = {"contract", "reassoc", "nsz", "arcp", "nnan"}


@njit(nogil=True, cache=True, fastmath=_FAST)
def fold_users(first, last, state, histories, lanes, layers, users):  # type: ignore[no-untyped-def]
    """Write the users of histories int64[n, 20], −1 behind the last, into lanes int64[n] of the users' columns."""
    dimensions = len(layers.user)
    items, across = np.zeros((LONGEST, dimensions), np.float32), np.zeros((dimensions, LONGEST), np.float32)
    pooled = np.empty(dimensions, np.float32)
    for i in range(first, last):
        lane, length, mass = lanes[i], 0, np.float32(0)
        items[:] = 0
        pooled[:] = 0
        while length < histories.shape[1] and histories[i, length] >= 0:
            weight = np.exp(layers.pooling[length])
            widen(state, histories[i, length], items[length])
            for d in range(dimensions):
                pooled[d] += weight * items[length, d]
            mass += weight
            length += 1
        width = max(PANEL, (length + PANEL - 1) // PANEL * PANEL)
        users.widths[lane] = width
        for d in range(dimensions):
            pooled[d] /= max(mass, np.float32(1e-30))
        for d in range(dimensions):
            total = layers.user_bias[d]
            for e in range(dimensions):
                total += layers.user[d, e] * pooled[e]
            users.vectors[lane, d] = total
        for j in range(HIDDEN):
            total = layers.first_bias[j]
            for d in range(dimensions):
                total += layers.first_of_user[j, d] * users.vectors[lane, d]
            users.hidden_bias[lane, j] = total
        for h in range(LONGEST):
            users.history_bias[lane, h] = layers.attention_bias[h] if h < length else np.float32(-np.inf)
        history = across.reshape(-1)[: dimensions * width].reshape((dimensions, width))
        for h in range(width):
            for d in range(dimensions):
                history[d, h] = items[h, d]
        size = dimensions * width
        multiply(
            layers.attention, history, layers.no_bias, users.keys[lane, :size].reshape((dimensions, width)), dimensions
        )
        multiply(items, layers.attention_across, layers.no_bias, users.keys_back[lane], width)
        multiply(
            layers.value, history, layers.no_bias, users.values[lane, :size].reshape((dimensions, width)), dimensions
        )
        multiply(items, layers.value_across, layers.no_bias, users.values_back[lane], width)


@njit(nogil=True, cache=True, fastmath=_FAST)
def score_pairs(first, last, state, rows, lanes, own, scores, tangents, derive):  # type: ignore[no-untyped-def]
    """Scores and, where ``derive``, tangents, as the kernels of `engine.kernels.scoring` give them."""
    users, layers = own
    dimensions = len(layers.user)
    x = np.zeros((_TILE, dimensions), np.float32)
    hidden, second = np.empty((_TILE, HIDDEN), np.float32), np.empty((_TILE, SECOND), np.float32)
    weights, values = np.zeros(_TILE * LONGEST, np.float32), np.zeros(_TILE * LONGEST, np.float32)
    attention = np.empty(_TILE, np.float32)
    d_hidden, g = np.empty((_TILE, HIDDEN), np.float32), np.empty((_TILE, dimensions), np.float32)
    layer, layer_back = np.empty((dimensions, HIDDEN), np.float32), np.empty((HIDDEN, dimensions), np.float32)
    fetch(array_of(state), rows, first, last, 0, _TILE)
    for line in range(first, last):
        lane = lanes[line]
        for d in range(dimensions):
            for j in range(HIDDEN):
                folded = layers.first_of_product_across[d, j] * users.vectors[lane, d]
                layer[d, j] = layers.first_of_item_across[d, j] + folded
        if derive:
            for j in range(HIDDEN):
                for d in range(dimensions):
                    folded = layers.first_of_product[j, d] * users.vectors[lane, d]
                    layer_back[j, d] = layers.first_of_item[j, d] + folded
        width = users.widths[lane]
        keys = users.keys[lane, : dimensions * width].reshape((dimensions, width))
        value = users.values[lane, : dimensions * width].reshape((dimensions, width))
        a, v = weights[: _TILE * width].reshape((_TILE, width)), values[: _TILE * width].reshape((_TILE, width))
        count = count_rows(rows, scores, line)
        for start in range(0, count, _TILE):
            size = min(_TILE, count - start)
            full = (size + ROWS - 1) // ROWS * ROWS
            fetch(array_of(state), rows, line, last, start + _TILE, _TILE)
            for i in range(size):
                widen(state, rows[line, start + i], x[i])
            multiply(x, layer, users.hidden_bias[lane], hidden, full)
            multiply(x, keys, users.history_bias[lane], a, full)
            multiply(x, value, layers.no_bias, v, full)
            for i in range(full):
                for j in range(HIDDEN):
                    hidden[i, j] = max(hidden[i, j], np.float32(0))
            multiply(hidden, layers.second_across, layers.second_bias, second, full)
            _attend(a, v, attention)
            for i in range(size):
                total = attention[i]
                for j in range(SECOND):
                    total += max(second[i, j], np.float32(0)) * layers.out[j]
                scores[line, start + i] = total
            if derive:
                for i in range(full):
                    for j in range(SECOND):
                        second[i, j] = layers.out[j] if second[i, j] > 0 else np.float32(0)
                multiply(second, layers.second, layers.no_bias, d_hidden, full)
                for i in range(full):
                    for j in range(HIDDEN):
                        d_hidden[i, j] = d_hidden[i, j] if hidden[i, j] > 0 else np.float32(0)
                multiply(d_hidden, layer_back, layers.no_bias, g, full)
                multiply_onto(a, users.values_back[lane, :width], g, full)
                multiply_onto(v, users.keys_back[lane, :width], g, full)
                for i in range(size):
                    intercept = scores[line, start + i]
                    for d in range(dimensions):
                        tangents[line, start + i, d] = g[i, d]
                        intercept -= g[i, d] * x[i, d]
                    tangents[line, start + i, dimensions] = intercept


@njit(nogil=True, cache=True)
def hop_pairs(gate, leads, hop, items, lanes, matrix_unit, state, own):  # type: ignore[no-untyped-def]
    """See `engine.kernels.hops.take_parts`."""
    take_parts(score_pairs, gate, leads, hop, items, lanes, matrix_unit, state, own)


@njit(nogil=True, cache=True, fastmath=_FAST)
def _attend(a, v, attention):  # type: ignore[no-untyped-def]
    """Attention of every row of a tile: logits a[i] become weights, values v[i] the logits' derivatives."""
    every = a.reshape(-1)
    for i in range(len(a)):
        peak = a[i, 0]
        for h in range(a.shape[1]):
            peak = max(peak, a[i, h])
        for h in range(a.shape[1]):
            a[i, h] -= peak
    for place in range(len(every)):  # all of them in one loop, long enough for whole vectors
        every[place] = exp(every[place])
    for i in range(len(a)):
        mass, total = np.float32(0), np.float32(0)
        for h in range(a.shape[1]):
            mass += a[i, h]
            total += a[i, h] * v[i, h]
        attention[i] = total / mass
        for h in range(a.shape[1]):
            a[i, h] /= mass
            v[i, h] = a[i, h] * (v[i, h] - attention[i])
