"""Ten thousand malformed messages on each topic, between good ones."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from confluent_kafka import Message

from index_store import HistoryStore
from messages import (
    Behavior,
    Headers,
    Item,
    RecommendRequest,
    RequestHeaders,
    Status,
    encode,
    format_request,
    parse_dead_letter,
)
from tests.consumers.stage import DIMENSIONS, QUICK, Mailbox, Stage, assert_holds, fill, make_items, wait_until
from tests.faults.conftest import Figure
from tests.faults.malformed import MalformedBodies
from tests.faults.verification import verified
from tests.integration.processes import worker_process

MALFORMED, GOOD = 10_000, 200
EVERY = MALFORMED // GOOD
OVERSIZE = 60  # there are some among so many first ones: more would not fit what the embedded broker keeps
SOURCE: Headers = (("source", b"flood"), ("empty", None))
LETTER_HEADERS = 5

Record = tuple[str | bytes | None, bytes | None, Headers]


@dataclass
class Flood:
    """Malformed records on a topic, by partition and offset, as they were sent."""

    stage: Stage
    topic: str
    sent: dict[tuple[int, int], Record] = field(default_factory=dict)

    def send(self, record: Record, partition: int = 0) -> None:
        """Send one, and note where it lies."""

        def note(error: object, message: Message) -> None:
            assert error is None, error
            self.sent[message.partition() or 0, message.offset() or 0] = record

        key, value, headers = record
        self.stage.produce(self.topic, key, value, headers=list(headers), partition=partition, on_delivery=note)

    def assert_buried(self) -> None:
        """Each is a dead letter, once: its bytes and headers, where it came from and why."""
        places = set()
        for letter in self.stage.letters(self.topic, MALFORMED):
            origin = parse_dead_letter(letter.headers())
            key, value, headers = self.sent[origin.partition, origin.offset]
            places.add((origin.partition, origin.offset))
            assert origin.topic == self.topic
            assert origin.reason
            assert letter.key() == (key.encode() if isinstance(key, str) else key)
            assert letter.value() == value
            assert letter.headers()[:-LETTER_HEADERS] == list(headers)
        assert places == self.sent.keys()
        assert len(places) == MALFORMED


def flood(
    stage: Stage, topic: str, malformed: Callable[[int], Record], good: Callable[[int], object], partition: int = 0
) -> Flood:
    """Send malformed records and, between them, good ones."""
    sent = Flood(stage, topic)
    for number in range(MALFORMED):
        if number % EVERY == 0:
            good(number // EVERY)
        sent.send(malformed(number), partition)
    assert stage.producer.flush(60) == 0
    return sent


def test_malformed_items_are_buried_and_good_ones_indexed(stage: Stage, record_property: Figure) -> None:
    """Bodies that are no item, and items that fit neither key nor index: dead letters; every good one is there."""
    rng, items = np.random.default_rng(1), make_items(GOOD)
    bodies = MalformedBodies(rng, required=("v", "id", "timestamp_ms"), too_long=256 * 1024)

    def malformed(number: int) -> Record:
        name, vector = f"m{number}", rng.normal(size=DIMENSIONS).astype("<f4")
        good: dict[str, Any] = {
            "v": [1, 0], "id": name, "text": "t", "tags": ["a"], "vector": vector.tobytes(), "timestamp_ms": 5,
        }  # fmt: skip
        match number % 20:
            case 0 if number < OVERSIZE:
                return name, bodies.oversize(good), SOURCE
            case 1:
                return f"other{number}", encode(Item(name, vector=vector, timestamp_ms=5)), SOURCE
            case 2:
                return b"\xff\xfe", encode(Item(name, vector=vector, timestamp_ms=5)), SOURCE
            case 3:
                return name, encode(Item(name, vector=vector[1:], timestamp_ms=5)), SOURCE
            case 4:
                return name, encode(Item(name, timestamp_ms=5)), SOURCE
            case 5:
                tags = tuple(f"tag{n}" for n in range(33))
                return name, encode(Item(name, tags=tags, vector=vector, timestamp_ms=5)), SOURCE
        return name, bodies.make(good), SOURCE

    with worker_process("items", stage, QUICK) as worker:
        sent = flood(stage, stage.topics.items, malformed, lambda number: stage.put([items[number]]))
        wait_until(lambda: stage.count() == GOOD, "the good items")
        sent.assert_buried()
        assert worker.poll() is None
    assert_holds(stage, items)
    verified(stage)
    record_property("malformed items", MALFORMED)
    record_property("indexed", GOOD)


def test_malformed_behaviours_are_buried_and_good_ones_kept(stage: Stage, record_property: Figure) -> None:
    """Bodies that are no behaviour, keys that are no user: dead letters; every good one is in its history."""
    rng, histories = np.random.default_rng(2), HistoryStore(stage.server, stage.index)
    bodies = MalformedBodies(rng, required=("v", "user", "item", "behavior", "timestamp_ms"), too_long=4 * 1024)

    def good(number: int) -> None:
        stage.produce(stage.topics.behaviors, f"u{number}", encode(Behavior(f"u{number}", "i1", "view", number)))

    def malformed(number: int) -> Record:
        name = f"m{number}"
        fields = {"v": [1, 0], "user": name, "item": "i1", "behavior": "view", "timestamp_ms": number}
        match number % 20:
            case 0 if number < OVERSIZE:
                return name, bodies.oversize(fields), SOURCE
            case 1:
                return None, encode(Behavior(name, "i1", "view", number)), SOURCE
            case 2:
                return f"other{number}", encode(Behavior(name, "i1", "view", number)), SOURCE
            case 3:
                return None, None, SOURCE
            case 4:
                return "", None, SOURCE
        return name, bodies.make(fields), SOURCE

    with worker_process("behaviors", stage, QUICK) as worker:
        sent = flood(stage, stage.topics.behaviors, malformed, good)
        wait_until(lambda: histories.read([f"u{GOOD - 1}"])[f"u{GOOD - 1}"], "the last good behaviour")
        sent.assert_buried()
        assert worker.poll() is None
    users = {f"u{number}": {"view": [("i1", number)]} for number in range(GOOD)}
    assert histories.read(users) == users
    assert not any(histories.read([f"m{number}" for number in range(MALFORMED)]).values())
    record_property("malformed behaviours", MALFORMED)
    record_property("kept", GOOD)


def test_malformed_requests_are_buried_and_good_ones_answered(stage: Stage, record_property: Figure) -> None:
    """Bodies that are no request, headers that say of no answer where to: dead letters; every good one is answered.

    Who can be told that a request is malformed is told so as well.
    """
    fill(stage, make_items(GOOD))
    mailbox, rng = Mailbox(stage), np.random.default_rng(3)
    bodies = MalformedBodies(rng, required=("v", "user"), too_long=512 * 1024)
    body, answerable, asked = encode(RecommendRequest(item="i1")), set[str](), list[str]()

    def headers(name: str, **changed: bytes | None) -> Headers:
        """Headers of a request with some changed, or left out."""
        written: dict[str, bytes | None] = dict(format_request(RequestHeaders(name, mailbox.topic)))
        return [(key, value) for key, value in {**written, **changed}.items() if value is not None]

    def malformed(number: int) -> Record:
        name = f"m{number}"
        match number % 20:
            case 0 if number < OVERSIZE:
                answerable.add(name)
                return name, bodies.oversize({"v": [1, 0], "user": "u"}), headers(name)
            case 1:
                return name, body, headers(name, reply_to=None)
            case 2:
                return name, body, headers(name, correlation_id=None)
            case 3:
                return name, body, headers(name, reply_to=b"somebody-elses.replies.x")
            case 4:
                return name, body, headers(name, timeout_ms=b"-1")
            case 5:
                return name, body, [*headers(name), ("correlation_id", b"twice")]
            case 6:
                return name, body, headers(name, correlation_id=b"\xff\xfe")
            case 7:
                return None, body, [*headers(name), *(("filler", b"") for _ in range(100))]
        answerable.add(name)
        return name, bodies.make({"v": [1, 0], "user": "u", "k": 10, "tags": ["a"]}), headers(name)

    with worker_process("requests", stage, QUICK) as worker:
        patient = {"timeout_ms": 300_000}
        mailbox.ask(RecommendRequest(item="i1"), **patient)
        sent = flood(
            stage, stage.topics.requests, malformed,
            lambda number: asked.append(mailbox.send(RecommendRequest(item=f"i{number}"), **patient)), partition=-1,
        )  # fmt: skip
        good = mailbox.wait(*asked, timeout_s=60)
        told = mailbox.wait(*answerable, timeout_s=60)
        sent.assert_buried()
        assert worker.poll() is None
    mailbox.close()
    assert {answer.status for answer in good} == {Status.OK}
    assert {answer.status for answer in told} == {Status.MALFORMED}
    record_property("malformed requests", MALFORMED)
    record_property("good ones answered", len(good))
