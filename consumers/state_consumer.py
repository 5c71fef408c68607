"""Reading a state topic: every partition from where the state says, each record applied once, in order.

What the topics of items and behaviours have in common. A `StateHandler` keeps the state and the position in one place,
so the group's commits are for lag displays only; after any unknown outcome it is asked for the position again.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from consumers.errors import IntakeFailed
from consumers.intake import Assigned, Event, Intake, Record, Revoked
from index_store import Checkpoint, StoreError, StreamChanged, check_stream
from messages import DeadLetter, MalformedMessage, UnsupportedSchema
from messages.rules import identifier
from producers import DeadLetterProducer, Writer

_log = structlog.get_logger(__name__)

_WAIT_S = 0.05
_RETRY_S = 0.5
_METADATA_S = 10.0

Decoded = TypeVar("Decoded")


@dataclass(frozen=True, slots=True)
class Entry(Generic[Decoded]):
    """One readable record; ``message`` is None for a null value, which deletes what the key names."""

    key: str
    message: Decoded | None
    record: Record


class StateHandler(Protocol[Decoded]):
    """Keeps a state that a topic's records change."""

    def decode(self, key: str, record: Record) -> Decoded | None:
        """The message in a record, None for a null value. Raises `MalformedMessage` or `UnsupportedSchema`."""

    def take(self, partition: int) -> Checkpoint | None:
        """Become the writer of this partition's state; where it stands, None for the beginning."""

    def apply(self, partition: int, entries: Sequence[Entry[Decoded]], checkpoint: Checkpoint) -> None:
        """Apply records and the position after them. Raises `StoreError` when the outcome is refused or unknown."""

    def release(self, partition: int) -> None:
        """Somebody else may write this partition's state from now on."""


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


class StateConsumer(Generic[Decoded]):
    """Feeds a handler from one topic until told to stop."""

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
        admin: dict[str, Any] = {**(kafka_options or {}), "bootstrap.servers": bootstrap_servers, "log_level": 4}
        self._admin = AdminClient(admin)
        self._writer = Writer(bootstrap_servers, kafka_options)
        self._graveyard = DeadLetterProducer(self._writer)
        self._identity: StreamIdentity | None = None
        self._held: set[int] = set()
        self._newest_assignment: dict[int, int] = defaultdict(int)
        self._stale_up_to: dict[int, int] = defaultdict(int)
        self._stopping = threading.Event()

    def run(self) -> None:
        """Apply until `stop`. Raises `StreamChanged` or `IntakeFailed` when going on would do harm."""
        self._intake.start()
        _log.info("following", topic=self._topic)
        try:
            while not self._stopping.is_set():
                self._intake.check()
                self._turn()
        finally:
            self._intake.stop()
            self._intake.join(_METADATA_S)
        _log.info("stopped", topic=self._topic)

    def stop(self) -> None:
        """Let `run` return after the batch it is in. Safe in a signal handler."""
        self._stopping.set()

    def _turn(self) -> None:
        batches: dict[int, list[Record]] = defaultdict(list)
        try:
            event = self._events.get(timeout=_WAIT_S)
            while True:
                if isinstance(event, Record):
                    self._collect(event, batches)
                else:
                    self._rebalance(event, batches)
                if max(map(len, batches.values()), default=0) >= self._batch:
                    break
                event = self._events.get_nowait()
        except Empty:
            pass
        for partition, records in batches.items():
            self._apply(partition, records)

    def _collect(self, record: Record, batches: dict[int, list[Record]]) -> None:
        partition, assignment = record.ticket.partition, record.ticket.assignment
        self._newest_assignment[partition] = assignment
        if partition in self._held and assignment > self._stale_up_to[partition]:
            batches[partition].append(record)

    def _rebalance(self, event: Assigned | Revoked, batches: dict[int, list[Record]]) -> None:
        batches.pop(event.partition, None)
        if isinstance(event, Assigned):
            self._take(event.partition)
        elif event.partition in self._held:
            self._held.discard(event.partition)
            self._handler.release(event.partition)

    def _take(self, partition: int) -> None:
        """Become the writer of a partition, for as long as it takes the store to answer, and start to read there."""
        while not self._stopping.is_set():
            try:
                stored = self._handler.take(partition)
                identity = self._check_identity(stored)
            except StreamChanged:
                raise
            except StoreError as error:
                _log.warning("partition not taken yet", topic=self._topic, partition=partition, error=str(error))
                self._stopping.wait(_RETRY_S)
                continue
            self._identity = identity
            self._held.add(partition)
            # Records that are still queued were read before this position: they come again, or count already.
            self._stale_up_to[partition] = self._newest_assignment[partition]
            self._intake.start_at(partition, stored.next_offset if stored else 0)
            return

    def _apply(self, partition: int, records: list[Record]) -> None:
        entries, read, blocked = self._decode(records)
        if read and self._identity is not None:
            try:
                self._handler.apply(partition, entries, self._identity.checkpoint(read[-1]))
            except StoreError as error:
                _log.warning("batch not applied, taking the partition anew", partition=partition, error=str(error))
                self._held.discard(partition)
                self._take(partition)
                return
            for record in read:
                self._intake.done(record.ticket)
        if blocked is not None:
            self._held.discard(partition)
            _log.error(
                "PARTITION PAUSED: a newer release wrote this record, upgrade this worker",
                topic=self._topic, partition=partition, offset=blocked.ticket.offset,
            )  # fmt: skip

    def _decode(self, records: list[Record]) -> tuple[list[Entry[Decoded]], list[Record], Record | None]:
        """What can be applied, the records that are through with it, and the first one that is too new to be read.

        What cannot be read is a dead letter, written before its offset counts.
        """
        entries: list[Entry[Decoded]] = []
        for number, record in enumerate(records):
            try:
                key = _key(record)
                entries.append(Entry(key, self._handler.decode(key, record), record))
            except UnsupportedSchema:
                return entries, records[:number], record
            except MalformedMessage as error:
                ticket = record.ticket
                _log.warning("dead letter", topic=self._topic, offset=ticket.offset, reason=str(error))
                letter = DeadLetter(self._topic, ticket.partition, ticket.offset, str(error))
                self._graveyard.bury(letter, key=record.key, value=record.value, headers=record.headers)
        return entries, records, None

    def _check_identity(self, stored: Checkpoint | None) -> StreamIdentity:
        identity = self._identity or self._look_up_identity()
        check_stream(
            stored,
            cluster_id=identity.cluster_id,
            topic_id=identity.topic_id,
            partitions=identity.partitions,
            now_ms=time.time_ns() // 1_000_000,
            # The age of a checkpoint is that of the last record, and a quiet topic is not a lost one.
            delete_retention_ms=None,
        )
        return identity

    def _look_up_identity(self) -> StreamIdentity:
        """Ask the broker. One that does not tell topic ids (the embedded one) has its topics named by name."""
        try:
            metadata = self._admin.list_topics(self._topic, timeout=_METADATA_S)
            partitions = len(metadata.topics[self._topic].partitions)
            return StreamIdentity(metadata.cluster_id or "", self._topic, partitions)
        except KafkaException as error:
            raise IntakeFailed(f"no metadata of {self._topic}: {error}") from error


def _key(record: Record) -> str:
    """A record's key as an id. Raises `MalformedMessage`."""
    if record.key is None:
        raise MalformedMessage("key", "missing: records of a state topic are keyed by what they are about")
    try:
        return identifier("key", record.key.decode())
    except UnicodeDecodeError:
        raise MalformedMessage("key", "not valid UTF-8") from None
