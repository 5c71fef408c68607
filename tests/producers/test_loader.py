import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from messages import Item, Topics
from producers import (
    Delivery,
    DeliveryFailed,
    ItemProducer,
    LoadReport,
    LoadStalled,
    OnDelivered,
    ProducerError,
    Writer,
    load,
)
from tests.brokers import reader

LIMIT = 2 * 1024 * 1024


class Applier:
    """The other end of a load: reads at most `most` messages whenever it is asked how far it is."""

    def __init__(self, consumer: Any, most: int) -> None:
        self._consumer = consumer
        self._most = most
        self.keys: list[bytes] = []
        self.next: dict[int, int] = {}

    def __call__(self) -> Mapping[int, int]:
        """Read on, and say where."""
        for message in self._consumer.consume(self._most, 0.01):
            self.keys.append(message.key())
            self.next[message.partition()] = message.offset() + 1
        return self.next


def test_a_load_larger_than_the_broker_keeps_arrives_whole(kafka: str) -> None:
    """10,000 × 4 kB into a broker that keeps 4 × 5 MiB, read slowly: every one is read, and counted."""
    topics = Topics("load")
    items = (Item(f"item-{number}", text="x" * 4000, timestamp_ms=1) for number in range(10_000))
    told: list[LoadReport] = []
    with Writer(kafka, {"linger.ms": 20}) as writer:
        writer.write(topics.items, key="first", value=None)
        writer.flush()
        with reader(kafka, topics.items) as consumer:
            applier = Applier(consumer, most=200)
            report = load(items, ItemProducer(writer, topics), applier, told.append, stall_s=10)
    assert (report.produced, report.applied) == (10_000, 10_000)
    assert report.bytes > 10_000 * 4000
    assert sorted(applier.keys) == sorted([b"first", *(f"item-{number}".encode() for number in range(10_000))])
    assert told[-1] == report
    assert all(before.applied <= after.applied for before, after in itertools.pairwise(told))


class PlainWriter:
    """A writer that writes a record to partition 0 or 1, by turns, when it is polled."""

    def __init__(self, error: ProducerError | None = None) -> None:
        self.error, self.refusal = error, ""
        self.queued: list[tuple[int, OnDelivered]] = []
        self.ends = [0, 0]
        self.bytes = [0, 0]

    def poll(self, timeout_s: float = 0.0) -> int:
        """Write all that is queued."""
        count = len(self.queued)
        for place, (size, on_delivered) in enumerate(self.queued):
            partition = place % 2
            on_delivered(Delivery("t", partition, self.ends[partition], size, self.error))
            self.ends[partition] += 1
            self.bytes[partition] += size
        self.queued.clear()
        return count


class PlainProducer:
    """A producer of sizes."""

    def __init__(self, writer: PlainWriter) -> None:
        self.writer = writer

    def put(self, message: int, /, *, on_delivered: OnDelivered) -> int:
        """Queue a record of this many bytes."""
        self.writer.queued.append((message, on_delivered))
        return message


def test_a_load_never_runs_far_ahead() -> None:
    """What is written and not applied stays under 2 MiB and a record in each partition."""
    writer = PlainWriter()
    size, applied_bytes, most = 100_000, [0, 0], 0

    def applied() -> dict[int, int]:
        nonlocal most
        most = max(most, *(written - done for written, done in zip(writer.bytes, applied_bytes, strict=True)))
        applied_bytes[:] = writer.bytes
        return dict(enumerate(writer.ends))

    report = load([size] * 300, PlainProducer(writer), applied)  # type: ignore[arg-type]
    assert (report.produced, report.applied, report.bytes) == (300, 300, 300 * size)
    assert LIMIT // 4 < most < LIMIT + size


def test_a_load_that_stands_still_says_what_it_waits_for() -> None:
    """When nothing moves, the partitions and offsets that are waited for are named."""
    producer = PlainProducer(PlainWriter())
    with pytest.raises(LoadStalled) as caught:
        load([5, 5, 5], producer, lambda: {0: 1}, stall_s=0.1)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "nothing moved for 0.1 s: partition 0 has 1 records to apply, from offset 1 on; "
        "partition 1 has 1 records to apply, from offset 0 on"
    )


def test_a_load_that_kafka_refuses_ends_at_once() -> None:
    """Where credentials are refused nothing is waited for, and the reason is told."""
    producer = PlainProducer(PlainWriter())
    producer.writer.refusal = "wrong password"
    with pytest.raises(LoadStalled, match="Kafka refuses the load: wrong password"):
        load([5], producer, dict, stall_s=3600)  # type: ignore[arg-type]


def test_a_record_that_is_not_written_ends_the_load() -> None:
    """The first failed record is raised; it is not waited for."""
    writer = PlainWriter(DeliveryFailed("t", "no"))
    with pytest.raises(DeliveryFailed, match="t: not written: no"):
        load([5], PlainProducer(writer), dict)  # type: ignore[arg-type]


def test_nothing_to_load_is_loaded_at_once() -> None:
    """An empty load reports zeros."""
    report = load([], PlainProducer(PlainWriter()), dict)  # type: ignore[arg-type]
    assert (report.produced, report.applied, report.bytes) == (0, 0, 0)


def test_an_interrupted_load_ends_promptly(kafka: str) -> None:
    """Ctrl-C in the middle of a load comes through, and leaving the writer does not wait for the queue."""
    topics = Topics("interrupted")

    def items() -> Iterator[Item]:
        yield Item("i1", timestamp_ms=1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Writer(kafka) as writer:
        load(items(), ItemProducer(writer, topics), dict)
