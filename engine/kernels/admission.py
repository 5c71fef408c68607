"""Admission in compiled code: a lane is emptied, and what its query asks for is written down.

`lanes` are the columns of `engine.kernels.columns`, `numbers` int64[number, lane] those of `Numbers`.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from engine.kernels import UNCOUNTED
from engine.kernels.marks import HIGHEST_FLOOR, STEP
from engine.kernels.stages import GIVEN_ROWS


class Numbers(NamedTuple):
    """What the host keeps of every lane, int64[lanes] each; 0 or 1 where a question is answered.

    First what a query asks for: beam and k, the sizes of its lists, and others as in `engine.query` and
    `engine.lanes.Given`. givens: how many rows it is to score first. next_stages: the stage behind these. Then how far
    it is, as in `engine.lanes.Lanes`. Only floors, see `engine.kernels.marks`, outlast a query.
    """

    beam: np.ndarray
    k: np.ndarray
    budgets: np.ndarray
    widths: np.ndarray
    pairs: np.ndarray
    clusters: np.ndarray
    per_group: np.ndarray
    rounds: np.ndarray
    givens: np.ndarray
    filtered: np.ndarray
    next_stages: np.ndarray
    walks: np.ndarray
    running: np.ndarray
    wanted: np.ndarray
    offered: np.ndarray
    stages: np.ndarray
    quiet: np.ndarray
    steps: np.ndarray
    evaluations: np.ndarray
    floors: np.ndarray


_BEAM, _K, _PAIRS, _ROUNDS, _GIVENS = map(Numbers._fields.index, ("beam", "k", "pairs", "rounds", "givens"))
_WALKS, _RUNNING, _WANTED, _FLOORS = map(Numbers._fields.index, ("walks", "running", "wanted", "floors"))


@njit(**UNCOUNTED)
def any_outside(rows, limit):
    """Whether any of rows int64[m] is none of 0 … limit - 1."""
    outside = 0
    for row in rows:
        outside += row < 0 or row >= limit
    return outside > 0


@njit(nogil=True, cache=True)
def room_of(asked, most_slots):
    """What the widest of queries need, of whom each asks int64[n, …], the first of the numbers.

    Returns places in a beam, among the results, among the rows given, and among those scored, rounds and pairs counting
    as ``most_slots`` at most.
    """
    beam, results, given, scored = 0, 0, 0, 0
    for i in range(len(asked)):
        beam, results = max(beam, asked[i, _BEAM]), max(results, asked[i, _K])
        given = max(given, asked[i, _GIVENS])
        pairs = min(max(asked[i, _PAIRS], asked[i, _K]), most_slots)
        scored = max(scored, asked[i, _GIVENS] + min(asked[i, _ROUNDS], most_slots) * pairs)
    return beam, results, given, scored


@njit(**UNCOUNTED)
def open_lanes(chosen, asked, numbers, rows, lanes):
    """Empty the lists of lanes int64[n], forget their marks, and write down what comes into them.

    asked: int64[n, …], the first of each one's numbers. rows: int64[m], those given to the first of them, and so on.
    """
    first = 0
    for i in range(len(chosen)):
        lane = chosen[i]
        for place in range(asked[i, _GIVENS]):
            lanes.given[lane, place] = rows[first + place]
        first += asked[i, _GIVENS]
        lanes.beam_scores[lane], lanes.beam_rows[lane] = -np.inf, -1
        lanes.result_scores[lane], lanes.result_rows[lane] = -np.inf, -1
        if _write_numbers(lane, asked, i, numbers):
            lanes.marks[lane] = 0


@njit(**UNCOUNTED)
def write_numbers(chosen, asked, numbers, highest):
    """Write down what comes into lanes int64[n], and no more: their columns are on another device.

    highest: bool[n] becomes true for those whose marks are to be undone, since they have no higher floor.
    """
    for i in range(len(chosen)):
        highest[i] = _write_numbers(chosen[i], asked, i, numbers)


@njit(**UNCOUNTED)
def _write_numbers(lane, asked, i, numbers):
    """Write down what comes into a lane; returns whether its marks are to be undone, since there is no higher floor."""
    highest = numbers[_FLOORS, lane] == HIGHEST_FLOOR
    floor = STEP if highest else numbers[_FLOORS, lane] + STEP
    for number in range(len(numbers)):
        numbers[number, lane] = asked[i, number] if number < asked.shape[1] else 0
    numbers[_FLOORS, lane] = floor
    numbers[_PAIRS, lane] = max(asked[i, _PAIRS], asked[i, _K])
    numbers[_WALKS, lane] = asked[i, _ROUNDS] > 0
    numbers[_RUNNING, lane] = 1
    numbers[_WANTED, lane] = min(asked[i, _GIVENS], GIVEN_ROWS)
    return highest
