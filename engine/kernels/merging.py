"""A step's bookkeeping in compiled code: which rows are scored, and where their scores belong.

`items` and `lanes` are the columns of `engine.kernels.columns`.
"""

import numpy as np
from numba import njit

from engine.kernels import UNCOUNTED
from engine.kernels.instructions import prefetch
from engine.kernels.marks import BARRED, VISITED, mark_of, visit
from engine.kernels.stages import BARREN, ENTERED, FULL

_BLOCK = 64


@njit(**UNCOUNTED)
def take(items, lanes, lane, table, line, candidates):
    """Move those of the first ``candidates`` rows of a line that are to be scored to its front; returns how many.

    Those are the live ones that were not visited, each once, first come first, as many as the lane's budget leaves.
    """
    taken = 0
    left = lanes.budgets[lane] - lanes.evaluations[lane]
    for place in range(candidates):  # all on their way before the first is waited for
        prefetch(items.versions.ctypes.data + items.versions.itemsize * table[line, place])
    for place in range(candidates):
        row = table[line, place]
        if taken == left:
            break
        if row >= 0 and items.versions[row] > 0 and mark_of(lanes, lane, row) & VISITED == 0:
            visit(lanes, lane, row)
            table[line, taken] = row
            taken += 1
    for place in range(taken, candidates):
        table[line, place] = -1
    return taken


@njit(nogil=True, cache=True)
def merge(chosen, items, lanes, table, counts, scores, tangents, done):
    """Merge scores float32[n, p] of the rows in table int64[n, p] into their lanes' beams and results.

    Both are best first, ties to the lowest row, −1 and −inf in empty places. Barred and dead rows are no results, nor
    are those whose group has enough better ones. tangents: float32[n, p, S + 1] or nothing; those of what is in the
    beam then are kept in the lane's slots, as far as there are any. done: uint8[n] is filled with what this did to each
    lane.
    """
    order = np.empty(_BLOCK, np.int64)
    source = np.empty(max(lanes.beam_rows.shape[1], lanes.result_rows.shape[1]), np.int64)
    groups, times = _tally(4 * lanes.result_rows.shape[1] if lanes.per_group[chosen].any() else 1)
    for i in range(len(chosen)):
        lane = chosen[i]
        last, last_result = lanes.beam_sizes[lane] - 1, lanes.result_sizes[lane] - 1
        for start in range(0, counts[i], _BLOCK):
            worst = min(lanes.beam_scores[lane, last], lanes.result_scores[lane, last_result])
            count = _sorted(scores, table, i, start, min(counts[i], start + _BLOCK), worst, order)
            _into_beam(lanes, lane, table, scores, i, order, count, source, len(tangents) > 0)
            if _into_results(items, lanes, lane, table, scores, i, order, count, source, groups, times):
                done[i] |= ENTERED
        if len(tangents) > 0:
            _keep_tangents(lanes, lane, tangents, i)
        if lanes.beam_rows[lane, last] >= 0 and lanes.result_rows[lane, last_result] >= 0:
            done[i] |= FULL
        if _is_barren(lanes, lane):
            done[i] |= BARREN


@njit(nogil=True, cache=True)
def collect(chosen, versions, result_rows, result_scores, result_versions):
    """The results of lanes int64[n], less the rows whose item changed or went since it was scored.

    Returns rows int64[n, k], scores float32[n, k], and how many of them each has, int64[n].
    """
    shape = (len(chosen), result_rows.shape[1])
    rows, scores, counts = np.empty(shape, np.int64), np.empty(shape, np.float32), np.zeros(len(chosen), np.int64)
    for i in range(len(chosen)):
        lane = chosen[i]
        for place in range(shape[1]):
            row = result_rows[lane, place]
            if row >= 0 and versions[row] == result_versions[lane, place]:
                rows[i, counts[i]], scores[i, counts[i]] = row, result_scores[lane, place]
                counts[i] += 1
    return rows, scores, counts


@njit(**UNCOUNTED)
def _is_barren(lanes, lane):
    for place in range(lanes.beam_sizes[lane]):
        if lanes.unexpanded[lane, place] and lanes.slots[lane, place] >= 0 and lanes.beam_rows[lane, place] >= 0:
            return False
    return True


@njit(**UNCOUNTED)
def _into_beam(lanes, lane, table, scores, i, order, count, source, derived):
    """Merge the first ``count`` places of ``order``, best first, into a lane's beam."""
    size = lanes.beam_sizes[lane]
    changed = _merged_order(lanes.beam_scores, lanes.beam_rows, lane, size, scores, table, i, order, count, source)
    for place in range(size - 1, changed - 1, -1):  # from behind: what is kept moves back, over places already copied
        old = source[place]
        if old >= 0:
            lanes.beam_scores[lane, place] = lanes.beam_scores[lane, old]
            lanes.beam_rows[lane, place] = lanes.beam_rows[lane, old]
            lanes.unexpanded[lane, place] = lanes.unexpanded[lane, old]
            lanes.slots[lane, place] = lanes.slots[lane, old]
        else:
            slot = lanes.evaluations[lane] + ~old
            lanes.beam_scores[lane, place] = scores[i, ~old]
            lanes.beam_rows[lane, place] = table[i, ~old]
            lanes.unexpanded[lane, place] = lanes.walks[lane]
            lanes.slots[lane, place] = slot if derived and slot < lanes.tangents.shape[1] else -1


@njit(**UNCOUNTED)
def _into_results(items, lanes, lane, table, scores, i, order, count, source, groups, times):
    """Merge them into its results, after its beam: gaps in ``order`` are closed. Returns whether anything entered."""
    size = lanes.result_sizes[lane]
    count = _allowed(items, lanes, lane, table, i, order, count)
    changed = _merged_order(lanes.result_scores, lanes.result_rows, lane, size, scores, table, i, order, count, source)
    if lanes.per_group[lane] > 0 and changed < size:
        changed = _limited_order(items, lanes, lane, scores, table, i, order, count, source, groups, times)
    for place in range(size - 1, changed - 1, -1):
        old = source[place]
        if old >= 0:
            lanes.result_scores[lane, place] = lanes.result_scores[lane, old]
            lanes.result_rows[lane, place] = lanes.result_rows[lane, old]
            lanes.result_versions[lane, place] = lanes.result_versions[lane, old]
        else:
            lanes.result_scores[lane, place] = scores[i, ~old]
            lanes.result_rows[lane, place] = table[i, ~old]
            lanes.result_versions[lane, place] = items.versions[table[i, ~old]]
    return changed < size


@njit(**UNCOUNTED)
def _sorted(scores, table, i, start, stop, worst, order):
    """Fill ``order`` with the places from ``start`` to ``stop`` that are no worse than ``worst``, best first."""
    count = 0
    for p in range(start, stop):
        score, row = scores[i, p], table[i, p]
        if score < worst:
            continue
        place = count
        while place > 0:
            before = order[place - 1]
            if scores[i, before] > score or (scores[i, before] == score and table[i, before] < row):
                break
            order[place] = before
            place -= 1
        order[place] = p
        count += 1
    return count


@njit(**UNCOUNTED)
def _allowed(items, lanes, lane, table, i, order, count):
    """Close the gaps that barred and dead rows leave in ``order``; returns how many places are left."""
    kept = 0
    for c in range(count):
        row = table[i, order[c]]
        if mark_of(lanes, lane, row) & BARRED == 0 and items.versions[row] > 0:
            order[kept] = order[c]
            kept += 1
    return kept


@njit(**UNCOUNTED)
def _merged_order(old_scores, old_rows, lane, size, scores, table, i, order, count, source):
    """Say in ``source`` where each place of a list gets its entry from: an old place, or ~p of the new ones.

    Returns the first place that changes, ``size`` where none does; before it nothing is said.
    """
    old, new, changed = 0, 0, size
    for place in range(size):
        if new == count and changed == size:
            break
        if new < count and _comes_first(old_scores, old_rows, lane, old, scores[i, order[new]], table[i, order[new]]):
            source[place] = ~order[new]
            new += 1
            changed = min(changed, place)
        else:
            source[place] = old
            old += 1
    return changed


@njit(**UNCOUNTED)
def _limited_order(items, lanes, lane, scores, table, i, order, count, source, groups, times):
    """`_merged_order` of a lane's results with at most ``per_group`` of a group, of whom those behind fall out.

    An entry falls out only for a better one of its group that came in, so that what is kept moves back here too.
    """
    size, old, new, place, changed = lanes.result_sizes[lane], 0, 0, 0, lanes.result_sizes[lane]
    times[:] = 0
    while place < size:
        fresh = new < count and _comes_first(
            lanes.result_scores, lanes.result_rows, lane, old, scores[i, order[new]], table[i, order[new]]
        )  # fmt: skip
        row = table[i, order[new]] if fresh else lanes.result_rows[lane, old]
        # Another item may be in an old row by now, of another group: it is no result any more, and counts for nothing.
        same = row >= 0 and (fresh or items.versions[row] == lanes.result_versions[lane, old])
        if not same or _counts_in(items.groups[row], lanes.per_group[lane], groups, times):
            source[place] = ~order[new] if fresh else old
            if source[place] != place:
                changed = min(changed, place)
            place += 1
        new, old = new + fresh, old + (not fresh)
    return changed


@njit(nogil=True, cache=True, inline="always")
def _comes_first(old_scores, old_rows, lane, old, score, row):
    """Whether a new entry stands before an old one."""
    mine = old_scores[lane, old]
    return old_rows[lane, old] < 0 or mine < score or (mine == score and row < old_rows[lane, old])


@njit(nogil=True, cache=True)
def _tally(least):
    """Groups and how often each was counted, a hash table of at least so many places."""
    size = 1
    while size < least:
        size *= 2
    return np.zeros(size, np.int64), np.zeros(size, np.int64)


@njit(**UNCOUNTED)
def _counts_in(group, limit, groups, times):
    """Count a member of a group unless it has ``limit`` of them; whether it was counted. 0 is no group."""
    if group == 0:
        return True
    slot = (group ^ (group >> 32)) & (len(groups) - 1)
    while times[slot] > 0 and groups[slot] != group:
        slot = (slot + 1) & (len(groups) - 1)
    if times[slot] == limit:
        return False
    groups[slot] = group
    times[slot] += 1
    return True


@njit(**UNCOUNTED)
def _keep_tangents(lanes, lane, tangents, i):
    """Put the tangents of what is new in a lane's beam into their slots: of no others anybody will ask."""
    first = lanes.evaluations[lane]
    for place in range(lanes.beam_sizes[lane]):
        slot = lanes.slots[lane, place]
        if lanes.beam_rows[lane, place] >= 0 and slot >= first:
            for d in range(tangents.shape[2]):
                lanes.tangents[lane, slot, d] = tangents[i, slot - first, d]
