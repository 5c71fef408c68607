"""A step in compiled code, on CPUs: what `engine.hops` does in torch."""

from typing import Any

import numpy as np
import torch

from engine.index import ItemIndex
from engine.kernels import merging, rounds
from engine.kernels.byte_products import matrix_unit
from engine.kernels.gate import new_gate
from engine.kernels.hops import Hop, HopKernel, deal
from engine.kernels.team import Team
from engine.lanes import NO_ROW, Lanes, Results

_NO_TANGENTS = np.empty((0, 0, 0), np.float32)


class CompiledHops:
    """Takes lanes through their hops in compiled code, with threads that stand by for the next."""

    def __init__(self, lanes: int) -> None:
        self._hop, self._gate = Hop.of(lanes), new_gate()
        self._asked: tuple[Any, ...] = ()
        self._kernel: HopKernel | None = None
        self._arguments: tuple[Any, ...] = ()
        self._team: Team | None = None

    def hop(
        self, index: ItemIndex, lanes: Lanes, running: np.ndarray, threads: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Choose, score and merge for lanes int64[n].

        Returns these lanes in any order, how many pairs each scored, int64[n], and what that did to it, uint8[n]: bits
        of `engine.kernels.stages`; until the next hop. Threads share the lanes out as they get ready.
        """
        kernel = self._kernel_of(index, lanes)
        if kernel is None:
            return _hop_asking(index, lanes, running)
        hop = self._hop
        if deal(running, lanes.stages, lanes.rounds, lanes.wanted, threads, index.rows, hop) > 0:
            arguments = hop, index.columns, lanes.columns, matrix_unit(), kernel.state, kernel.own
            if not _same(arguments, self._arguments) or (self._team is not None and self._team.broken):
                self._arguments, self._team = arguments, None  # who stands by would hold on to the old columns
            if threads == 1:
                kernel.hop(self._gate, True, *arguments)
            else:
                with self._team_for(kernel).called(threads - 1):
                    kernel.hop(self._gate, True, *arguments)
        several = len(running)
        return hop.chosen[:several], hop.counts[:several], hop.done[:several]

    def results(self, index: ItemIndex, lanes: Lanes, done: np.ndarray) -> list[Results]:
        """Results of lanes int64[n], less the rows whose item changed or went since it was scored."""
        columns = lanes.columns
        kept = columns.result_rows, columns.result_scores, columns.result_versions
        rows, scores, counts = merging.collect(done, index.columns.versions, *kept)
        return [(rows[i, :count], scores[i, :count]) for i, count in enumerate(counts.tolist())]

    def _kernel_of(self, index: ItemIndex, lanes: Lanes) -> HopKernel | None:
        """How the index's metric scores; the same object while it reads the same columns."""
        asked = index.metric, index.state, lanes.users
        if not _same(asked, self._asked):
            self._asked, self._kernel = asked, index.metric.hop_kernel(index.state, lanes.users)
        return self._kernel

    def _team_for(self, kernel: HopKernel) -> Team:
        """Threads that stand by with the columns of this hop."""
        if self._team is None:
            self._team = Team(torch.get_num_threads() - 1, kernel.hop, (False, *self._arguments))
        return self._team


def _same(some: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


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
