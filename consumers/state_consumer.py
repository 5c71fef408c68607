"""Reading a state topic: every partition from where the state says, each record applied once, in order.

What the topics of items and behaviours have in common. A `StateHandler` keeps the state and the position in one place,
so the group's commits are for lag displays only; after any unknown outcome it is asked for the position again.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Generic

import structlog
from confluent_kafka import KafkaException

from consumers import metrics
from consumers.events import Assigned, AtEnd, Event, Record, Revoked
from consumers.graveyard import bury_all
from consumers.holding import Holding, now_ms
from consumers.intake import Intake
from consumers.offsets import Ticket
from consumers.state_handler import Decoded, Entry, StateHandler, id_of
from consumers.stream_identity import StreamLookup
from consumers.worker import Heartbeat, WorkerStatus
from index_store import (
    GenerationMismatch,
    InvalidBatch,
    LayoutMismatch,
    ShardDamaged,
    StaleEpoch,
    StoreError,
    StreamChanged,
    UnknownGeneration,
    UnsuitableServer,
    check_stream,
)
from messages import MalformedMessage, UnsupportedSchema
from producers import ProducerError, Writer

_log = structlog.get_logger(__name__)

_WAIT_S = 0.05
_RETRY_S = 0.5
_FENCED_S = 10.0  # whoever took the shard has the partition, most likely, and this consumer is about to hear of it
_CLOSE_S = 10.0
_CHECK_S = 1.0  # how often a state is looked at that nothing comes for
_LOOK_S = 10.0  # how often the topic is looked at
_BATCH_BYTES = 16 << 20  # of values; what is made of them has to fit into one write of the store

_PERMANENT = (
    StreamChanged, UnknownGeneration, GenerationMismatch, LayoutMismatch, UnsuitableServer, InvalidBatch, ShardDamaged,
)  # fmt: skip


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
        self._topic, self._group, self._handler, self._batch = topic, group, handler, batch
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._intake = Intake(
            bootstrap_servers, topic, group, self._events.put,
            positioned=True, window=8 * batch, options=kafka_options,
        )  # fmt: skip
        self._lookup = StreamLookup(bootstrap_servers, topic, kafka_options)
        self._writer = Writer(bootstrap_servers, kafka_options)
        self._wanted: dict[int, float] = {}  # partition → when to try to take it, monotonic
        self._problems: dict[int, str] = {}  # partition → why it is not held, as it was logged
        self._held: dict[int, Holding] = {}
        self._look_at = 0.0  # monotonic
        self._heart = Heartbeat(f"consumer of {topic}")
        self._stopping = False

    def prepare(self) -> None:
        """Nothing can be made ready before there are partitions."""

    def run(self) -> None:
        """Apply until `stop`. Raises what ended it otherwise; what is applied then is neither lost nor repeated."""
        try:
            self._intake.start()
            _log.info("following", topic=self._topic)
            while not self._stopping:
                self._heart.beat()
                self._intake.check()
                self._turn()
        finally:
            self._heart.rest()
            self._intake.stop()
            self._intake.join(_CLOSE_S)
            for partition in [*self._held, *self._wanted]:  # one that was refused after it was taken is wanted still
                self._release(partition)
            self._writer.close()
        _log.info("stopped", topic=self._topic)

    def stop(self) -> None:
        """Let `run` return after the batch it is in. Safe in a signal handler."""
        self._stopping = True

    def close(self) -> None:
        """Nothing was made ready."""

    def status(self) -> WorkerStatus:
        """How it is now: it does its work when every partition that it was given is held."""
        group = self._intake.membership
        waiting = group.waiting_for
        if not waiting and len(self._held) < group.partitions:
            problems = sorted(set(self._problems.values()))
            waiting = (": ".join((f"every partition of {self._topic} to be taken", *problems)),)
        return WorkerStatus(
            waiting_for=waiting,
            stuck=tuple(heart.name for heart in (self._heart, self._intake.heart) if heart.stuck),
        )

    def _turn(self) -> None:
        """Take in what has come, up to a batch of one partition, and apply it; then see to what is due."""
        for partition, records in self._next_batches().items():
            self._apply(partition, records)
        now = time.monotonic()
        for partition in [partition for partition, at in self._wanted.items() if at <= now]:
            self._take(partition)
        for partition in [partition for partition, held in self._held.items() if held.kept and held.check_at <= now]:
            self._check(partition)
        if self._held and self._look_at <= now:
            self._look()

    def _next_batches(self) -> dict[int, list[Record]]:
        batches: dict[int, list[Record]] = defaultdict(list)
        size = 0
        try:
            event = self._events.get(timeout=_WAIT_S)
            while True:
                if isinstance(event, Assigned | Revoked):
                    self._rebalance(event, batches)
                elif (held := self._reading(event)) is not None and isinstance(event, AtEnd):
                    held.end = event.offset
                elif held is not None and isinstance(event, Record):
                    held.end = None
                    batches[event.ticket.partition].append(event)
                    size += len(event.value or b"")
                    if len(batches[event.ticket.partition]) >= self._batch or size >= _BATCH_BYTES:
                        break
                event = self._events.get_nowait()
        except Empty:
            pass
        return batches

    def _reading(self, event: Record | AtEnd) -> Holding | None:
        """The held partition that an event is of, unless it was read under an earlier number."""
        held = self._held.get(event.ticket.partition if isinstance(event, Record) else event.partition)
        return held if held is not None and held.reading == event.reading else None

    def _rebalance(self, event: Assigned | Revoked, batches: dict[int, list[Record]]) -> None:
        batches.pop(event.partition, None)
        self._heart.beat()
        self._release(event.partition)
        self._wanted.pop(event.partition, None)
        self._problems.pop(event.partition, None)
        if isinstance(event, Assigned):
            self._wanted[event.partition] = time.monotonic()

    def _take(self, partition: int) -> None:
        """Become the writer of a partition and start to read where its state stands."""
        with self._or_anew(partition):
            self._heart.rest()  # loading a large shard takes its time
            held = self._begin(partition)
            del self._wanted[partition]
            self._problems.pop(partition, None)
            # What is still queued was read under an earlier number: it comes again, or counts already.
            held.reading = self._intake.start_at(partition, held.next_offset)
            self._held[partition] = held

    def _begin(self, partition: int) -> Holding:
        """Take the state of a partition, see that it belongs to the stream, and find from where to read on.

        What has no place in the state has no position there: its dead letters are done when the group has them.
        """
        keeps = self._handler.keeps(partition)
        stored = self._handler.take(partition) if keeps else None
        # After the state, which another writer may just have moved.
        stream = self._lookup.streams([partition])[partition]
        for held in self._held.values():
            held.confirm(stream)
        check_stream(stored, stream, now_ms=now_ms(), gaps_allowed=self._handler.gaps_allowed)
        if stored is None:
            start = stream.first if keeps else max(self._lookup.committed(self._group, partition), stream.first)
            return Holding(stream, keeps, start, complete_ms=now_ms())
        if stored.next_offset < stream.first:
            _log.warning(
                "records were deleted before they were read",
                topic=self._topic, partition=partition, expected=stored.next_offset, first=stream.first,
            )  # fmt: skip
        return Holding(stream, keeps, max(stored.next_offset, stream.first), stored.timestamp_ms)

    def _release(self, partition: int) -> None:
        self._held.pop(partition, None)
        self._handler.release(partition)

    @contextmanager
    def _or_anew(self, partition: int) -> Iterator[None]:
        """Leave a block for an error that may pass, let go of the partition and take it anew after a while.

        Where a server does not answer, every partition waits for it anew: hence the heartbeats.
        """
        self._heart.beat()
        try:
            yield
        except _PERMANENT:
            raise
        except (StoreError, KafkaException, ProducerError) as error:
            self._heart.beat()
            if str(error) != self._problems.get(partition):
                _log.warning("taking the partition anew", topic=self._topic, partition=partition, error=str(error))
            self._problems[partition] = str(error)
            self._release(partition)
            self._wanted[partition] = time.monotonic() + (_FENCED_S if isinstance(error, StaleEpoch) else _RETRY_S)

    def _apply(self, partition: int, records: list[Record]) -> None:
        held = self._held[partition]
        with self._or_anew(partition):
            entries, read, blocked = self._decode(records)
            if read and held.kept:
                held.passed(read[-1])
                with metrics.APPLY_SECONDS.labels(self._topic).time():
                    self._handler.apply(partition, entries, held.checkpoint, self._heart.beat)
                held.check_at = time.monotonic() + _CHECK_S
                metrics.APPLIED.labels(self._topic).inc(len(entries))
            for record in read:
                self._intake.done(record.ticket)
            if blocked is not None:
                self._block(blocked.ticket)

    def _block(self, ticket: Ticket) -> None:
        """Let go of a partition until a worker comes that can read its next record."""
        place = {"partition": ticket.partition, "offset": ticket.offset}
        _log.error("PARTITION PAUSED: a newer release wrote this record", topic=self._topic, **place)
        problem = f"a newer release wrote offset {ticket.offset} of partition {ticket.partition}, upgrade this worker"
        self._problems[ticket.partition] = problem
        self._release(ticket.partition)

    def _check(self, partition: int) -> None:
        """Notice a state that went back while nothing comes."""
        self._held[partition].check_at = time.monotonic() + _CHECK_S
        with self._or_anew(partition):
            self._handler.check(partition)

    def _look(self) -> None:
        """See that the topic is still the same one; keep the checkpoints of quiet partitions young."""
        self._look_at, asked_ms = time.monotonic() + _LOOK_S, now_ms()
        self._heart.beat()
        try:
            streams = self._lookup.streams(self._held)
        except KafkaException as error:
            _log.info("the topic was not looked at", topic=self._topic, error=str(error))
            return
        for partition, held in list(self._held.items()):
            held.confirm(streams[partition])
            if held.kept and held.renew(streams[partition], asked_ms):
                with self._or_anew(partition):
                    self._handler.apply(partition, [], held.checkpoint, self._heart.beat)

    def _decode(self, records: list[Record]) -> tuple[list[Entry[Decoded]], list[Record], Record | None]:
        """What can be applied, the records that are through with it, and the first one that is too new to be read.

        What cannot be read is a dead letter, acknowledged when this returns. Raises `ProducerError` if one is not.
        """
        entries: list[Entry[Decoded]] = []
        unreadable: list[tuple[Record, str]] = []
        read, blocked = records, None
        for number, record in enumerate(records):
            try:
                record.require_headers()
                key = id_of(record)
                entries.append(Entry(key, self._handler.decode(key, record), record))
            except UnsupportedSchema:
                read, blocked = records[:number], record
                break
            except MalformedMessage as error:
                unreadable.append((record, str(error)))
        if unreadable:
            self._heart.rest()  # Kafka may take its time to acknowledge the letters
        bury_all(self._writer, unreadable)
        return entries, read, blocked
