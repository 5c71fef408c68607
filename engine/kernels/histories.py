"""Users of the learned metric in compiled code: their histories, looked up once at admission."""

import numpy as np
from numba import njit

from engine.behavior_codes import OTHER_ONLY, TARGET_ONLY
from engine.kernels.products import PANEL


@njit(nogil=True, cache=True)
def fold_histories(first, last, state, rows, codes, own, has_own, code_bias, history_bias, lanes, users):
    """Write the users of histories into lanes int64[n] of the columns of `engine.mlp_metric.MlpUsers`.

    rows: int64[n, H], newest first, −1 behind the last, with codes: int8[n, H]. own: float32[n, D], for those who
    has_own (bool[n]) one more item. code_bias: float32[codes]; history_bias names a column of the state.
    """
    dimensions, longest = own.shape[1], users.vectors.shape[1]
    for i in range(first, last):
        lane, known = lanes[i], 0
        users.vectors[lane] = 0
        for h in range(longest):
            users.biases[lane, h], users.rows[lane, h], users.touched[lane, h] = -np.inf, -1, False
        while known < rows.shape[1] and rows[i, known] >= 0:
            row, code = rows[i, known], codes[i, known]
            for d in range(dimensions):
                users.vectors[lane, known, d] = state[row, d]
            users.biases[lane, known] = state[row, history_bias] + code_bias[code]
            users.rows[lane, known], users.touched[lane, known] = row, code == OTHER_ONLY
            known += 1
        length = known + has_own[i]
        if has_own[i]:
            for d in range(dimensions):
                users.vectors[lane, known, d] = own[i, d]
            users.biases[lane, known] = code_bias[TARGET_ONLY]
        users.lengths[lane] = length
        width = max(PANEL, (length + PANEL - 1) // PANEL * PANEL)
        for d in range(dimensions):
            for h in range(width):
                users.operands[lane, d * width + h] = users.vectors[lane, h, d]
