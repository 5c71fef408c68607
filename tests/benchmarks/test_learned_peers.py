"""Walks on an L2 graph under another metric: what they find, and that what they score is counted."""

import numpy as np
import pytest
import torch

from engine.metric import InnerProduct
from engine.query import Query

pytest.importorskip("faiss")

from benchmarks import learned_peers
from benchmarks.learned_peers import Hnsw, NannParams, nann, sl2g

ITEMS, QUERIES, TOP = 600, 7, 10
WALKS = {
    "sl2g": lambda breadth, *given: sl2g(*given, breadth, TOP),
    "nann": lambda breadth, *given: nann(*given, NannParams((breadth,) * 3, (breadth,) * 2), TOP),
}


class Watched(InnerProduct):
    """An inner product that writes down what it scores: (lane, row) of every pair."""

    def __init__(self, dimensions):
        super().__init__(dimensions)
        self.pairs = []

    def score(self, state, rows, users, lanes):
        """Score, and remember."""
        self.pairs += [(lane, row) for lane, line in zip(lanes.tolist(), rows.tolist(), strict=True) for row in line]
        return super().score(state, rows, users, lanes)


@pytest.fixture(scope="module")
def vectors():
    """Items enough for three levels of a graph with few links."""
    return np.random.default_rng(3).normal(size=(ITEMS, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def graph(vectors):
    """8 links a level."""
    return Hnsw.build(vectors, links=8)


@pytest.fixture(params=WALKS)
def walk(request, vectors, graph, monkeypatch):
    """One of the searches, with fewer lanes than queries: breadth → its answer, exact scores, the pairs it scored."""
    monkeypatch.setattr(learned_peers, "LANES", 3)
    users = np.random.default_rng(4).normal(size=(QUERIES, 8)).astype(np.float32)
    metric = Watched(8)
    given = metric, torch.from_numpy(vectors), [Query(vector=user) for user in users], graph

    def run(breadth):
        metric.pairs.clear()
        return (
            *WALKS[request.param](breadth, *given),
            users @ vectors.T,
            [pair for pair in metric.pairs if pair[1] >= 0],
        )

    return run


def test_levels_thin_out_upwards(graph):
    """Rows have neighbours on their own levels only, and none is its own; the search begins at the top."""
    assert graph.levels[graph.entry] == graph.levels.max() == len(graph.neighbors) - 1 >= 2
    assert graph.neighbors[0].shape == (ITEMS, 16)
    for level, neighbors in enumerate(graph.neighbors):
        assert (neighbors[graph.levels < level] == -1).all()
        linked = neighbors[neighbors >= 0]
        assert (graph.levels[linked] >= level).all()
        assert not (neighbors == np.arange(ITEMS)[:, None]).any()


def test_a_beam_as_large_as_the_catalogue_finds_the_exact_answer(walk):
    """Whatever the metric, as the graph is in one piece: every row is scored."""
    rows, evaluations, scores, _ = walk(ITEMS)
    assert evaluations == ITEMS
    assert (rows == np.argsort(-scores, axis=1)[:, :TOP]).all()


def test_a_small_beam_scores_little_and_finds_much(walk):
    """Most of the answer for part of the work; best first, no row twice, none missing."""
    rows, evaluations, scores, _ = walk(24)
    exact = np.argsort(-scores, axis=1)[:, :TOP]
    assert np.mean([len(np.intersect1d(*pair)) / TOP for pair in zip(rows, exact, strict=True)]) > 0.7
    assert evaluations < 0.8 * ITEMS
    assert (np.diff(np.take_along_axis(scores, rows, axis=1), axis=1) <= 0).all()
    assert all(len(set(row)) == TOP and min(row) >= 0 for row in rows.tolist())


@pytest.mark.parametrize("breadth", [1, 24])
def test_every_evaluation_is_counted_and_none_made_twice(walk, breadth):
    """A beam narrower than what is asked for too."""
    rows, evaluations, _, pairs = walk(breadth)
    assert len(set(pairs)) == len(pairs) == round(evaluations * QUERIES)
    assert {(lane, row) for lane, line in enumerate(rows.tolist()) for row in line if row >= 0} <= set(pairs)
