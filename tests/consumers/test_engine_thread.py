import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import REGISTRY

from consumers.engine_thread import EngineThread, Question, Reply, RequestWorkerConfig
from consumers.events import Record
from consumers.mirror import Mirror, columns_of
from consumers.offsets import Ticket
from engine.errors import InvalidColumns
from engine.fair_queue import Priority
from engine.graph import plan_insert
from engine.index import ItemIndex
from engine.model import vector_model
from index_store import Change, GenerationInfo, Snapshot
from messages import Recommendations, RecommendRequest, RequestHeaders, Status
from tests.consumers.stage import DEGREE, DIMENSIONS, PARAMS, best

MODEL = vector_model(DIMENSIONS)
COLUMNS = columns_of(MODEL, DEGREE)
INFO = GenerationInfo("t", "g", MODEL.metric.kind, MODEL.version, "", MODEL.sha256, COLUMNS)


def snapshot(rows: int, seed: int = 0, prefix: str = "i", scale: float = 1.0) -> Snapshot:
    """A shard of random items, linked."""
    vectors = (scale * np.random.default_rng(seed).normal(size=(rows, DIMENSIONS))).astype(np.float32)
    arrays = {column.name: column.zeros(rows) for column in COLUMNS}
    arrays["vectors"], arrays["versions"][:] = vectors, 1
    arrays["neighbors"][:] = -1
    if rows:
        index = ItemIndex(MODEL.metric, DEGREE)
        arrays["neighbors"] = plan_insert(index, np.arange(rows), torch.from_numpy(vectors), PARAMS).neighbors
    return Snapshot(7, 1, rows, arrays, {f"{prefix}{row}": row for row in range(rows)})


def mirror_of(shard: Snapshot) -> Mirror:
    """A mirror of its own of a shard."""
    mirror = Mirror(INFO, MODEL)
    mirror.load(shard)
    return mirror


class Desk:
    """Puts questions to an engine thread and takes its replies."""

    def __init__(self, shard: Snapshot, **config: Any) -> None:
        self.replies: SimpleQueue[Reply] = SimpleQueue()
        self.engine = EngineThread(INFO, MODEL, RequestWorkerConfig(**config), self.replies.put)
        self.engine.follow(shard)
        self._asked = 0

    def question(
        self, request: RecommendRequest, timeout_s: float = 30.0, priority: Priority = Priority.NORMAL
    ) -> Question:
        """A question that is up in so many seconds."""
        self._asked += 1
        record = Record(Ticket(0, self._asked, 1), 0, "t.requests", None, None, (), -1)
        headers = RequestHeaders(f"c{self._asked}", "t.replies.x")
        return Question(record, headers, request, {}, False, time.time() + timeout_s, priority)

    def submit(self, request: RecommendRequest, timeout_s: float = 30.0, priority: Priority = Priority.NORMAL) -> str:
        """Submit a question; returns its correlation id."""
        question = self.question(request, timeout_s, priority)
        self.engine.submit(question)
        return question.headers.correlation_id

    def take(self, count: int) -> dict[str, Recommendations]:
        """So many answers by correlation id."""
        replies = [self.replies.get(timeout=20) for _ in range(count)]
        assert len({reply.headers.correlation_id for reply in replies}) == count
        return {reply.headers.correlation_id: reply.recommendations for reply in replies}

    def ask(self, request: RecommendRequest, timeout_s: float = 30.0) -> Recommendations:
        """The answer to one question."""
        name = self.submit(request, timeout_s)
        return self.take(1)[name]


@pytest.fixture
def desks() -> Iterator[list[Desk]]:
    """Desks whose engines are stopped at the end."""
    made: list[Desk] = []
    yield made
    for desk in made:
        desk.engine.stop()


def vectors(count: int, seed: int = 1) -> list[np.ndarray]:
    """Random vectors to ask for."""
    return list(np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype(np.float32))


def items(answer: Recommendations) -> list[str]:
    """The ids of an answer."""
    return [scored.item for scored in answer.items]


def test_answers_are_the_exhaustive_ones_without_a_budget(desks: list[Desk]) -> None:
    """Many questions in few lanes, every one answered once and as exactly as can be."""
    shard = snapshot(400)
    desks.append(desk := Desk(shard, lanes=5))
    asked = {desk.submit(RecommendRequest(vector=v, beam=400, budget=10_000)): v for v in vectors(40)}
    desk.engine.start()
    answers, mirror = desk.take(40), mirror_of(shard)
    for name, vector in asked.items():
        assert answers[name].status is Status.OK
        assert items(answers[name]) == best(mirror, vector, 10)
        assert (answers[name].metric_version, answers[name].index_version) == ("inner_product.8", "g.7")


def test_high_priority_passes_what_waits(desks: list[Desk]) -> None:
    """One that came when all others had been taken in is answered behind the one that had a lane."""
    desks.append(desk := Desk(snapshot(400), lanes=1))
    step, taken_in, go_on = desk.engine._step, threading.Event(), threading.Event()

    def held_step() -> None:
        taken_in.set()
        assert go_on.wait(20)
        step()

    desk.engine._step = held_step  # type: ignore[method-assign]
    slow = {"beam": 400, "budget": 10_000}
    for vector in vectors(40):
        desk.submit(RecommendRequest(vector=vector, **slow))
    desk.engine.start()
    assert taken_in.wait(20)
    last = desk.submit(RecommendRequest(vector=vectors(1)[0], **slow), priority=Priority.HIGH)
    go_on.set()
    assert last in desk.take(2)
    desk.take(39)


def test_high_priority_passes_what_is_not_taken_in_yet(desks: list[Desk]) -> None:
    """Nor does a change wait, when far more questions have come than are taken in between two steps."""
    desks.append(desk := Desk(snapshot(400), lanes=1))
    for vector in vectors(1_000):
        desk.submit(RecommendRequest(vector=vector, budget=20))
    last = desk.submit(RecommendRequest(vector=vectors(1)[0], budget=20), priority=Priority.HIGH)
    desk.engine.follow(snapshot(50, seed=9, prefix="n"))
    desk.engine.start()
    answers = desk.take(1_001)
    assert list(answers).index(last) < 3
    assert all(items(answer)[0].startswith("n") for answer in answers.values())


def test_an_empty_index_answers_so(desks: list[Desk]) -> None:
    """Status ok, no items, and the reason; also with a filter and with a user of whom nothing is known."""
    desks.append(desk := Desk(snapshot(0)))
    desk.engine.start()
    for request in (
        RecommendRequest(vector=vectors(1)[0]),
        RecommendRequest(user="nobody", tags=("red",)),
        RecommendRequest(item="i0"),
    ):
        answer = desk.ask(request)
        assert (answer.status, answer.items, answer.reason) == (Status.OK, (), "empty_index")


def test_more_than_there_is(desks: list[Desk]) -> None:
    """K beyond the catalogue returns the catalogue less what is excluded."""
    desks.append(desk := Desk(snapshot(20)))
    desk.engine.start()
    answer = desk.ask(RecommendRequest(user="nobody", k=500, exclude=("i3", "i9", "elsewhere")))
    assert sorted(items(answer)) == sorted(f"i{n}" for n in range(20) if n not in (3, 9))
    assert desk.ask(RecommendRequest(item="elsewhere")).reason == "unknown_item"
    assert items(desk.ask(RecommendRequest(vector=vectors(1)[0], tags=("red",)))) == []


def test_a_snapshot_starts_the_questions_in_work_again(desks: list[Desk]) -> None:
    """A new snapshot has rows of its own: answers name its items, and every question is answered once."""
    old, new = snapshot(3000), snapshot(50, seed=9, prefix="n")
    desks.append(desk := Desk(old, lanes=4))
    asked = [desk.submit(RecommendRequest(vector=v, beam=3000, budget=10_000)) for v in vectors(40)]
    desk.engine.start()
    first = desk.take(1)
    desk.engine.follow(new)
    answers = first | desk.take(39)
    assert answers.keys() == set(asked)
    assert {name[0] for answer in answers.values() for name in items(answer)} == {"i", "n"}
    assert all(len({name[0] for name in items(answer)}) == 1 for answer in answers.values())
    assert items(desk.ask(RecommendRequest(vector=vectors(1)[0], beam=60, budget=100))) == best(
        mirror_of(new), vectors(1)[0], 10
    )


def test_a_row_that_holds_another_item_now_obeys_the_request(desks: list[Desk]) -> None:
    """A row that is freed and used again while a lane runs: its new item is excluded when the request says so."""
    shard = snapshot(600)
    desks.append(desk := Desk(shard, lanes=1))
    vector = vectors(1)[0]
    asked = [
        desk.submit(RecommendRequest(vector=vector, k=600, beam=600, budget=10_000, exclude=("fresh",)))
        for _ in range(20)
    ]
    row = np.array([5])
    values = {"vectors": 10 * vector[None], "versions": np.array([[8]])}
    change = Change(8, 1, 600, {name: [(row, value)] for name, value in values.items()}, {"fresh": 5}, ["i5"])
    desk.engine.start()
    answers = desk.take(1)
    desk.engine.follow(change)
    answers |= desk.take(19)
    assert answers.keys() == set(asked)
    assert all("fresh" not in items(answer) for answer in answers.values())
    assert items(desk.ask(RecommendRequest(vector=vector, beam=600, budget=10_000)))[0] == "fresh"


def test_a_row_whose_item_leaves_the_range_meanwhile_is_no_answer(desks: list[Desk]) -> None:
    """What was asked for while an item had the right number is answered without it once it has another one."""
    shard = snapshot(600)
    desks.append(desk := Desk(shard, lanes=1))
    for vector in vectors(20):
        desk.submit(RecommendRequest(vector=vector, k=600, beam=600, budget=10_000, max_number=5))
    row = np.array([5])
    values = {"vectors": shard.columns["vectors"][row], "numbers": np.array([[5.5]]), "versions": np.array([[8]])}
    desk.engine.follow(Change(8, 1, 600, {name: [(row, value)] for name, value in values.items()}, {"i5": 5}, []))
    desk.engine.start()
    for answer in desk.take(20).values():
        assert answer.index_version == "g.8"
        assert set(items(answer)) == {f"i{n}" for n in range(600)} - {"i5"}


def test_bad_questions_hurt_nobody_else(desks: list[Desk]) -> None:
    """A vector of another length is malformed, overflowing scores have failed, and the next question is answered."""
    desks.append(desk := Desk(snapshot(50, scale=1e30)))
    desk.engine.start()
    wrong = desk.ask(RecommendRequest(vector=np.ones(3, np.float32)))
    assert (wrong.status, wrong.reason) == (Status.MALFORMED, "vector: has 3 dimensions, the metric 8")
    huge = desk.ask(RecommendRequest(vector=np.full(DIMENSIONS, 1e30, np.float32)))
    assert huge.status is Status.FAILED
    assert "not finite" in (huge.reason or "")
    assert desk.ask(RecommendRequest(user="nobody")).status is Status.OK
    desk.engine.check()


def test_overload_and_lateness_are_answered_without_computing(desks: list[Desk]) -> None:
    """Beyond the work that may wait a question is rejected with a hint; one whose time is up has expired."""
    desks.append(desk := Desk(snapshot(200), lanes=1, max_waiting=250))
    asked = [desk.submit(RecommendRequest(vector=v, budget=100)) for v in vectors(30)]
    late = desk.submit(RecommendRequest(vector=vectors(1)[0], budget=100), timeout_s=-1)
    desk.engine.start()
    answers = desk.take(31)
    statuses = [answers[name].status for name in asked]
    assert statuses.count(Status.OK) == 2
    assert statuses.count(Status.REJECTED) == 28
    assert all(answers[name].retry_after_ms for name in asked if answers[name].status is Status.REJECTED)
    assert answers[late].status is Status.EXPIRED


def test_the_metrics_tell_of_the_mirror_that_is_shown(desks: list[Desk]) -> None:
    """Another generation's gets ready unseen; once it is shown, its changes are, and the old one's are not."""

    def measured() -> list[float | None]:
        return [REGISTRY.get_sample_value(f"hopstream_mirror_{name}") for name in ("items", "rows", "seq")]

    old, new = Desk(snapshot(20)), Desk(snapshot(30))
    desks += [old, new]
    old.engine.start()
    old.engine.show()
    new.engine.start()
    assert measured() == [20, 20, 7]
    new.engine.show()
    for desk, seq in ((old, 9), (new, 8)):
        desk.engine.follow(Change(seq, 1, 31, {}, {}, ["i3"]))
        desk.ask(RecommendRequest(user="nobody"))
    assert measured() == [29, 31, 8]


def test_what_ends_the_thread_is_raised() -> None:
    """A change that does not fit the index ends the thread, and whoever checks hears why."""
    desk = Desk(snapshot(10))
    wrong = Change(8, 1, 10, {"neighbors": [(np.array([1]), np.full((1, DEGREE), 99, np.int32))]}, {}, [])
    desk.engine.follow(wrong)
    desk.engine.start()
    desk.engine.stop()
    with pytest.raises(InvalidColumns, match="neighbors outside of the 10 rows"):
        desk.engine.check()
