"""A step in compiled code, on CPUs: what `engine.hops` does in torch."""

import numpy as np
import torch

from engine.index import ItemIndex
from engine.kernels import merging, rounds
from engine.kernels.byte_products import matrix_unit
from engine.kernels.hops import Hop
from engine.kernels.stages import FAR
from engine.kernels.threads import in_parts
from engine.lanes import NO_ROW, Lanes

TOGETHER = 4
"""Lanes that a thread takes through a hop at a time: what is worked out of them stays in its cache."""

_NO_TANGENTS = np.empty((0, 0, 0), np.float32)


def hop(index: ItemIndex, lanes: Lanes, running: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose, score and merge for lanes int64[n].

    Returns these lanes in any order, how many pairs each scored, int64[n], and what that did to it, uint8[n]: bits of
    `engine.kernels.stages`. Threads share the lanes out as they get ready, and wait for each other once.
    """
    kernel = index.metric.hop_kernel(index.state, lanes.users)
    if kernel is None:
        return _hop_asking(index, lanes, running)
    chosen, parts = dealt(running, lanes.stages[running] == FAR, lanes.later(running), threads)
    widest = int(lanes.wanted[chosen].max())
    counts, done = np.zeros(len(chosen), np.int64), np.zeros(len(chosen), np.uint8)
    if widest > 0:  # something was given to somebody
        shared = Hop(chosen, parts, np.zeros(1, np.int64), widest, counts, done)
        columns = index.rows, index.columns, lanes.columns, matrix_unit()
        in_parts(lambda _: kernel.hop(shared, *columns, kernel.state, kernel.own), threads, threads)
    return chosen, counts, done


def dealt(running: np.ndarray, far: np.ndarray, later: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Lanes int64[n] part by part, and parts int64[m, 3]: where each begins, where its ``later`` end, where it does.

    Those that look ``far``, bool[n], share what they read: as many parts of them as there are threads. The tangents of
    those that are ``later``, bool[n], will be wanted, which takes longest: every part gets as many.
    """
    in_order = np.lexsort((~later, ~far))
    looking = np.arange(np.count_nonzero(far))
    others = np.arange(len(far) - len(looking))
    several = min(len(looking), threads)
    among = max(1, min(len(others), max(threads, -(-len(others) // TOGETHER))))
    part = np.concatenate([looking % max(1, several), several + others % among])
    ends, derived = np.bincount(part).cumsum(), np.bincount(part, later[in_order]).astype(np.int64)
    begins = np.append(0, ends[:-1])
    chosen = running[in_order[part.argsort(kind="stable")]]
    return chosen, np.stack([begins, begins + derived, ends], axis=1)


def _hop_asking(index: ItemIndex, lanes: Lanes, running: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same under a metric that is asked for its scores each time, on this thread."""
    later = lanes.later(running)
    chosen, derived = np.concatenate([running[later], running[~later]]), int(np.count_nonzero(later))
    table = np.full((len(chosen), int(lanes.wanted[chosen].max())), NO_ROW)
    counts, done = np.zeros(len(chosen), np.int64), np.zeros(len(chosen), np.uint8)
    rounds.choose(chosen, index.rows, index.columns, lanes.columns, matrix_unit(), table, counts)
    for part, derive in ((slice(0, derived), True), (slice(derived, len(chosen)), False)):
        if part.start == part.stop or table.shape[1] == 0:
            continue
        pairs = index.state, torch.from_numpy(table[part]), lanes.users, torch.from_numpy(chosen[part])
        tangents = _NO_TANGENTS
        if derive:
            scores, given = index.metric.score_with_tangents(*pairs)
            tangents = given.numpy()
        else:
            scores = index.metric.score(*pairs)
        columns = table[part], counts[part], scores.numpy(), tangents
        merging.merge(chosen[part], index.columns, lanes.columns, *columns, done[part])
    return chosen, counts, done
