"""Searches under a learned metric that the engine's is compared with: SL2G and NANN, many queries in lockstep.

Both walk on a graph that was built for L2 between item vectors, here HNSW's, and score what they meet with the metric
itself. Pairs are scored in the metric's own compiled code, a hop of all lanes in one call, and no row twice for a lane.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Self

import faiss
import numpy as np
import torch
from numba import njit

from engine.kernels.threads import over_lanes
from engine.metric import Metric
from engine.query import Query

K = 50
LANES = 128
"""Queries that hop together: enough to share the cost of a call; more gain nothing."""


@dataclass(frozen=True, eq=False)
class Hnsw:
    """A hierarchical navigable small world by L2 (Malkov and Yashunin, TPAMI 2020), as faiss builds it.

    neighbors: of each level, the lowest first, int32[N, links], −1 for none; twice the links on the lowest. levels:
    int32[N], the highest level of each row. entry: the row where a search begins, on the highest level of all.
    """

    neighbors: tuple[np.ndarray, ...]
    levels: np.ndarray
    entry: int

    @classmethod
    def build(cls, vectors: np.ndarray, links: int = 32, effort: int = 200) -> Self:
        """Of vectors float32[N, D]; ``effort`` is efConstruction."""
        index = faiss.IndexHNSWFlat(vectors.shape[1], links, faiss.METRIC_L2)
        index.hnsw.efConstruction = effort
        index.add(np.ascontiguousarray(vectors, np.float32))
        hnsw: Any = index.hnsw
        columns = hnsw.neighbors, hnsw.offsets, hnsw.levels, hnsw.cum_nneighbor_per_level
        flat, offsets, counts, ends = (faiss.vector_to_array(column) for column in columns)
        tables = []
        for level, (first, last) in zip(range(counts.max()), pairwise(ends), strict=False):
            table = np.full((len(vectors), last - first), -1, np.int32)
            reaches = counts > level
            table[reaches] = flat[offsets[:-1][reaches, None].astype(np.int64) + np.arange(first, last)]
            tables.append(table)
        return cls(tuple(tables), counts - 1, hnsw.entry_point)


@dataclass(frozen=True, slots=True)
class NannParams:
    """NANN's breadth; by default as published.

    kept: candidates kept on each level, the lowest first; the last level is the one where the search starts. rounds:
    how often the neighbours of what is new among them are scored, on each level below that one.
    """

    kept: tuple[int, ...] = (400, 200, 100)
    rounds: tuple[int, ...] = (3, 1)


SL2G_SETTINGS = (16, 32, 64, 128, 256, 512)
"""Values of ef: recall@50 of 0.56 to 0.98 on the reference metric."""

NANN_SETTINGS = (
    NannParams((8, 8, 8), (6, 1)),
    NannParams((25, 25, 25), (6, 1)),
    NannParams((50, 50, 50), (6, 1)),
    NannParams((100, 50, 50), (6, 1)),
    NannParams((200, 100, 100), (6, 1)),
    NannParams(),
)
"""Recall@50 of 0.57 to 0.99; a small beam gains more by further rounds than by more candidates."""


def sl2g(
    metric: Metric, state: torch.Tensor, queries: Sequence[Query], graph: Hnsw, ef: int, k: int = K
) -> tuple[np.ndarray, float]:
    """Walk best first, one candidate at a time, until the best ``ef`` are all expanded.

    state: float32[≥ N, S], whose first N rows are the graph's. Returns rows int64[Q, k], best first, −1 for none, and
    evaluations per query.

    SL2G, search on an L2 graph: Tan, Zhou, Xu and Li, Fast Item Ranking under Neural Network based Measures, WSDM 2020.
    The levels are walked down greedily, as in HNSW. We could not look up the degree that the paper uses; here 32
    finds more for its evaluations than 16, and as much as 48.
    """

    def walk(beams: "_Beams") -> None:
        beams.start(np.array([graph.entry]))
        for level in range(len(graph.neighbors) - 1, -1, -1):
            keep = ef if level == 0 else 1
            beams.descend(keep)
            while beams.hop(graph.neighbors[level], keep, width=1):
                pass

    return _searched(metric, state, queries, graph, walk, max(ef, k), k)


def nann(
    metric: Metric, state: torch.Tensor, queries: Sequence[Query], graph: Hnsw, params: NannParams, k: int = K
) -> tuple[np.ndarray, float]:
    """Score all rows of the start level, then expand whole beams, level by level.

    state: float32[≥ N, S], whose first N rows are the graph's. Returns rows int64[Q, k], best first, −1 for none, and
    evaluations per query.

    Beam retrieval of Chen et al., Approximate Nearest Neighbor Search under Neural Similarity Metric for Large-Scale
    Recommendation, CIKM 2022 (arXiv 2202.10226), with the settings of its authors' code: github.com/alibaba/nann,
    NANN_impls, `nann/config.py` for the search, 32 links of `nann/delivery/build_hnsw_index.py` for the graph. What a
    higher level scored is not scored again on a lower one, which theirs does: in its favour.
    """
    start = min(len(params.kept), len(graph.neighbors)) - 1

    def walk(beams: "_Beams") -> None:
        beams.start(np.flatnonzero(graph.levels >= start))
        for level in range(start - 1, -1, -1):
            keep = params.kept[level]
            beams.descend(params.kept[level + 1])
            for _ in range(params.rounds[level]):
                if not beams.hop(graph.neighbors[level], keep, width=keep):
                    break

    return _searched(metric, state, queries, graph, walk, max(*params.kept, k), k)


def _searched(
    metric: Metric,
    state: torch.Tensor,
    queries: Sequence[Query],
    graph: Hnsw,
    walk: Callable[["_Beams"], None],
    size: int,
    k: int,
) -> tuple[np.ndarray, float]:
    """Walk with so many lanes at a time; ``size`` is what a beam can hold."""
    users = metric.make_users(len(queries), state.device)
    metric.encode_users(queries, state, users, np.arange(len(queries)))
    found, evaluations = np.empty((len(queries), k), np.int64), 0
    for first in range(0, len(queries), LANES):
        lanes = np.arange(first, min(first + LANES, len(queries)))
        beams = _Beams(lanes, size, len(graph.levels), partial(metric.score, state, users=users))
        walk(beams)
        found[lanes] = beams.rows[:, :k]
        evaluations += int(beams.evaluations.sum())
    return found, evaluations / len(queries)


class _Beams:
    """What some lanes have found so far, best first: scores float32, rows int64 and unexpanded bool [lanes, size].

    visited: bool[lanes, N], what was scored. next: int64[lanes], places before it are all expanded.
    """

    def __init__(self, lanes: np.ndarray, size: int, rows: int, score: Callable[..., torch.Tensor]) -> None:
        count, self._lanes, self._score = len(lanes), lanes, score
        self.scores = np.full((count, size), -np.inf, np.float32)
        self.rows = np.full((count, size), -1)
        self.unexpanded = np.zeros((count, size), bool)
        self.next = np.zeros(count, np.int64)
        self.visited = np.zeros((count, rows), bool)
        self.evaluations = np.zeros(count, np.int64)
        self._walking = np.arange(count)

    def start(self, rows: np.ndarray) -> None:
        """Begin with the same rows int64[n] in every lane."""
        self.visited[:, rows] = True
        self._take(np.tile(rows, (len(self._lanes), 1)), np.full(len(self._lanes), len(rows)))

    def descend(self, keep: int) -> None:
        """Go on with the best ``keep`` on the next level, where their neighbours are others."""
        self._walking = np.arange(len(self._lanes))
        self.unexpanded[:] = False
        self.unexpanded[:, :keep] = self.rows[:, :keep] >= 0
        self.next[:] = 0

    def hop(self, neighbors: np.ndarray, keep: int, width: int) -> bool:
        """Score the neighbours of ``width`` unexpanded rows among the best ``keep``; whether there were any.

        A lane that meets nothing new expands the next ones at once, and is done where there are none.
        """
        capacity = min(width * neighbors.shape[1], self.visited.shape[1])
        pairs, counts = np.full((len(self._walking), capacity), -1), np.zeros(len(self._walking), np.int64)
        columns = self.rows, self.unexpanded, self.next, self.visited
        over_lanes(_meet, len(pairs), self._walking, *columns, neighbors, keep, width, pairs, counts)
        meets = counts > 0
        self._walking, counts = self._walking[meets], counts[meets]
        if len(counts):
            self._take(pairs[meets, : counts.max()], counts)
        return len(counts) > 0

    def _take(self, pairs: np.ndarray, counts: np.ndarray) -> None:
        scores = self._score(rows=torch.from_numpy(pairs), lanes=torch.from_numpy(self._lanes[self._walking])).numpy()
        columns = self.scores, self.rows, self.unexpanded, self.next
        over_lanes(_merge, len(pairs), self._walking, pairs, counts, scores, *columns)
        self.evaluations[self._walking] += counts


@njit(nogil=True, cache=True)
def _meet(  # type: ignore[no-untyped-def]
    first, last, walking, rows, unexpanded, next_place, visited, neighbors, keep, width, pairs, counts
):
    """Fill pairs int64[n, p] of the lanes ``walking`` with unvisited neighbours."""
    for line in range(first, last):
        lane = walking[line]
        expanded, taken, place = 0, 0, next_place[lane]
        while place < keep and (expanded < width or taken == 0):
            if unexpanded[lane, place]:
                unexpanded[lane, place] = False
                expanded += 1
                for link in range(neighbors.shape[1]):
                    row = neighbors[rows[lane, place], link]
                    if row >= 0 and not visited[lane, row]:
                        visited[lane, row] = True
                        pairs[line, taken] = row
                        taken += 1
            place += 1
        next_place[lane], counts[line] = place, taken


@njit(nogil=True, cache=True)
def _merge(  # type: ignore[no-untyped-def]
    first, last, walking, pairs, counts, new_scores, scores, rows, unexpanded, next_place
):
    """Put scored pairs int64[n, p] in their places in the beams of the lanes ``walking``; equal scores stay behind."""
    size = scores.shape[1]
    for line in range(first, last):
        lane = walking[line]
        for p in range(counts[line]):
            score, row = new_scores[line, p], pairs[line, p]
            if score <= scores[lane, size - 1]:
                continue
            place = size - 1
            while place > 0 and scores[lane, place - 1] < score:
                scores[lane, place] = scores[lane, place - 1]
                rows[lane, place] = rows[lane, place - 1]
                unexpanded[lane, place] = unexpanded[lane, place - 1]
                place -= 1
            scores[lane, place], rows[lane, place], unexpanded[lane, place] = score, row, True
            next_place[lane] = min(next_place[lane], place)
