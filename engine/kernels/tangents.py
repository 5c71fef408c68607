"""First-order estimates of relevance: what the gradients at scored rows say of rows that are not scored yet.

δ(w) ≈ δ(v) + ∇δ(v) · (s_w − s_v), with s the items' state: one product of its width instead of an evaluation.
"""

import numpy as np
from numba import njit

from engine.kernels import UNCOUNTED
from engine.kernels.byte_products import dot_bytes
from engine.kernels.instructions import prefetch
from engine.kernels.ranking import key_of, order_of
from engine.kernels.scan import ZERO, centre_bytes

CLUSTER_ROUNDS = 4

_FAR = np.float32(3e38)
_LINE = 16


@njit(**UNCOUNTED, fastmath=True)
def estimate_neighbors(items, parents, planes, count, slopes, found):
    """Fill ``found`` with keys of estimates and rows of all neighbours of parents; returns how many.

    What several parents link to is there for each of them. parents: int64[≥ count], their tangents planes:
    float32[≥ count, S + 1]. slopes: int8[1, as wide as codes], where these planes come one by one, 0 behind their
    width. found: int64[1, ≥ count · R].
    """
    codes, links = items.codes, items.links
    width, degree, codes_at, several = codes.shape[1], links.shape[1], codes.ctypes.data, 0
    for p in range(count):
        for n in range(0, degree, _LINE):
            prefetch(links.ctypes.data + 4 * (parents[p] * degree + n))
    for p in range(count + 1):
        if p < count:  # what the next parent links to is on its way while this one's is read
            for n in range(degree):
                row = links[parents[p], n]
                for offset in range(0, width, 64):
                    prefetch(codes_at + row * width + offset)
        if p == 0:
            continue
        step = centre_bytes(planes, p - 1, items.scales, slopes, 0)
        level = planes[p - 1, planes.shape[1] - 1]
        for d in range(width):
            level -= step * np.float32(ZERO) * np.float32(slopes[0, d])
        for n in range(degree):
            row = links[parents[p - 1], n]
            known = max(row, 0)
            product = np.float32(dot_bytes(codes_at + known * width, slopes.ctypes.data, width))
            found[0, several] = key_of(order_of(level + step * product), known)
            several += row >= 0
    return several


@njit(nogil=True, cache=True, fastmath=True)
def cluster(gradients, centres):
    """k-means of gradients float32[n ≥ 1, D] into ``centres`` float32[C, D]; returns how many there are.

    Starts from the first, which is the best row's, and from those farthest from the ones before. There are fewer
    centres than asked for where gradients are equal.
    """
    count = len(gradients)
    nearest = np.full(count, _FAR)
    owner, before = np.zeros(count, np.int64), np.empty(count, np.int64)
    wanted = 0
    farthest = 0
    while wanted < min(len(centres), count) and nearest[farthest] > 0:
        centres[wanted] = gradients[farthest]
        _take_over(gradients, centres, wanted, nearest, owner)
        wanted += 1
        farthest = np.argmax(nearest)
    _move_to_means(gradients, centres[:wanted], owner)
    for _ in range(CLUSTER_ROUNDS - 1):
        nearest[:], before[:] = _FAR, owner
        for c in range(wanted):
            _take_over(gradients, centres, c, nearest, owner)
        if (owner == before).all():
            break  # and would stay so
        _move_to_means(gradients, centres[:wanted], owner)
    return wanted


@njit(**UNCOUNTED, fastmath=True)
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
