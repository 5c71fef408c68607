"""One index on a broker and a store, and everything that a test does to it."""

import os
import signal
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
from confluent_kafka import Consumer, Producer

from consumers.engine_thread import RequestWorkerConfig
from consumers.events import Record
from consumers.item_writer import ItemHandler, item_writer
from consumers.mirror import Mirror, columns_of
from consumers.offsets import Ticket
from consumers.request_worker import RequestWorker
from consumers.state_consumer import Entry
from engine.graph import GraphParams
from engine.model import Model, vector_model
from engine.query import Query, SearchParams
from engine.search import exhaustive
from index_store import Checkpoint, Follower, GenerationInfo, IndexStore, Server, StoreError, connect
from messages import (
    Headers,
    Item,
    Recommendations,
    RecommendRequest,
    RequestHeaders,
    Topics,
    decode_recommendations,
    encode,
    format_request,
    parse_correlation_id,
    policies,
)
from tests.brokers import consume, delete_topics, has_controller, make_topic, reader

DIMENSIONS = 8
DEGREE = 8
RELEVANT = 4
PARAMS = GraphParams(candidates=24)
# The group protocol that assigns in milliseconds; the classic one takes three seconds on the mock broker.
QUICK: Mapping[str, object] = {"group.protocol": "consumer"}


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    """Look at a condition until it holds; fails after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s} s in vain: {what}")
        pause.wait(0.01)


class Worker(Protocol):
    """What `running` runs."""

    def run(self) -> None:
        """Work until `stop`."""

    def stop(self) -> None:
        """Let `run` return."""


@dataclass
class Run:
    """A worker in a thread of its own, and what ended it."""

    worker: Any
    failure: Exception | None = None
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.worker.run()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.failure = error

    def end(self, timeout_s: float = 30.0) -> None:
        """Stop the worker and wait for its end."""
        self.worker.stop()
        self.thread.join(timeout_s)
        assert not self.thread.is_alive(), "the worker did not stop"


@contextmanager
def running(worker: Worker) -> Iterator[Run]:
    """Run a worker for the length of a block; what ends it otherwise is raised, unless the test has taken it away."""
    run = Run(worker)
    try:
        yield run
    finally:
        run.end()
    if run.failure is not None:
        raise run.failure


def make_items(count: int, seed: int = 0, prefix: str = "i") -> list[Item]:
    """Items with random vectors, in seven groups; every third has the tag `third`, every second a number."""
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype(np.float32)
    return [
        Item(
            f"{prefix}{n}",
            text=f"item {n}",
            tags=("third",) if n % 3 == 0 else (),
            number=n / 10 if n % 2 == 0 else None,
            group=f"group {n % 7}",
            vector=vector,
            timestamp_ms=1000,
        )
        for n, vector in enumerate(vectors)
    ]


class Stage:
    """An index of raw vectors (or of a model) with one shard, created and empty."""

    def __init__(self, kafka: str, redis: str, model: Model | None = None, index: str | None = None) -> None:
        self.kafka, self.redis = kafka, redis
        self.index = index or f"t{uuid.uuid4().hex[:10]}"
        self.topics = Topics(self.index)
        self.model = model or vector_model(DIMENSIONS)
        self.server: Server = connect(redis)
        self.writing: Server = connect(redis, writer=True)
        self.producer = Producer({"bootstrap.servers": kafka, "log_level": 0, "linger.ms": 0})
        self.info = GenerationInfo(
            index=self.index,
            name="g1",
            metric=self.model.metric.kind,
            metric_version=self.model.version,
            artefact_uri="",
            artefact_sha256=self.model.sha256,
            columns=columns_of(self.model, DEGREE, RELEVANT),
            block_rows=64,
        )
        store = IndexStore(self.server, self.index)
        store.create_generation(self.info)
        store.activate(self.info.name)
        if has_controller(kafka):  # the embedded broker makes them by itself, in its own way
            for policy in policies(self.topics, partitions=4):
                make_topic(kafka, policy.topic, policy.partitions, policy.settings)

    def close(self) -> None:
        """Close the connections, and leave nothing on servers that go on."""
        self.producer.close()
        delete_topics(self.kafka, f"{self.index}.")
        with suppress(StoreError):  # a test may have taken its store away for good
            IndexStore(self.server, self.index).drop()
        self.server.close()
        self.writing.close()

    def letters(self, topic: str, count: int) -> list[Any]:
        """So many dead letters of a topic."""
        grave = self.topics.dead_letters(topic)
        self.producer.list_topics(grave, timeout=10)  # has the embedded broker make it, should none have come yet
        return consume(self.kafka, grave, count)

    # -- items -------------------------------------------------------------------------------------------------------

    def produce(self, topic: str, key: str | bytes | None, value: bytes | None, **record: Any) -> None:
        """Write one record, into partition 0 unless named."""
        self.producer.produce(topic, key=key, value=value, **{"partition": 0, **record})
        self.producer.poll(0)

    def put(self, items: Sequence[Item]) -> None:
        """Write items to their topic and wait until Kafka has them."""
        for item in items:
            self.produce(self.topics.items, item.id, encode(item))
        assert self.producer.flush(20) == 0

    def delete(self, *items: str) -> None:
        """Delete items."""
        for item in items:
            self.produce(self.topics.items, item, None)
        assert self.producer.flush(20) == 0

    def item_writer(self, options: Mapping[str, object] = QUICK) -> Any:
        """An item writer of this index."""
        return item_writer(self.kafka, self.writing, self.info, self.model, PARAMS, options)

    def mirror(self) -> Mirror:
        """What a follower that begins now sees."""
        mirror = Mirror(self.info, self.model)
        follower = Follower(self.server, self.info, 0)
        mirror.load(follower.load())
        follower.close()
        return mirror

    def stored(self) -> dict[str, np.ndarray]:
        """The vectors of the items in the index."""
        mirror = self.mirror()
        return {item: mirror.index.points[row].numpy() for item, row in mirror.row_of.items()}

    def count(self) -> int:
        """How many items the index holds."""
        return int(self.server.ask("HLEN", self.info.keys(0).ids))

    # -- requests ----------------------------------------------------------------------------------------------------

    def request_worker(self, options: Mapping[str, object] = QUICK, **config: Any) -> RequestWorker:
        """A request worker of this index."""
        return RequestWorker(self.kafka, self.server, self.info, self.model, RequestWorkerConfig(**config), options)


def assert_sound(mirror: Mirror) -> None:
    """Every live row has an id of its own; links go to other live rows, none twice; freed rows have none."""
    index = mirror.index
    live = index.live[: index.rows].numpy()
    rows = sorted(mirror.row_of.values())
    assert rows == np.flatnonzero(live).tolist()
    assert all(mirror.items(np.array([row])) == [item] for item, row in mirror.row_of.items())
    kinds = (index.neighbors[: index.rows].numpy(), index.relevant[: index.rows].numpy())
    for row, some in ((row, some) for kind in kinds for row, some in enumerate(kind)):
        links = some[some >= 0]
        assert live[row] or len(links) == 0, f"freed row {row} has links"
        assert len(set(links.tolist())) == len(links), f"row {row} has a link twice"
        assert row not in links, f"row {row} links to itself"
        assert live[links].all(), f"row {row} has a dead link"
    if len(rows) > 1:
        assert all((index.neighbors[row] >= 0).any() for row in rows)


def fill(stage: Stage, items: Sequence[Item]) -> None:
    """Put items into the index without Kafka."""
    handler = ItemHandler(stage.writing, stage.info, stage.model, PARAMS)
    handler.take(0)
    records = [
        Record(Ticket(0, offset, 1), 1, stage.topics.items, item.id.encode(), encode(item), (), 1000)
        for offset, item in enumerate(items)
    ]
    entries = [Entry(item.id, item, record) for item, record in zip(items, records, strict=True)]
    handler.apply(0, entries, Checkpoint(len(items), "filled", stage.topics.items, 4, 1000))
    handler.release(0)


@contextmanager
def redis_away(url: str) -> Iterator[None]:
    """Let a store answer nobody for the length of a block; what it holds stays."""
    with connect(url) as server:
        process = int(server.ask("INFO", "server")["process_id"])
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def assert_holds(stage: Stage, items: Iterable[Item]) -> None:
    """The index holds exactly these items, each with its vector."""
    stored, expected = stage.stored(), {item.id: item for item in items}
    assert stored.keys() == expected.keys()
    wrong = [item for item, vector in stored.items() if not np.array_equal(vector, np.asarray(expected[item].vector))]
    assert not wrong


def best(mirror: Mirror, vector: np.ndarray, k: int, **query: Any) -> list[str]:
    """The exhaustive answer to a vector."""
    answers = exhaustive(mirror.index, [Query(SearchParams(k=k, beam=k), vector=vector, **query)])
    return mirror.items(answers[0].rows)


class Mailbox:
    """Sends requests and collects answers: all of them, by correlation id."""

    def __init__(self, stage: Stage, name: str = "tests") -> None:
        self.stage, self.topic = stage, stage.topics.replies(name)
        self.answers: dict[str, list[Recommendations]] = defaultdict(list)
        self._number = 0
        make_topic(stage.kafka, self.topic)
        self._open = reader(stage.kafka, self.topic)
        self._consumer: Consumer = self._open.__enter__()

    def close(self) -> None:
        """Close the connection."""
        self._open.__exit__(None, None, None)

    def send(
        self, request: RecommendRequest | bytes, *, high: bool = False, partition: int = -1, **headers: Any
    ) -> str:
        """Send a request, or what pretends to be one; returns its correlation id."""
        self._number += 1
        name = f"c{self._number}"
        written = format_request(RequestHeaders(**{"correlation_id": name, "reply_to": self.topic, **headers}))
        value = request if isinstance(request, bytes) else encode(request)
        topic = self.stage.topics.requests_high if high else self.stage.topics.requests
        self.stage.produce(topic, name, value, headers=written, partition=partition)
        return name

    def collect(self) -> None:
        """Take in the answers that have come."""
        for message in self._consumer.consume(1000, 0.02):
            assert message.error() is None, message.error()
            answer = decode_recommendations(message.value() or b"")
            self.answers[parse_correlation_id(cast("Headers", message.headers()))].append(answer)

    def wait(self, *names: str, timeout_s: float = 15.0) -> list[Recommendations]:
        """The first answers to these requests."""

        def all_there() -> bool:
            self.collect()
            return all(name in self.answers for name in names)

        wait_until(all_there, "answers", timeout_s)
        return [self.answers[name][0] for name in names]

    def ask(self, request: RecommendRequest | bytes, **headers: Any) -> Recommendations:
        """Send a request and wait for its answer."""
        return self.wait(self.send(request, **headers))[0]
