"""First-order estimates of relevance: what the gradients at scored rows say of rows that are not scored yet.

δ(w) ≈ δ(v) + ∇δ(v) · (s_w − s_v), with s the items' state: one product of its width instead of an evaluation.
"""

import numpy as np
from numba import njit

from engine.kernels.memory import prefetch
from engine.kernels.ranking import drain, offer

_FAR = np.float32(3e38)


@njit(nogil=True, cache=True, fastmath=True)
def estimate_neighbors(codes, scales, neighbors, marks, lane, parents, tangents, keys, best, estimates, found):
    """Fill ``found`` with the lane's unmarked neighbours of the parents whose estimates are largest; returns how many.

    A row that several parents know counts with its largest estimate. codes: int8[N, S] with scales: float32[S], the
    state in bytes; neighbors: int32[N, R]; marks: uint8[lanes, N]; parents: int64[P], tangents: float32[≥ P, S + 1];
    keys: int32[2^b] and best: float32[2^b], scratch of at least twice P·R; estimates: float32[1, m] and found:
    int32[1, m].
    """
    dimensions, degree, mask = codes.shape[1], neighbors.shape[1], len(keys) - 1
    used = np.empty(len(parents) * degree, np.int32)
    slope = np.empty(dimensions, np.float32)
    codes_at, marks_at, row_marks = codes.ctypes.data, marks.ctypes.data, marks.shape[1] * lane
    keys[:] = -1
    count = 0
    for n in range(degree):
        row = neighbors[parents[0], n]
        prefetch(codes_at + row * dimensions)
        prefetch(marks_at + row_marks + row)
    for p in range(len(parents)):
        parent = parents[p]
        if p + 1 < len(parents):
            for n in range(degree):
                row = neighbors[parents[p + 1], n]
                prefetch(codes_at + row * dimensions)
                prefetch(marks_at + row_marks + row)
        for d in range(dimensions):
            slope[d] = tangents[p, d] * scales[d]
        for n in range(degree):
            row = neighbors[parent, n]
            if row < 0 or marks[lane, row] != 0:
                continue
            estimate = tangents[p, dimensions]
            for d in range(dimensions):
                estimate += slope[d] * np.float32(codes[row, d])
            slot = (row * np.int64(0x9E3779B1) >> 7) & mask
            while keys[slot] != row and keys[slot] >= 0:
                slot = (slot + 1) & mask
            if keys[slot] < 0:
                keys[slot], best[slot] = row, estimate
                used[count] = slot
                count += 1
            else:
                best[slot] = max(best[slot], estimate)
    size = 0
    for i in range(count):
        slot = used[i]
        if size < estimates.shape[1] or best[slot] > estimates[0, 0]:
            size = offer(estimates, found, 0, size, best[slot], keys[slot])
    drain(estimates, found, 0, size)
    return size


@njit(nogil=True, cache=True, fastmath=True)
def cluster(gradients, centres, rounds):
    """k-means of gradients float32[n ≥ 1, D] into ``centres`` float32[C, D]; returns how many there are.

    Starts from the first, which is the best row's, and from those farthest from the ones before. There are fewer
    centres than asked for where gradients are equal.
    """
    count = len(gradients)
    nearest = np.full(count, _FAR)
    owner = np.zeros(count, np.int64)
    wanted = 0
    farthest = 0
    while wanted < min(len(centres), count) and nearest[farthest] > 0:
        centres[wanted] = gradients[farthest]
        _take_over(gradients, centres, wanted, nearest, owner)
        wanted += 1
        farthest = np.argmax(nearest)
    for r in range(rounds):
        _move_to_means(gradients, centres[:wanted], owner)
        if r + 1 < rounds:
            nearest[:] = _FAR
            for c in range(wanted):
                _take_over(gradients, centres, c, nearest, owner)
    return wanted


@njit(nogil=True, cache=True, fastmath=True)
def _take_over(gradients, centres, c, nearest, owner):
    """Give a centre the gradients that are nearer to it than to those before."""
    for i in range(len(gradients)):
        distance = np.float32(0)
        for d in range(gradients.shape[1]):
            distance += (gradients[i, d] - centres[c, d]) * (gradients[i, d] - centres[c, d])
        if distance < nearest[i]:
            nearest[i], owner[i] = distance, c


@njit(nogil=True, cache=True, fastmath=True)
def _move_to_means(gradients, centres, owner):
    """Put each centre into the middle of its gradients; one without any stays where it is."""
    members = np.zeros(len(centres), np.int64)
    for i in range(len(gradients)):
        c = owner[i]
        if members[c] == 0:
            centres[c] = 0
        members[c] += 1
        for d in range(gradients.shape[1]):
            centres[c, d] += gradients[i, d]
    for c in range(len(centres)):
        for d in range(gradients.shape[1]):
            centres[c, d] /= max(members[c], 1)
