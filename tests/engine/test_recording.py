"""What is recorded, replayed and forgotten; without a GPU a stand-in for CUDA's graph does all of it each time."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.graph import GraphParams
from engine.hops import TorchHops
from engine.query import Answer, SearchParams
from engine.recording import MOST_RECORDINGS, Recorder, Recording
from engine.search import ParallelSearch, answered, search
from tests.engine.indexes import DIMENSIONS, METRICS, device_of, insert, random_index, random_query

Operation = Callable[[torch.Tensor], torch.Tensor]
GPU = torch.cuda.is_available()
WHERE = "cuda" if GPU else "plain"


class Again:
    """Stands in for a graph: does the operation that it was made of."""

    def __init__(self, operation: Operation, given: torch.Tensor, outcome: torch.Tensor) -> None:
        self._operation, self._given, self._outcome = operation, given, outcome

    def replay(self) -> None:
        """Write the outcome of what is given now."""
        self._outcome.copy_(self._operation(self._given))


class Recordings:
    """How often recorders have recorded."""

    def __init__(self) -> None:
        self.count = 0

    def record(self, _: Recorder, operation: Operation, values: torch.Tensor) -> Recording:
        """In place of `Recorder._record`: an operation of int64[c, n] whose outcome is int64[2, n]."""
        self.count += 1
        given, outcome = torch.full_like(values, -1), torch.full((2, values.shape[1]), -1)
        return Recording(Again(operation, given, outcome), given, outcome)


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> Recordings:
    """Recorders on the CPU record, and are counted; on a GPU they record as they do."""
    made = Recordings()
    monkeypatch.setattr(Recorder, "_record", lambda *arguments: made.record(*arguments))
    return made


def doubled(given: torch.Tensor) -> torch.Tensor:
    """An operation."""
    return torch.stack([given[0] * 2, given[0] * 3])


def recorder() -> Recorder:
    """One that records, on the CPU."""
    made = Recorder(torch.device("cpu"))
    made.records = True
    return made


def ask(recorder: Recorder, key: object, first: int = 1, count: int = 3, held: tuple[object, ...] = ()) -> None:
    """Double so many numbers, from the first on, and look at what comes of it."""
    given = np.arange(first, first + count)[None]
    outcome = recorder.run(doubled, given, key, held)
    np.testing.assert_array_equal(outcome.numpy(), [given[0] * 2, given[0] * 3])


def test_what_comes_again_is_recorded_once(recordings: Recordings) -> None:
    """The second time, and replayed from then on with what it is given; another key or size is another thing."""
    mine = recorder()
    for first, expected in ((1, 0), (5, 1), (9, 1), (2, 1)):
        ask(mine, "a", first)
        assert recordings.count == expected
    for _ in range(3):
        ask(mine, "a", count=4)
        ask(mine, "b")
        ask(mine, None)
    assert recordings.count == 3


def test_another_tensor_makes_recordings_worthless(recordings: Recordings) -> None:
    """Equal ones will not do: it is their places that count. Recordings of the one before are not taken again."""
    mine, tensors = recorder(), [torch.zeros(2) for _ in range(2)]
    for held in (tensors[:1], tensors[1:], tensors[:1]):
        before = recordings.count
        for _ in range(3):
            ask(mine, "a", held=tuple(held))
        assert recordings.count == before + 1


def test_the_least_used_recording_goes(recordings: Recordings) -> None:
    """When there are too many. What was seen once is none."""
    mine = recorder()
    for key in range(2 * MOST_RECORDINGS):
        ask(mine, ("once", key))
    for key in range(MOST_RECORDINGS + 1):
        for again in (key, key, 0):
            ask(mine, again)
    assert recordings.count == MOST_RECORDINGS + 1
    for key in (0, 2, MOST_RECORDINGS):
        ask(mine, key)
    assert recordings.count == MOST_RECORDINGS + 1
    ask(mine, 1)
    assert recordings.count == MOST_RECORDINGS + 2


@pytest.mark.parametrize("name", [f"{kind}, {WHERE}" for kind in ("mlp", "inner_product")])
def test_recorded_turns_find_what_others_find(name: str, request: pytest.FixtureRequest) -> None:
    """In any number of lanes, with filters and groups, and while the index grows under lanes that are recorded."""
    if not GPU:
        request.getfixturevalue("recordings")
    rng, index = np.random.default_rng(7), random_index(METRICS[name](), rows=300, device=device_of(name))
    running = ParallelSearch(index, lanes=9)
    hops = running._hops  # type: ignore[attr-defined]
    assert isinstance(hops, TorchHops)
    hops._recorder.records = True
    queries = [
        replace(random_query(rng, index, SearchParams(rounds=1 + n % 4, pairs=16 << n % 3)), per_group=n % 3)
        for n in range(40)
    ]
    for grown in (300, 900, 2_500):
        if grown > index.rows:
            running.admit(queries[:5])
            running.step()
            grow(index, grown)
            while running.free_lanes < 9:
                running.step()
        expected = search(index, queries)
        for _ in range(3):
            assert all(map(alike, answered(running, queries), expected))
        assert len(hops._recorder._recordings) > 0
        assert any(held is index.state for held in hops._recorder._held)


def grow(index, rows: int) -> None:
    """Insert random items until there are so many."""
    rng, added = np.random.default_rng(rows), np.arange(index.rows, rows)
    vectors = rng.normal(size=(len(added), DIMENSIONS)).astype(np.float32)
    biases = rng.normal(size=(len(added), index.metric.bias_width)).astype(np.float32)
    insert(index, added, vectors, biases, rows, GraphParams(candidates=24))


def alike(left: Answer, right: Answer) -> bool:
    """Rows of the same scores; which of them, where all are 0, depends on who else is there."""
    return len(left.rows) == len(right.rows) and np.allclose(left.scores, right.scores, atol=1e-4 if GPU else 1e-6)
