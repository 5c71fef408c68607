"""The benchmark of a GPU, on whatever device there is."""

import numpy as np
import pytest
import torch

from benchmarks.challenges import Challenge
from benchmarks.counting import Cost, MetricCosts, fewest_bytes
from benchmarks.device import SETTINGS, Floors, LanesRow, measure, repeated
from benchmarks.device_drawing import draw
from benchmarks.device_peers import BLOCK, TOGETHER, exhaustive
from benchmarks.reference_kernels import HIDDEN, SECOND
from benchmarks.reference_metric import ReferenceMetric
from benchmarks.search_bench import DEGREE, RELEVANT, Bench, built
from engine.index import ItemIndex
from engine.metric import InnerProduct
from engine.query import Answer, Query, SearchParams, Stop

D, HISTORY = 64, 20


@pytest.fixture
def random():
    """Numbers that are the same every time."""
    return np.random.default_rng(4)


def weights(random):
    """Weights of the reference metric's shapes."""
    shapes = {
        **dict.fromkeys(("user_weight", "attention_query", "attention_key", "attention_value"), (D, D)),
        "user_bias": (D,),
        "pool_logits": (HISTORY,),
        "attention_bias": (HISTORY,),
        "out_weight": (1, SECOND),
        "hidden1_weight": (HIDDEN, 3 * D),
        "hidden1_bias": (HIDDEN,),
        "hidden2_weight": (SECOND, HIDDEN),
        "hidden2_bias": (SECOND,),
    }
    return {name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def challenge_of(vectors, histories):
    """Vectors compared by inner product."""
    costs = MetricCosts(Cost(8, 0), gradient=Cost(0, 0), user=Cost(0, 8), longest=3)
    biases = np.zeros((len(vectors), 0), np.float32)
    return Challenge("inner product", InnerProduct(8), costs, vectors, biases, histories)


def test_the_reference_metric_is_the_same_in_plain_torch(random):
    """Scores and tangents of random users and items."""
    compiled, plain = (ReferenceMetric(weights(np.random.default_rng(4))) for _ in range(2))
    plain.compiled = False
    state = torch.from_numpy(random.normal(size=(100, D)).astype(np.float32))
    histories = [random.choice(100, length, replace=False) for length in (1, 7, 20, 2)]
    queries = [Query(history_rows=rows, history_codes=np.zeros(len(rows), np.int8)) for rows in histories]
    rows = torch.from_numpy(random.integers(0, 100, (4, 70)))
    rows[0, 50:] = -1
    results = []
    for metric in (compiled, plain):
        users, lanes = metric.make_users(6, state.device), np.array([5, 0, 3, 1])
        metric.encode_users(queries, state, users, lanes)
        where = torch.from_numpy(lanes)
        scores, tangents = metric.score_with_tangents(state, rows, users, where)
        torch.testing.assert_close(metric.score(state, rows, users, where), scores)
        results.append((scores, tangents[rows >= 0]))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_lanes_are_filled_and_measured(random):
    """A row for every number of lanes, the widest with every setting, and what the widest is compared with."""
    vectors = random.normal(size=(500, 8)).astype(np.float32)
    histories = [
        Query(history_rows=rows, history_codes=np.zeros(3, np.int8)) for rows in random.integers(0, 500, (6, 3))
    ]
    challenge = challenge_of(vectors, histories)
    report = measure(Bench(challenge, built(challenge)), (1, 4), 1, "here", Floors(1e9, 1e9))
    *_, every = report.rows
    assert [row.lanes for row in report.rows] == [1, *[4] * len(SETTINGS), TOGETHER]
    assert (every.setting, every.recall_at_50, every.catalogue_share) == ("all items", 1, 1)
    assert all(0 < row.recall_at_50 <= 1 and row.queries_per_second > 0 for row in report.rows)
    widest = next(row for row in report.rows[1:] if row.setting == report.rows[0].setting)
    ratio = widest.queries_per_second / report.rows[0].queries_per_second
    assert report.figures["batched_over_one_lane"] == pytest.approx(ratio)
    ratio = widest.queries_per_second / every.queries_per_second
    assert report.figures["speedup_over_exhaustive"] == pytest.approx(ratio)


def test_all_items_are_scored_block_by_block(random):
    """In more blocks than one, for more queries than are scored together: what the bench finds by scoring all."""
    vectors = random.normal(size=(BLOCK + 40, 8)).astype(np.float32)
    rows = np.arange(TOGETHER + 5)[:, None]
    histories = [Query(history_rows=own, history_codes=np.zeros(1, np.int8)) for own in rows]
    challenge = challenge_of(vectors, histories)
    index = ItemIndex(challenge.metric, DEGREE)
    index.load({"vectors": vectors, "biases": challenge.biases, "versions": np.ones((len(vectors), 1), np.int64)})
    bench = Bench(challenge, index)
    np.testing.assert_array_equal(np.sort(exhaustive(bench, histories)), np.sort(bench.exact))


def test_lanes_are_drawn(tmp_path):
    """As two files, whatever else was measured at the most lanes."""
    rows = [
        LanesRow(lanes, setting, 0.96, 0.004, 60.0 * lanes, 1e-4 * lanes, 1e-5 * lanes)
        for lanes, setting in ((1, "narrow"), (128, "narrow"), (128, "wide"))
    ]
    paths = draw(rows, tmp_path / "gpu", "a GPU")
    assert [path.name for path in paths] == ["gpu.png", "gpu.svg"]
    assert all(path.stat().st_size > 1_000 for path in paths)


def test_floors_are_rates():
    """More than nothing of both."""
    floors = Floors.of(torch.device("cpu"), size=64)
    assert floors.multiply_adds > 0
    assert floors.bytes > 0


def test_queries_are_asked_again():
    """From the first on, until there are enough."""
    first, second = Query(), Query()
    assert repeated([first, second], 3) == [first, second, first]


def test_bytes_that_cannot_be_avoided(random):
    """Three states for a pair, one for a neighbour that is estimated, and a mark for every row that is looked at."""
    vectors = random.normal(size=(500, 8)).astype(np.float32)
    challenge = challenge_of(vectors, [])
    index = built(challenge)
    query = Query(SearchParams(rounds=2, width=5), np.array([1]), np.zeros(1, np.int8))
    answer = Answer(np.zeros(0, np.int64), np.zeros(0, np.float32), 70, 3, Stop.CONVERGED)
    assert fewest_bytes(index, query, answer) == 70 * 3 * 32 + 5 * (DEGREE + RELEVANT) * (32 + 4) + 500
