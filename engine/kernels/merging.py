"""A step's bookkeeping in compiled code: which rows are scored, and where their scores belong."""

from numba import njit

VISITED, BARRED = 1, 2
"""Bits of a mark: the row was scored, it may not be returned."""


@njit(nogil=True, cache=True)
def take(first, last, lanes, candidates, left, versions, marks, rows):
    """Fill rows int64[n, p], −1 so far, with the live unvisited candidates int64[n, c], each once, first come first.

    left: int64[n], how many a lane may still score. What is taken is marked visited in marks: uint8[lanes, N].
    """
    for i in range(first, last):
        taken = 0
        for place in range(candidates.shape[1]):
            row = candidates[i, place]
            if taken == left[i]:
                break
            if row >= 0 and versions[row] > 0 and marks[lanes[i], row] & VISITED == 0:
                marks[lanes[i], row] |= VISITED
                rows[i, taken] = row
                taken += 1


@njit(nogil=True, cache=True)
def merge(
    first, last, lanes, rows, scores, slots, walks, versions, marks, beam_sizes, beam_scores, beam_rows, unexpanded,
    beam_slots, result_sizes, result_scores, result_rows, result_versions, entered,
):  # fmt: skip
    """Merge scored rows int64[n, p] (−1 behind the last), with scores and slots, into their lanes' beams and results.

    Both are best first, ties to the lowest row, −1 and −inf in empty places. Barred and dead rows are no results.
    entered: bool[n], whether a lane's results changed.
    """
    for i in range(first, last):
        lane = lanes[i]
        for p in range(rows.shape[1]):
            row, score = rows[i, p], scores[i, p]
            if row < 0:
                break
            size = beam_sizes[lane]
            place = _place(beam_scores, beam_rows, lane, size, score, row)
            if place < size:
                for behind in range(size - 1, place, -1):
                    beam_scores[lane, behind] = beam_scores[lane, behind - 1]
                    beam_rows[lane, behind] = beam_rows[lane, behind - 1]
                    unexpanded[lane, behind] = unexpanded[lane, behind - 1]
                    beam_slots[lane, behind] = beam_slots[lane, behind - 1]
                beam_scores[lane, place], beam_rows[lane, place] = score, row
                unexpanded[lane, place], beam_slots[lane, place] = walks[lane], slots[i, p]
            if marks[lane, row] & BARRED or versions[row] <= 0:
                continue
            size = result_sizes[lane]
            place = _place(result_scores, result_rows, lane, size, score, row)
            if place < size:
                for behind in range(size - 1, place, -1):
                    result_scores[lane, behind] = result_scores[lane, behind - 1]
                    result_rows[lane, behind] = result_rows[lane, behind - 1]
                    result_versions[lane, behind] = result_versions[lane, behind - 1]
                result_scores[lane, place], result_rows[lane, place] = score, row
                result_versions[lane, place] = versions[row]
                entered[i] = True


@njit(nogil=True, cache=True, inline="always")
def _place(scores, rows, lane, size, score, row):
    """How many of a lane's first ``size`` entries are better: where a row belongs."""
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        other = scores[lane, middle]
        if rows[lane, middle] >= 0 and (other > score or (other == score and rows[lane, middle] < row)):
            low = middle + 1
        else:
            high = middle
    return low


@njit(nogil=True, cache=True)
def keep_tangents(first, last, lanes, rows, used, tangents, pool, slots):
    """Copy tangents float32[n, p, S + 1] of rows int64[n, p] behind the used[lane] that pool[lane] holds.

    slots: int64[n, p] becomes the place of each.
    """
    for i in range(first, last):
        lane = lanes[i]
        for p in range(rows.shape[1]):
            slot = used[lane] + p
            if rows[i, p] < 0 or slot >= pool.shape[1]:
                break
            for d in range(pool.shape[2]):
                pool[lane, slot, d] = tangents[i, p, d]
            slots[i, p] = slot
