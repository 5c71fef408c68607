"""Reading a state topic: every partition from where the state says, each record applied once, in order.

What the topics of items and behaviours have in common. A `StateHandler` keeps the state and the position in one place,
so the group's commits are for lag displays only; after any unknown outcome it is asked for the position again.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from consumers import metrics
from consumers.events import Assigned, Event, Record, Revoked
from consumers.graveyard import bury_all
from consumers.intake import Intake
from consumers.worker import Heartbeat, WorkerStatus
from index_store import (
    Checkpoint,
    GenerationMismatch,
    InvalidBatch,
    LayoutMismatch,
    StaleEpoch,
    StoreError,
    StreamChanged,
    UnknownGeneration,
    UnsuitableServer,
    check_stream,
)
from messages import MalformedMessage, UnsupportedSchema
from messages.rules import identifier
from producers import Writer

_log = structlog.get_logger(__name__)

_WAIT_S = 0.05
_RETRY_S = 0.5
_FENCED_S = 10.0  # whoever took the shard has the partition, most likely, and this consumer is about to hear of it
_METADATA_S = 10.0
_CLOSE_S = 10.0
_BATCH_BYTES = 16 << 20  # of values; what is made of them has to fit into one write of the store

_PERMANENT = (StreamChanged, UnknownGeneration, GenerationMismatch, LayoutMismatch, UnsuitableServer, InvalidBatch)

Decoded = TypeVar("Decoded")


@dataclass(frozen=True, slots=True)
class Entry(Generic[Decoded]):
    """One readable record; ``message`` is None for a null value, which deletes what the key names."""

    key: str
    message: Decoded | None
    record: Record


class StateHandler(Protocol[Decoded]):
    """Keeps a state that a topic's records change. All errors but a `StoreError` that may pass end the consumer."""

    def decode(self, key: str, record: Record) -> Decoded | None:
        """The message in a record, None for a null value. Raises `MalformedMessage` or `UnsupportedSchema`."""

    def take(self, partition: int) -> Checkpoint | None:
        """Become the writer of this partition's state; where it stands, None for the beginning."""

    def apply(self, partition: int, entries: Sequence[Entry[Decoded]], checkpoint: Checkpoint) -> None:
        """Apply records and the position after them. Raises `StoreError` when the outcome is refused or unknown."""

    def release(self, partition: int) -> None:
        """Somebody else may write this partition's state from now on; harmless when it was not taken."""


@dataclass(frozen=True, slots=True)
class StreamIdentity:
    """What must not change under a state: cluster, topic and number of partitions."""

    cluster_id: str
    topic_id: str
    partitions: int

    def checkpoint(self, last: Record) -> Checkpoint:
        """The position after a record."""
        return Checkpoint(
            last.ticket.offset + 1, self.cluster_id, self.topic_id, self.partitions, max(last.timestamp_ms, 0)
        )

    def check(self, stored: Checkpoint | None) -> None:
        """Raise `StreamChanged` for a position in another stream."""
        check_stream(
            stored,
            cluster_id=self.cluster_id,
            topic_id=self.topic_id,
            partitions=self.partitions,
            now_ms=time.time_ns() // 1_000_000,
            # The age of a checkpoint is that of the last record, and a quiet topic is not a lost one.
            delete_retention_ms=None,
        )


class StateConsumer(Generic[Decoded]):
    """Feeds a handler from one topic until told to stop.

    A partition is *wanted* from its assignment on, and *held* once the handler has taken it.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        group: str,
        handler: StateHandler[Decoded],
        *,
        batch: int = 1024,
        kafka_options: Mapping[str, object] | None = None,
    ) -> None:
        self._topic, self._handler, self._batch = topic, handler, batch
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._intake = Intake(
            bootstrap_servers, topic, group, self._events.put,
            positioned=True, window=8 * batch, options=kafka_options,
        )  # fmt: skip
        admin: dict[str, Any] = {"log_level": 4, **(kafka_options or {}), "bootstrap.servers": bootstrap_servers}
        self._admin = AdminClient(admin)
        self._writer = Writer(bootstrap_servers, kafka_options)
        self._identity: StreamIdentity | None = None
        self._wanted: dict[int, float] = {}  # partition → when to try to take it, monotonic
        self._held: dict[int, int] = {}  # partition → the reading whose records count
        self._heart = Heartbeat(f"consumer of {topic}")
        self._stopping = False

    def prepare(self) -> None:
        """Nothing can be made ready before there are partitions."""

    def run(self) -> None:
        """Apply until `stop`. Raises what ended it otherwise; what is applied then is neither lost nor repeated."""
        self._intake.start()
        _log.info("following", topic=self._topic)
        try:
            while not self._stopping:
                self._heart.beat()
                self._intake.check()
                self._turn()
        finally:
            self._heart.rest()
            self._intake.stop()
            self._intake.join(_CLOSE_S)
            for partition in list(self._held):
                self._release(partition)
            self._writer.close()
        _log.info("stopped", topic=self._topic)

    def stop(self) -> None:
        """Let `run` return after the batch it is in. Safe in a signal handler."""
        self._stopping = True

    def status(self) -> WorkerStatus:
        """How it is now: it does its work when every partition that it was given is held."""
        untaken = tuple(f"the store to take partition {number} of {self._topic}" for number in tuple(self._wanted))
        return WorkerStatus(
            waiting_for=self._intake.membership.waiting_for + untaken,
            stuck=tuple(heart.name for heart in (self._heart, self._intake.heart) if heart.stuck),
        )

    def _turn(self) -> None:
        """Take in what has come, up to a batch of one partition, and apply it."""
        batches: dict[int, list[Record]] = defaultdict(list)
        size = 0
        try:
            event = self._events.get(timeout=_WAIT_S)
            while True:
                if not isinstance(event, Record):
                    self._rebalance(event, batches)
                elif self._held.get(event.ticket.partition) == event.reading:
                    batches[event.ticket.partition].append(event)
                    size += len(event.value or b"")
                    if len(batches[event.ticket.partition]) >= self._batch or size >= _BATCH_BYTES:
                        break
                event = self._events.get_nowait()
        except Empty:
            pass
        for partition, records in batches.items():
            self._apply(partition, records)
        for partition in [partition for partition, at in self._wanted.items() if at <= time.monotonic()]:
            self._take(partition)

    def _rebalance(self, event: Assigned | Revoked, batches: dict[int, list[Record]]) -> None:
        batches.pop(event.partition, None)
        self._release(event.partition)
        self._wanted.pop(event.partition, None)
        if isinstance(event, Assigned):
            self._wanted[event.partition] = time.monotonic()

    def _take(self, partition: int) -> None:
        """Become the writer of a partition and start to read where its state stands."""
        self._heart.rest()  # loading a large shard takes its time
        try:
            stored = self._handler.take(partition)
            self._identity = self._identity or self._look_up_identity()
            self._identity.check(stored)
        except _PERMANENT:
            raise
        except (StoreError, KafkaException) as error:
            _log.warning("partition not taken yet", topic=self._topic, partition=partition, error=str(error))
            self._handler.release(partition)
            self._wanted[partition] = time.monotonic() + _RETRY_S
        else:
            del self._wanted[partition]
            # What is still queued was read under an earlier number: it comes again, or counts already.
            self._held[partition] = self._intake.start_at(partition, stored.next_offset if stored else 0)

    def _release(self, partition: int) -> None:
        self._held.pop(partition, None)
        self._handler.release(partition)

    def _apply(self, partition: int, records: list[Record]) -> None:
        entries, read, blocked = self._decode(records)
        if read and self._identity is not None:
            try:
                with metrics.APPLY_SECONDS.labels(self._topic).time():
                    self._handler.apply(partition, entries, self._identity.checkpoint(read[-1]))
            except _PERMANENT:
                raise
            except StoreError as error:
                _log.warning("batch not applied, taking the partition anew", partition=partition, error=str(error))
                self._release(partition)
                wait_s = _FENCED_S if isinstance(error, StaleEpoch) else _RETRY_S
                self._wanted[partition] = time.monotonic() + wait_s
                return
            metrics.APPLIED.labels(self._topic).inc(len(entries))
            for record in read:
                self._intake.done(record.ticket)
        if blocked is not None:
            self._release(partition)
            _log.error(
                "PARTITION PAUSED: a newer release wrote this record, upgrade this worker",
                topic=self._topic, partition=partition, offset=blocked.ticket.offset,
            )  # fmt: skip

    def _decode(self, records: list[Record]) -> tuple[list[Entry[Decoded]], list[Record], Record | None]:
        """What can be applied, the records that are through with it, and the first one that is too new to be read.

        What cannot be read is a dead letter, acknowledged when this returns. Raises `ProducerError` if it is not.
        """
        entries: list[Entry[Decoded]] = []
        unreadable: list[tuple[Record, str]] = []
        read, blocked = records, None
        for number, record in enumerate(records):
            try:
                key = _key(record)
                entries.append(Entry(key, self._handler.decode(key, record), record))
            except UnsupportedSchema:
                read, blocked = records[:number], record
                break
            except MalformedMessage as error:
                unreadable.append((record, str(error)))
        bury_all(self._writer, unreadable)
        return entries, read, blocked

    def _look_up_identity(self) -> StreamIdentity:
        """Ask the broker. The embedded one does not tell topic ids, so topics are named by name."""
        metadata = self._admin.list_topics(self._topic, timeout=_METADATA_S)
        topic = metadata.topics[self._topic]
        if topic.error is not None:
            raise KafkaException(topic.error)
        return StreamIdentity(metadata.cluster_id or "", self._topic, len(topic.partitions))


def _key(record: Record) -> str:
    """A record's key as an id. Raises `MalformedMessage`."""
    if record.key is None:
        raise MalformedMessage("key", "missing: records of a state topic are keyed by what they are about")
    try:
        return identifier("key", record.key.decode())
    except UnicodeDecodeError:
        raise MalformedMessage("key", "not valid UTF-8") from None
