"""The poll thread: owns one Kafka consumer, hands records out, commits what is done.

It never computes. Records, assignments and revocations go to a queue; completions and start positions come back through
another. Where a partition has as many unfinished records as the window allows, it is paused.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import cast

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumers.errors import IntakeFailed
from consumers.offsets import OffsetTracker, Ticket
from messages import Headers

_log = structlog.get_logger(__name__)

_BUSY_WAIT_S = 0.002  # with answers outstanding: their completions should not wait for a record to come
_IDLE_WAIT_S = 0.05
_BATCH = 512
_COMMIT_EVERY_S = 0.5
_SEEK_ATTEMPTS = 50

_DEFAULTS: Mapping[str, object] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "fetch.wait.max.ms": 10,  # an idle fetch waits this out, and 500 ms by default
    "queued.max.messages.kbytes": 16_384,
    "log_level": 4,
}


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it came; its ticket goes back when it is done."""

    ticket: Ticket
    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Assigned:
    """A partition that is read from now on, or as soon as `Intake.start_at` names the offset."""

    partition: int


@dataclass(frozen=True, slots=True)
class Revoked:
    """A partition that somebody else may read from now on."""

    partition: int


Event = Record | Assigned | Revoked


class Intake:
    """Reads one topic in a thread of its own.

    positioned: partitions wait after assignment until `start_at` says where to begin, because the state holds the
    position. Otherwise they begin at the group's committed offset.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        group: str,
        deliver: Callable[[Event], None],
        *,
        positioned: bool = False,
        window: int = 4096,
        options: Mapping[str, object] | None = None,
    ) -> None:
        self.topic = topic
        self._consumer = Consumer(
            {**_DEFAULTS, **(options or {}), "bootstrap.servers": bootstrap_servers, "group.id": group}
        )
        self._deliver = deliver
        self._positioned = positioned
        self._tracker = OffsetTracker(window)
        self._done: SimpleQueue[Ticket] = SimpleQueue()
        self._starts: SimpleQueue[tuple[int, int]] = SimpleQueue()
        self._rebalances: list[Assigned | Revoked] = []
        self._started: set[int] = set()
        self._paused: set[int] = set()
        self._committed_at = 0.0
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"intake {topic}", daemon=True)

    # -- for other threads -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Join the group and begin to read."""
        self._consumer.subscribe(
            [self.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )
        self._thread.start()

    def done(self, ticket: Ticket) -> None:
        """The record with this ticket needs no more work."""
        self._done.put(ticket)

    def start_at(self, partition: int, offset: int) -> None:
        """Read an assigned partition from this offset on."""
        self._starts.put((partition, offset))

    @property
    def running(self) -> bool:
        """Whether the thread still reads, or still waits for what is out to be done."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Take no more records; what is out may still be finished and is then committed. Returns at once."""
        self._stopping.set()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has committed and left the group. Raises `IntakeFailed` if it ended for a fault."""
        self._thread.join(timeout_s)
        self.check()

    def check(self) -> None:
        """Raise `IntakeFailed` if the thread has ended for a fault."""
        if self._failure is not None:
            raise IntakeFailed(f"reading {self.topic} failed: {self._failure}") from self._failure

    # -- the poll thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._turn()
            self._drain()
        except (KafkaException, IntakeFailed) as error:
            _log.error("intake failed", topic=self.topic, error=str(error))
            self._failure = error
        finally:
            self._consumer.close()

    def _turn(self) -> None:
        self._take_completions()
        self._take_starts()
        busy = self._tracker.open_messages() > 0
        first = self._consumer.poll(_BUSY_WAIT_S if busy else _IDLE_WAIT_S)
        self._take_rebalances()
        if first is not None:
            self._receive(first)
            for message in self._consumer.consume(_BATCH, 0):
                self._receive(message)
        self._pause_full_partitions()
        if time.monotonic() - self._committed_at > _COMMIT_EVERY_S:
            self._commit(asynchronous=True)

    def _drain(self) -> None:
        """Read no further, let the open records be finished, commit."""
        self._consumer.pause(self._consumer.assignment())
        while self._tracker.open_messages() and not self._positioned:
            self._consumer.poll(_BUSY_WAIT_S)
            self._take_rebalances()
            self._take_completions()
        self._take_completions()
        self._commit(asynchronous=False)

    def _receive(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            self._judge(error)
            return
        partition, offset = message.partition(), message.offset()
        if partition is None or offset is None or (self._positioned and partition not in self._started):
            return
        ticket = self._tracker.delivered(partition, offset)
        self._deliver(
            Record(
                ticket,
                self.topic,
                _as_bytes(message.key()),
                _as_bytes(message.value()),
                cast("Headers", message.headers() or ()),
                message.timestamp()[1],
            )
        )

    def _judge(self, error: KafkaError) -> None:
        """Pass over what mends itself; raise what does not."""
        code = error.code()
        if code == KafkaError._MAX_POLL_EXCEEDED:
            for partition in list(self._started):
                self._forget(partition)
        elif code == KafkaError.UNKNOWN_TOPIC_OR_PART:
            _log.info("waiting for a topic", topic=self.topic)
        elif error.fatal() or not error.retriable():
            if code not in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._PARTITION_EOF):
                raise IntakeFailed(f"{error.name()}: {error.str()}")
            _log.warning("broker trouble", topic=self.topic, error=error.str())

    def _take_completions(self) -> None:
        while True:
            try:
                self._tracker.done(self._done.get_nowait())
            except Empty:
                return

    def _take_starts(self) -> None:
        while True:
            try:
                partition, offset = self._starts.get_nowait()
            except Empty:
                return
            self._seek(TopicPartition(self.topic, partition, offset))
            self._tracker.forget(partition)
            self._started.add(partition)
            self._consumer.resume([TopicPartition(self.topic, partition)])

    def _seek(self, position: TopicPartition) -> None:
        """Seek, as often as it takes for a fresh assignment to be ready for it."""
        for _ in range(_SEEK_ATTEMPTS):
            try:
                self._consumer.seek(position)
            except KafkaException as error:
                if error.args[0].code() != KafkaError._STATE:
                    raise
                self._consumer.poll(_BUSY_WAIT_S)
            else:
                return
        raise IntakeFailed(f"partition {position.partition} does not accept a position")

    # Callbacks run inside poll and only take notes: polling or raising there would end the process.

    def _on_assign(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._rebalances += [Assigned(partition.partition) for partition in partitions]

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._rebalances += [Revoked(partition.partition) for partition in partitions]

    def _take_rebalances(self) -> None:
        noted, self._rebalances = self._rebalances, []
        for event in noted:
            # Neither progress nor pauses of an earlier assignment count in this one.
            self._forget(event.partition)
            if isinstance(event, Assigned):
                here = [TopicPartition(self.topic, event.partition)]
                if self._positioned:
                    self._consumer.pause(here)
                else:
                    self._consumer.resume(here)
            self._deliver(event)

    def _forget(self, partition: int) -> None:
        self._tracker.forget(partition)
        self._started.discard(partition)
        self._paused.discard(partition)

    def _pause_full_partitions(self) -> None:
        for assigned in self._consumer.assignment():
            partition = assigned.partition
            if self._positioned and partition not in self._started:
                continue
            full = self._tracker.window_full(partition)
            if full and partition not in self._paused:
                self._consumer.pause([assigned])
                self._paused.add(partition)
            elif not full and partition in self._paused:
                self._consumer.resume([assigned])
                self._paused.discard(partition)

    def _commit(self, *, asynchronous: bool) -> None:
        self._committed_at = time.monotonic()
        positions = self._tracker.committable()
        if not positions:
            return
        offsets = [TopicPartition(self.topic, partition, offset) for partition, offset in positions.items()]
        try:
            if asynchronous:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            else:
                self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            # A rebalance in between: whoever has the partition now reads these records again.
            _log.warning("commit refused", topic=self.topic, error=str(error))
        else:
            self._tracker.committed(positions)


def _as_bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
