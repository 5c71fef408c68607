"""What a lane does in each of its steps, one after the other, and when it is done."""

from typing import NamedTuple

import numpy as np
from numba import njit

from engine.kernels import UNCOUNTED

STAGES = 4
SEEDS, NEAR, FAR, FILL = range(STAGES)
"""What a lane does in its next step: score what it was given, a round near or far, or walk on to fill its lists."""

ENTERED, FULL, BARREN = 1, 2, 4
"""Bits of what a step did to a lane: its results changed; its beam and its results have no empty place; none of its
beam's entries with a tangent has neighbours to look at."""

GIVEN_ROWS = 1_024
"""Rows of those that a lane was given, its seeds or all that match its filter, that it scores in one step: a query that
scores ten thousand does not keep the others waiting for all of them."""


class Progress(NamedTuple):
    """The columns of `engine.lanes.Lanes` that decide what a lane does next; on the host, whatever the device."""

    walks: np.ndarray
    stages: np.ndarray
    next_stages: np.ndarray
    givens: np.ndarray
    offered: np.ndarray
    wanted: np.ndarray
    pairs: np.ndarray
    steps: np.ndarray
    rounds: np.ndarray
    quiet: np.ndarray
    evaluations: np.ndarray
    budgets: np.ndarray


@njit(nogil=True, cache=True)
def advance(chosen, counts, done, progress, quiet_rounds):
    """Set what lanes int64[n] do next, and count what they did.

    Returns those that have spent their budgets and those that have converged, with nothing left to do. counts:
    int64[n], the pairs that each has scored in this step; done: uint8[n], what that did. A lane ends its rounds after
    ``quiet_rounds`` that brought nothing.
    """
    spent, converged = np.empty_like(chosen), np.empty_like(chosen)
    several_spent, several_converged = 0, 0
    for i in range(len(chosen)):
        lane = chosen[i]
        stage = progress.stages[lane]
        progress.steps[lane] += 1
        progress.evaluations[lane] += counts[i]
        progress.quiet[lane] = 0 if done[i] & ENTERED else progress.quiet[lane] + 1
        progress.rounds[lane] -= stage in (NEAR, FAR)
        if stage == SEEDS:
            progress.offered[lane] += progress.wanted[lane]
        following = _following(lane, stage, done[i], progress, quiet_rounds)
        progress.stages[lane] = following
        left = progress.givens[lane] - progress.offered[lane]
        progress.wanted[lane] = min(left, GIVEN_ROWS) if following == SEEDS else progress.pairs[lane]
        if progress.evaluations[lane] >= progress.budgets[lane]:
            spent[several_spent] = lane
            several_spent += 1
        elif following == FILL:
            unfilled = not done[i] & FULL and (stage != FILL or counts[i] > 0)
            if not (unfilled and progress.walks[lane]):
                converged[several_converged] = lane
                several_converged += 1
    return spent[:several_spent], converged[:several_converged]


@njit(**UNCOUNTED)
def _following(lane, stage, done, progress, quiet_rounds):
    if progress.offered[lane] < progress.givens[lane]:
        return SEEDS
    if not progress.walks[lane]:
        return FILL
    following = FAR if stage == NEAR else NEAR
    if stage == SEEDS:
        following = progress.next_stages[lane]
    if following == NEAR and done & BARREN:
        # A round near of nothing would change nothing: it counts as made.
        progress.rounds[lane] -= 1
        progress.quiet[lane] += 1
        following = FAR
    return following if progress.rounds[lane] > 0 and progress.quiet[lane] < quiet_rounds else FILL
