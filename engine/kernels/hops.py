"""A hop of many lanes in one call of compiled code: rows are chosen, scored and merged, a few lanes at a time.

What is worked out of a few lanes stays in the cache from one of the three to the next, and Python, whose lock threads
would wait for, is out of it until all is done.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from engine.kernels.instructions import fetch_add
from engine.kernels.merging import merge
from engine.kernels.rounds import choose


class HopKernel(NamedTuple):
    """How a metric scores in a hop: `hop`, compiled with a kernel of `engine.kernels.scoring`, and what that reads."""

    hop: Callable[..., None]
    state: Any
    own: tuple[Any, ...]


class Hop(NamedTuple):
    """What the threads of a hop share.

    chosen: int64[n], lanes. parts: int64[m, 3], of each where its lanes begin, where those end whose tangents are
    wanted, which come first, and where all end. taken: int64[1], how many parts have been begun. counts: int64[n] and
    done: uint8[n] get how many pairs each lane scored, at most ``widest``, and what that did to it.
    """

    chosen: np.ndarray
    parts: np.ndarray
    taken: np.ndarray
    widest: int
    counts: np.ndarray
    done: np.ndarray


@njit(nogil=True, inline="always")  # into the hop of every metric, since numba keeps no function that is told another
def take_parts(score, shared, rows, items, lanes, matrix_unit, state, own):
    """Take parts through a hop until none is left.

    score: a kernel of `engine.kernels.scoring`. rows: how many are in use; matrix_unit: as for a scan. items and lanes
    are the columns of `engine.kernels.columns`.
    """
    most, most_derived = 0, 0
    for first, middle, last in shared.parts:
        most, most_derived = max(most, last - first), max(most_derived, middle - first)
    table, scores = np.empty((most, shared.widest), np.int64), np.empty((most, shared.widest), np.float32)
    tangents = np.empty((most_derived, shared.widest, lanes.tangents.shape[2]), np.float32)
    part = fetch_add(shared.taken.ctypes.data)
    while part < len(shared.parts):
        first, middle, last = shared.parts[part]
        table[: last - first] = -1
        choose(
            shared.chosen[first:last], rows, items, lanes, matrix_unit, table[: last - first], shared.counts[first:last]
        )
        for begin, end, derive in ((first, middle, True), (middle, last, False)):
            if begin < end:
                mine, pairs = shared.chosen[begin:end], table[begin - first : end - first]
                known = tangents if derive else tangents[:0]
                score(0, end - begin, state, pairs, mine, own, scores, known, derive)
                merge(mine, items, lanes, pairs, shared.counts[begin:end], scores, known, shared.done[begin:end])
        part = fetch_add(shared.taken.ctypes.data)
