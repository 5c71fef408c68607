"""The contest of searches: that work is counted, and what figures are made of."""

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.challenges import Challenge, expanded
from benchmarks.counting import Cost, MetricCosts, choosing
from benchmarks.search_bench import DEGREE, RELEVANT, built
from benchmarks.search_figures import EXHAUSTIVE, OURS, RERANKED, Measured, figures
from benchmarks.timing import Timing
from engine.metric import InnerProduct
from engine.query import Answer, Query, SearchParams, Stop

ITEMS, DIMENSIONS = 600, 8
COSTS = MetricCosts(Cost(DIMENSIONS, 0), gradient=Cost(5, 1), user=Cost(0, 3), longest=4)


@pytest.fixture(scope="module")
def challenge():
    """Six users of one to six items under the inner product."""
    random = np.random.default_rng(2)
    vectors = random.normal(size=(ITEMS, DIMENSIONS)).astype(np.float32)
    histories = [
        Query(history_rows=random.choice(ITEMS, length, replace=False), history_codes=np.zeros(length, np.int8))
        for length in range(1, 7)
    ]
    metric = InnerProduct(DIMENSIONS)
    return Challenge("inner product", metric, COSTS, vectors, np.zeros((ITEMS, 0), np.float32), histories)


@pytest.fixture(scope="module")
def bench(challenge):
    """The challenge in an index, with the peers that are installed."""
    pytest.importorskip("faiss")
    pytest.importorskip("hnswlib")
    from benchmarks.search_methods import Peers

    return Peers(challenge, built(challenge))


def test_exhaustive_answers_are_those_of_a_matrix_product(bench, challenge):
    """And everything it multiplies is one product for each item, beside folding users of at most 4 items."""
    outcome = bench.outcome(lambda: bench.exhaustive(bench.queries))
    true = np.argsort(-challenge.means @ challenge.vectors.T, axis=1)[:, : outcome.rows.shape[1]]
    assert np.sort(outcome.rows).tolist() == np.sort(true).tolist()
    assert outcome.evaluations == ITEMS
    assert outcome.multiply_adds == pytest.approx(ITEMS * DIMENSIONS + 3 * np.mean([1, 2, 3, 4, 4, 4]))
    assert bench.everything() == ITEMS * DIMENSIONS


def test_a_filter_narrows_the_exhaustive_answer(bench, challenge):
    """Where fewer rows match than are wanted, these and nothing else."""
    mask = np.arange(ITEMS) < 7
    asked = [replace(query, mask=mask) for query in challenge.histories]
    outcome = bench.outcome(lambda: bench.exhaustive(asked))
    assert np.sort(outcome.rows)[:, -7:].tolist() == [list(range(7))] * len(asked)
    assert outcome.evaluations == 7
    assert outcome.recall(outcome.rows) == 1.0


def test_reranking_all_items_is_exact(bench):
    """And every one of them is an evaluation."""
    outcome = bench.outcome(lambda: bench.reranked(ITEMS))
    assert outcome.recall(bench.exact) == 1.0
    assert outcome.evaluations == ITEMS


def test_work_of_a_search_lies_between_its_pairs_and_its_bound(bench):
    """Pairs as the answers count them; with gradients for all of them, scans and estimates it is not more."""
    params = SearchParams(k=50, beam=50, rounds=3)
    asked = [replace(query, params=params) for query in bench.queries]
    outcome = bench.outcome(lambda: bench.ours(asked, lanes=4))
    least, most = outcome.evaluations * DIMENSIONS, outcome.evaluations * (2 * DIMENSIONS + 5 + 4) + 4 * 3
    chosen = bench.ours(asked, lanes=4).choosing / len(bench.queries)
    assert 50 <= outcome.evaluations < ITEMS
    assert least < outcome.multiply_adds - chosen < most
    assert chosen > 0
    assert bench.index.metric is bench.challenge.metric


def test_choosing_is_bounded_by_rounds_and_steps(bench, challenge):
    """A near round estimates, a far one scans; a search that ended after its seeds did neither."""
    params = SearchParams(width=2, clusters=3, beam=10, rounds=2)
    query = Query(params, challenge.histories[0].history_rows, challenge.histories[0].history_codes)
    near, far = 2 * (DEGREE + RELEVANT) * DIMENSIONS, 3 * (ITEMS + ITEMS // 16 + 5 * 10) * DIMENSIONS
    found = [
        choosing(bench.index, query, Answer(np.empty(0), np.empty(0), 9, steps, Stop.CONVERGED))
        for steps in (1, 2, 3, 4)
    ]
    assert found == [0, near, near + far, near + far]


def test_figures_come_from_the_fastest_setting_that_reaches_the_recall():
    """Ratios round by round; the strongest re-ranking is the one of the highest recall."""
    measured = [
        Measured(EXHAUSTIVE, "all", 1.0, 1.0, 1.0, 100.0, Timing((10.0, 20.0, 10.0))),
        Measured(RERANKED, "500", 0.7, 0.1, 0.1, 10.0, Timing((1.0, 1.0, 1.0)), size=500),
        Measured(RERANKED, "4,000", 0.97, 0.2, 0.2, 20.0, Timing((6.0, 6.0, 6.0)), size=4000),
        Measured(OURS, "small", 0.8, 0.01, 0.01, 1.0, Timing((0.1, 0.1, 0.1))),
        Measured(OURS, "fast", 0.951, 0.02, 0.03, 4.0, Timing((0.5, 1.0, 1.0)), choosing=2.0),
        Measured(OURS, "large", 0.99, 0.03, 0.05, 9.0, Timing((2.0, 2.0, 3.0))),
    ]
    found = figures(measured, floor=Timing((0.05, 0.1, 0.05)))
    assert found == {
        "share_at_recall_95": 0.02,
        "work_at_recall_95": 0.03,
        "speedup_over_exhaustive_at_recall_95": 20.0,
        "exhaustive_floor_share": pytest.approx(0.5),
        "floor_share": pytest.approx(0.4),
        "floor_share_bytes_as_quarters": pytest.approx(0.25),
        "speedup_over_rerank_at_equal_recall": 3.0,
        "speedup_over_rerank_500": 10.0,
        "speedup_over_rerank_4000": 3.0,
    }
    assert figures(measured[:4], floor=Timing((1.0,) * 3))["floor_share"] is None


def test_an_expanded_catalogue_holds_no_copies_of_history_items(challenge):
    """A copy's bias says whose it is; what was there stays where it was; the same again for the same seed."""
    numbered = replace(challenge, biases=np.arange(ITEMS, dtype=np.float32)[:, None])
    large = expanded(numbered, 3 * ITEMS)
    assert len(large.vectors) == len(large.biases) == 3 * ITEMS
    assert (large.vectors[:ITEMS] == challenge.vectors).all()
    touched = np.unique(np.concatenate([query.history_rows for query in challenge.histories]))
    copied = large.biases[ITEMS:, 0].astype(int)
    assert not np.isin(copied, touched).any()
    assert len(np.unique(copied)) > ITEMS / 2
    together = np.corrcoef(large.vectors[ITEMS:].ravel(), challenge.vectors[copied].ravel())[0, 1]
    assert together == pytest.approx(0.51**0.5, abs=0.03)
    assert (large.vectors == expanded(numbered, 3 * ITEMS).vectors).all()


def test_command_leaves_a_table_json_and_a_drawing(tmp_path, bench, monkeypatch, capsys):
    """Of a bench that is there already."""
    from benchmarks import search

    monkeypatch.setattr(search, "SETTINGS", search.SETTINGS[5:7])
    monkeypatch.setattr(search, "RERANKED_SIZES", (100,))
    monkeypatch.setattr(search, "EXHAUSTIVE_QUERIES", 3)
    monkeypatch.setattr(search.challenges, "load", lambda *_: bench.challenge)
    monkeypatch.setattr(search, "Peers", lambda *_: bench)
    monkeypatch.setattr(search, "built", lambda *_: bench.index)
    search.main(tmp_path, json=tmp_path / "out.json", plot=tmp_path / "out", rounds=1, quick=False)
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    methods = [row["method"] for row in found["rows"]]
    assert methods == [EXHAUSTIVE, RERANKED, *["SL2G"] * 3, *["NANN"] * 5, OURS, OURS]
    assert found["exhaustive_floor_share"] > 0
    assert [row["lanes"] for row in found["lanes"]] == [1, 8, 32, 128]
    assert [row["matching_share"] for row in found["filters"]] == [0.5, 0.1, 0.01, 0.001]
    depths = [(row["k"], row["rounds"]) for row in found["depth"]]
    assert depths == [(k, rounds) for k in (10, 16, 32, 50) for rounds in (1, 2)]
    assert [sum(row["default"] for row in found["depth"] if row["k"] == k) for k in (10, 50)] == [1, 1]
    assert len(found["floors"]) == 1
    assert (tmp_path / "out.svg").stat().st_size > 0
    assert "recall at 50" in capsys.readouterr().out.replace("_", " ")
