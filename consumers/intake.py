"""The poll thread: owns one Kafka consumer, hands records out, commits what is done.

It never computes. Records, assignments and revocations go to a queue; completions and start positions come back through
another. Where a partition has as many unfinished records as the window allows, or bytes of them, it is paused.
"""

import itertools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import structlog
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumers.commits import Commits
from consumers.connection import (
    as_bytes,
    consumer_settings,
    headers_of,
    is_cooperative,
    leave,
    raise_if_beyond_repair,
    trouble_log,
    wait_for_topic,
)
from consumers.errors import IntakeFailed
from consumers.events import Assigned, AtEnd, Event, Record, Revoked
from consumers.membership import SETTINGS, Membership
from consumers.offsets import OffsetTracker, Ticket
from consumers.worker import Heartbeat
from messages import Headers
from producers import make_client

_log = structlog.get_logger(__name__)

_BUSY_WAIT_S = 0.002  # with answers outstanding: their completions should not wait for a record to come
_IDLE_WAIT_S = 0.05
_BATCH = 512
_WINDOW_BYTES = 64 << 20  # of a partition, in memory until they are done
_HEADER_BYTES = 128  # about what Python needs for a header beyond its name and value


@dataclass(frozen=True, slots=True)
class _Start:
    """Where to begin to read a partition."""

    reading: int
    partition: int
    offset: int


class Intake:
    """Reads one topic in a thread of its own.

    deliver: called in that thread with every event, in order; it may only put it aside. positioned: partitions wait
    after assignment until `start_at` says where to begin, because the state holds the position, and report when they
    have been read to their end. Otherwise they begin at the group's committed offset.
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
        self.membership = Membership(topic, group, (options or {}).get("group.protocol"))
        self.heart = Heartbeat(f"intake {topic}")
        self._tracker = OffsetTracker(window, _WINDOW_BYTES)
        self._commits = Commits(topic, self._tracker)
        self._settings = {
            **consumer_settings(bootstrap_servers, group, options, positioned=positioned), **SETTINGS,
            "on_commit": self._commits.hear, "stats_cb": self.membership.hear, "error_cb": trouble_log(topic),
        }  # fmt: skip
        self._consumer: Consumer
        self._deliver = deliver
        self._positioned = positioned
        self._cooperative = is_cooperative(self._settings)
        self._starts: SimpleQueue[_Start] = SimpleQueue()
        self._readings = itertools.count(1)
        self._rebalances: list[Assigned | Revoked] = []
        self._assigned: set[int] = set()
        self._starting: dict[int, _Start] = {}
        self._reading: dict[int, int] = {}
        self._paused: set[int] = set()
        self._stopping = threading.Event()
        self._abandoned = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"intake {topic}", daemon=True)

    # -- for other threads -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Join the group and begin to read, as soon as the topic is there."""
        self._consumer = make_client(Consumer, self._settings)
        self._thread.start()

    def done(self, ticket: Ticket) -> None:
        """The record with this ticket needs no more work."""
        self._commits.done(ticket)

    def start_at(self, partition: int, offset: int) -> int:
        """Read an assigned partition from this offset on; returns the number that marks what is read from there."""
        reading = next(self._readings)
        self._starts.put(_Start(reading, partition, offset))
        return reading

    @property
    def running(self) -> bool:
        """Whether the thread still reads, or still waits for what is out to be done."""
        return self._thread.is_alive()

    def stop(self, *, finish: bool = True) -> None:
        """Take no more records, commit what is done and leave the group. Returns at once.

        With ``finish`` the records that are out are waited for first, if the group's commits are what counts.
        """
        self._abandoned = self._abandoned or not finish
        self._stopping.set()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has committed and left the group; harmless if it was never started."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def check(self) -> None:
        """Raise `IntakeFailed` if the thread has ended for a fault."""
        if self._failure is not None:
            raise IntakeFailed(f"reading {self.topic} failed: {self._failure}") from self._failure

    # -- the poll thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            wait_for_topic(self._consumer, self.topic, self._stopping, self._settings["bootstrap.servers"])
            self._consumer.subscribe(
                [self.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            self.membership.subscribed()
            while not self._stopping.is_set():
                self.heart.beat()
                self._turn()
            self.heart.rest()
            self._drain()
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker must hear of it
            _log.error("intake failed", topic=self.topic, error=str(error))
            self._failure = error
        finally:
            self.heart.rest()
            leave(self._consumer)
            self.membership.left()

    def _turn(self) -> None:
        self._commits.take_completions()
        self._take_starts()
        wait_s = _BUSY_WAIT_S if self._tracker.open_messages() or self._starting else _IDLE_WAIT_S
        for _ in range(_BATCH):
            message = self._consumer.poll(wait_s)
            # A rebalance inside of this poll came before the message that it returned, hence one at a time.
            self._take_rebalances()
            if message is None:
                break
            self._receive(message)
            wait_s = 0
        self._resume_partitions()
        self._commits.commit_if_due(self._consumer)

    def _drain(self) -> None:
        """Read no further, let the open records be finished, commit."""
        self._consumer.pause(self._consumer.assignment())
        while self._tracker.open_messages() and not self._positioned and not self._abandoned:
            self._consumer.poll(_BUSY_WAIT_S)
            self._take_rebalances()
            self._commits.take_completions()
        self._commits.commit(self._consumer)

    def _receive(self, message: Message) -> None:
        error, partition, offset = message.error(), message.partition(), message.offset()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            raise_if_beyond_repair(error)
            self._take_trouble(error)
            return
        if partition is None or offset is None or (self._positioned and partition not in self._reading):
            return
        if error is not None:
            self._deliver(AtEnd(partition, self._reading[partition], offset))
            return
        if self._tracker.seen(partition, offset):
            # Seen after a pause: the client can go back within an assignment. What is out or done already is not news.
            return
        key, value, headers = as_bytes(message.key()), as_bytes(message.value()), headers_of(message)
        ticket = self._tracker.delivered(partition, offset, _size(key, value, headers))
        reading = self._reading.get(partition, 0)
        self._deliver(Record(ticket, reading, self.topic, key, value, headers, message.timestamp()[1]))
        if self._tracker.window_full(partition):
            self._consumer.pause([TopicPartition(self.topic, partition)])
            self._paused.add(partition)

    def _take_trouble(self, error: KafkaError) -> None:
        """Go on after an error that the client mends; who polled too late has lost what was assigned."""
        if error.code() == KafkaError._MAX_POLL_EXCEEDED:
            self._rebalances += [Revoked(partition) for partition in self._assigned]
            self._take_rebalances()
        _log.warning("broker trouble", topic=self.topic, error=error.str())

    def _take_starts(self) -> None:
        while True:
            try:
                start = self._starts.get_nowait()
            except Empty:
                break
            if start.partition in self._assigned:
                self._forget(start.partition)
                self._starting[start.partition] = start
        for start in list(self._starting.values()):
            self._seek(start)

    def _seek(self, start: _Start) -> None:
        """Begin to read where told; a fresh assignment is not ready for it yet, then the next turn tries again."""
        here = TopicPartition(self.topic, start.partition, start.offset)
        try:
            self._consumer.seek(here)
        except KafkaException as error:
            if error.args[0].code() != KafkaError._STATE:
                raise
            return
        del self._starting[start.partition]
        self._reading[start.partition] = start.reading
        self._consumer.resume([here])

    # Callbacks run inside poll and may not raise or poll there: it would end the process.

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._rebalances += [Assigned(partition.partition) for partition in partitions]
        if self._positioned:
            # Any beginning will do until `start_at` names one, but not the group's: there may be none, and the client
            # gives a partition up that has no beginning.
            there = [TopicPartition(self.topic, partition.partition, OFFSET_END) for partition in partitions]
            try:
                (consumer.incremental_assign if self._cooperative else consumer.assign)(there)
            except KafkaException as error:
                self._failure = error

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.heart.rest()
        self._commits.commit(consumer)  # the last chance: whoever comes next reads on from here
        self._on_lost(consumer, partitions)

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._rebalances += [Revoked(partition.partition) for partition in partitions]

    def _take_rebalances(self) -> None:
        noted, self._rebalances = self._rebalances, []
        for event in noted:
            # Neither progress nor pauses of an earlier assignment count in this one.
            self._forget(event.partition)
            if isinstance(event, Assigned):
                self._assigned.add(event.partition)
                here = [TopicPartition(self.topic, event.partition)]
                if self._positioned or self._stopping.is_set():
                    self._consumer.pause(here)
                else:
                    self._consumer.resume(here)
            else:
                self._assigned.discard(event.partition)
            self._deliver(event)

    def _forget(self, partition: int) -> None:
        self._tracker.forget(partition)
        self._starting.pop(partition, None)
        self._reading.pop(partition, None)
        self._paused.discard(partition)

    def _resume_partitions(self) -> None:
        """Read on where a partition was full and is no longer."""
        for partition in [paused for paused in self._paused if not self._tracker.window_full(paused)]:
            self._consumer.resume([TopicPartition(self.topic, partition)])
            self._paused.discard(partition)


def _size(key: bytes | None, value: bytes | None, headers: Headers | None) -> int:
    """About how many bytes of memory a record takes."""
    pairs = sum(len(name) + len(content or b"") + _HEADER_BYTES for name, content in headers or ())
    return len(key or b"") + len(value or b"") + pairs
