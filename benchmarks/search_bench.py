"""The engine on a challenge: an index of its items, its queries, exact answers, and what a search of them takes."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.best_keys import BestKeys, keep_best
from benchmarks.challenges import Challenge
from benchmarks.counting import Counting, choosing
from benchmarks.machine import THREADS
from engine.graph import GraphParams, plan_insert
from engine.index import ItemIndex
from engine.kernels.threads import in_parts
from engine.query import Query, SearchParams
from engine.relevance import plan_relevant
from engine.search import ParallelSearch, answered

K = 50
DEGREE, RELEVANT = 32, 64
MOST_LANES = 4_096
_BLOCK, _TOGETHER = 1_024, 128
"""Items that are scored for one query after another, and so many queries at a time: what that takes is in the cache."""

_FEWEST, _MOST = 1_024, 8_192
"""Rows that are inserted at once, an eighth of those that stand."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a method found: int64[Q, K], −1 for none. choosing: multiply-adds beside the metric's, of all queries."""

    rows: np.ndarray
    choosing: int = 0


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method found, and what it took per query: evaluations, multiply-adds, and those of choosing among them."""

    rows: np.ndarray
    evaluations: float
    multiply_adds: float
    choosing: float

    def recall(self, exact: np.ndarray) -> float:
        """Mean share of the exact answers int64[≥ Q, K] found, −1 being none."""
        wanted = [line[line >= 0] for line in exact[: len(self.rows)]]
        shares = [np.isin(line, mine).mean() for mine, line in zip(self.rows, wanted, strict=True) if len(line)]
        return float(np.mean(shares))


Method = Callable[[], Found]


def asked_for(rounds: int, clusters: int, pairs: int, width: int) -> SearchParams:
    """The parameters of a search for the best K, with no wider beam."""
    return SearchParams(k=K, beam=K, rounds=rounds, clusters=clusters, pairs=pairs, width=width)


def built(
    challenge: Challenge, progress: Callable[[int], None] = lambda _: None, *, relevant: bool = True
) -> ItemIndex:
    """An index of a challenge's items, linked batch by batch, as the item writer does it.

    relevant: whether to what is relevant too. At once, by `link_relevant`, that is a seventeenth of the work, and no
    link is out of date.
    """
    index = ItemIndex(challenge.metric, DEGREE, relevant=RELEVANT)
    total, params = len(challenge.vectors), GraphParams(candidates=2 * DEGREE)
    while index.rows < total:
        size = min(_MOST, max(_FEWEST, index.rows // 8))
        rows = np.arange(index.rows, min(total, index.rows + size))
        change = plan_insert(index, rows, torch.from_numpy(challenge.vectors[rows]), params)
        writes = {
            "vectors": [(rows, challenge.vectors[rows])],
            "biases": [(rows, challenge.biases[rows])],
            "neighbors": [(change.rows, change.neighbors)],
            "versions": [(rows, np.ones((len(rows), 1), np.int64))],
        }
        index.apply(writes, int(rows[-1]) + 1)
        if relevant:
            link_relevant(index, rows)
        progress(index.rows)
    return index


def link_relevant(index: ItemIndex, rows: np.ndarray) -> None:
    """Link rows int64[n] to what is relevant, wherever the index lies."""
    change = plan_relevant(index, rows)
    index.apply({"relevant": [(change.rows, change.neighbors)]}, index.rows)


class Bench:
    """A challenge's items in an index, its queries, and their exact answers int64[Q, K]."""

    def __init__(self, challenge: Challenge, index: ItemIndex) -> None:
        self.challenge, self.index = challenge, index
        self.queries = challenge.histories
        self._users = index.metric.make_users(len(self.queries), index.device)
        self._searches: dict[int, ParallelSearch] = {}
        self.exact = challenge.exact if challenge.exact is not None else self.exhaustive(self.queries).rows
        self.ours(self.queries[:1], lanes=1)  # compiled before anything is timed

    def outcome(self, method: Method) -> Outcome:
        """Run once under a metric that counts."""
        metric = self.index.metric
        counting = Counting(metric, self.challenge.costs, max(len(self.queries), MOST_LANES))
        self.index.metric = counting
        try:
            found = method()
        finally:
            self.index.metric = metric
        multiply_adds, total = int(counting.multiply_adds.sum()) + found.choosing, len(found.rows)
        return Outcome(found.rows, int(counting.pairs.sum()) / total, multiply_adds / total, found.choosing / total)

    def everything(self, count: int | None = None) -> float:
        """Multiply-adds per query of scoring all items for the first queries."""
        costs, queries = self.challenge.costs, self.queries[:count]
        return float(np.mean(self.index.rows * costs.pair.of(costs.lengths(queries))))

    def ours(self, asked: Sequence[Query], lanes: int) -> Found:
        """The engine's search, with lanes that were there before, as a service has them."""
        if lanes not in self._searches:
            self._searches[lanes] = ParallelSearch(self.index, lanes)
        answers = answered(self._searches[lanes], asked)
        rows = np.full((len(answers), K), -1)
        for line, answer in zip(rows, answers, strict=True):
            line[: len(answer.rows)] = answer.rows
        return Found(rows, sum(choosing(self.index, *pair) for pair in zip(asked, answers, strict=True)))

    def exhaustive(self, queries: Sequence[Query]) -> Found:
        """Every item that matches scored; no more queries than the bench has."""
        if any(query.mask is not None for query in queries):
            return Found(self._matching(queries))
        return Found(self._all(queries))

    def _matching(self, queries: Sequence[Query]) -> np.ndarray:
        """Those that match scored, a thread a query at a time: int64[n, K], −1 behind the last."""
        every, found = np.ones(self.index.rows, dtype=bool), np.full((len(queries), K), -1)

        def answer(line: int) -> None:
            query, lane = queries[line], np.array([line])
            rows = np.flatnonzero(every if query.mask is None else query.mask)
            best = self.best([query], rows[None], lane)[0]
            found[line, : len(best)] = best

        in_parts(answer, len(queries), THREADS)
        return found

    def _all(self, queries: Sequence[Query]) -> np.ndarray:
        """All scored, a thread a block at a time, which is in the cache for all queries: int64[n, K]."""
        metric, state, lanes = self.index.metric, self.index.state, np.arange(len(queries))
        metric.encode_users(queries, state, self._users, lanes)
        best, lock = BestKeys.of(len(lanes), K), threading.Lock()

        def score(part: int) -> None:
            block = np.arange(part * _BLOCK, min(self.index.rows, (part + 1) * _BLOCK))
            rows = torch.from_numpy(np.repeat(block[None], min(len(lanes), _TOGETHER), axis=0)).to(state.device)
            for first in range(0, len(lanes), _TOGETHER):
                some = lanes[first : first + _TOGETHER]
                who = torch.from_numpy(some).to(state.device)
                scores = metric.score(state, rows[: len(some)], self._users, who).cpu().numpy()
                with lock:
                    keep_best(scores, some, block[0], *best)

        in_parts(score, -(-self.index.rows // _BLOCK), THREADS)
        return best.rows()

    def best(self, queries: Sequence[Query], rows: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """The best K of rows int64[n, p] for each query, int64[n, ≤ K].

        Without operations of torch, whose threads wait actively and would be in the way of the kernels'.
        """
        metric, state = self.index.metric, self.index.state
        metric.encode_users(queries, state, self._users, lanes)
        pairs, who = (torch.from_numpy(array).to(state.device) for array in (rows, lanes))
        scores = metric.score(state, pairs, self._users, who).cpu().numpy()
        if rows.shape[1] <= K:
            return rows
        best: np.ndarray = np.take_along_axis(rows, np.argpartition(scores, -K, axis=1)[:, -K:], axis=1)
        return best
