"""A hop of many lanes in one call of compiled code: rows are chosen, scored and merged, a few lanes at a time.

What is worked out of a few lanes stays in the cache from one of the three to the next, and Python, whose lock threads
would wait for, is out of it until all is done.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
from numba import njit

from engine.kernels import UNCOUNTED
from engine.kernels.gate import come_in, leave
from engine.kernels.instructions import fetch_add
from engine.kernels.merging import merge
from engine.kernels.rounds import choose
from engine.kernels.stages import FAR, SEEDS

TOGETHER = 4
"""Lanes that a thread takes through a hop at a time: what is worked out of them stays in its cache."""


class HopKernel(NamedTuple):
    """How a metric scores in a hop: `hop`, compiled with a kernel of `engine.kernels.scoring`, and what that reads."""

    hop: Callable[..., None]
    state: Any
    own: tuple[Any, ...]


class Hop(NamedTuple):
    """What the threads of a hop share; made once, for so many lanes.

    chosen: int64[lanes], the n lanes that make it. parts: int64[lanes, 3], of each where its lanes begin, where those
    end whose tangents are wanted, which come first, and where all end. extent: int64[3], how many parts there are, how
    many pairs a lane scores at most, and how many rows of the index are in use. taken: int64[1], how many parts
    have been begun. counts: int64[lanes] and done: uint8[lanes] get how many pairs each of the chosen scored, and what
    that did to it.
    """

    chosen: np.ndarray
    parts: np.ndarray
    extent: np.ndarray
    taken: np.ndarray
    counts: np.ndarray
    done: np.ndarray

    @classmethod
    def of(cls, lanes: int) -> Self:
        """For so many lanes."""
        shapes = ((lanes, np.int64), ((lanes, 3), np.int64), (3, np.int64), (1, np.int64), (lanes, np.int64))
        return cls(*(np.zeros(shape, kind) for shape, kind in shapes), np.zeros(lanes, np.uint8))


@njit(nogil=True, cache=True)
def deal(running, stages, rounds, wanted, threads, rows, hop):
    """Deal lanes int64[n] out, part by part; returns how many pairs a lane scores at most.

    Those that look far share what they read: as many parts of them as there are threads. The tangents of those that
    have a round behind this step will be wanted, which takes longest: every part gets as many.
    """
    kinds, sizes = np.empty(len(running), np.int64), np.zeros(4, np.int64)
    widest = 0
    for i in range(len(running)):
        lane = running[i]
        later = rounds[lane] > (stages[lane] != SEEDS)
        kinds[i] = 2 * (stages[lane] != FAR) + (not later)
        sizes[kinds[i]] += 1
        widest = max(widest, wanted[lane])
    ordered, ends = np.empty(len(running), np.int64), sizes.cumsum()
    places = ends - sizes
    for i in range(len(running)):
        ordered[places[kinds[i]]] = running[i]
        places[kinds[i]] += 1
    looking, others = ends[1], len(running) - ends[1]
    several = min(others, max(threads, (others + TOGETHER - 1) // TOGETHER))
    parts = _cut(ordered, 0, looking, sizes[0], min(looking, threads), hop, 0)
    parts = _cut(ordered, looking, len(running), sizes[2], several, hop, parts)
    hop.extent[0], hop.extent[1], hop.extent[2] = parts, widest, rows
    hop.taken[0] = 0
    hop.counts[: len(running)] = 0
    hop.done[: len(running)] = 0
    return widest


@njit(**UNCOUNTED)
def _cut(ordered, first, last, later, several, hop, part):
    """Deal out the lanes from ``first`` to ``last``, of which so many come first that are ``later``, to several parts.

    Returns how many parts there are then; ``part`` is how many there were.
    """
    place = first
    for number in range(several):
        hop.parts[part, 0] = hop.parts[part, 1] = place
        for i in range(first + number, last, several):
            hop.chosen[place] = ordered[i]
            place += 1
            hop.parts[part, 1] += i < first + later
        hop.parts[part, 2] = place
        part += 1
    return part


@njit(nogil=True, inline="always")  # into the hop of every metric, since numba keeps no function that is told another
def take_parts(score, gate, leads, hop, items, lanes, matrix_unit, state, own):
    """Take parts through a hop until none is left; who does not lead, through every hop that the gate opens for.

    score: a kernel of `engine.kernels.scoring`. matrix_unit: as for a scan. items and lanes are the columns of
    `engine.kernels.columns`.
    """
    opened = 0
    while True:
        if not leads:
            opened = come_in(gate, opened)
            if opened < 0:
                break
        most, most_derived = 0, 0
        several, widest, rows = hop.extent
        for first, middle, last in hop.parts[:several]:
            most, most_derived = max(most, last - first), max(most_derived, middle - first)
        table, scores = np.empty((most, widest), np.int64), np.empty((most, widest), np.float32)
        tangents = np.empty((most_derived, widest, lanes.tangents.shape[2]), np.float32)
        part = fetch_add(hop.taken.ctypes.data, 1)
        while part < several:
            first, middle, last = hop.parts[part]
            table[: last - first] = -1
            choose(
                hop.chosen[first:last], rows, items, lanes, matrix_unit, table[: last - first], hop.counts[first:last]
            )
            for begin, end, derive in ((first, middle, True), (middle, last, False)):
                if begin < end:
                    mine, pairs = hop.chosen[begin:end], table[begin - first : end - first]
                    known = tangents if derive else tangents[:0]
                    score(0, end - begin, state, pairs, mine, own, scores, known, derive)
                    merge(mine, items, lanes, pairs, hop.counts[begin:end], scores, known, hop.done[begin:end])
            part = fetch_add(hop.taken.ctypes.data, 1)
        if leads:
            break
        leave(gate)
