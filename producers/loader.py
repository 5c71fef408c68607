"""Bulk loading at the pace at which the other end applies.

The embedded broker keeps 5 MiB per partition and then drops the oldest records without a word, so a load never runs
further ahead of what has been applied than 2 MiB per partition. With a real Kafka that is back-pressure.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from producers.errors import LoadStalled
from producers.writer import Delivery, OnDelivered, Writer

Message = TypeVar("Message", contravariant=True)

_AHEAD_BYTES = 2 * 1024 * 1024
_RECORD_BYTES = 100  # what the broker keeps of a record beside key and value, rounded up
_TICK_S = 0.02  # how often `applied` is asked while waiting
_PROGRESS_S = 0.1


class StateProducer(Protocol[Message]):
    """What can be loaded through: `ItemProducer` and `BehaviorProducer`."""

    writer: Writer

    def put(self, message: Message, /, *, on_delivered: OnDelivered | None = None) -> int:
        """Queue one message and return its bytes."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How far a load is: records written and applied, bytes written, seconds since it began."""

    produced: int = 0
    applied: int = 0
    bytes: int = 0
    seconds: float = 0.0


def load(
    messages: Iterable[Message],
    producer: StateProducer[Message],
    applied: Callable[[], Mapping[int, int]],
    progress: Callable[[LoadReport], None] | None = None,
    *,
    stall_s: float = 60.0,
) -> LoadReport:
    """Write all `messages` and return when as many have been applied as were written.

    `applied` says, per partition, the offset after the last one applied (no entry: nothing yet); `progress` hears
    of the load ten times a second. What is on its way when a load is interrupted is left to the writer's own end.
    Raises the first failure to write a record, `QueueFull`, and `LoadStalled` when nothing moves for `stall_s` seconds.
    """
    course = _Course(producer.writer, applied, progress, stall_s)
    for message in messages:
        course.sent += 1
        course.unwritten_bytes += producer.put(message, on_delivered=course.reports.append) + _RECORD_BYTES
        course.update()
        while course.ahead_bytes() > _AHEAD_BYTES:
            course.wait()
    while course.applied < course.sent:
        course.wait()
    return course.finish()


@dataclass(slots=True)
class _Ahead:
    """The records of one partition that were written and not yet applied, oldest first."""

    records: deque[tuple[int, int]] = field(default_factory=deque)  # offset, bytes
    bytes: int = 0


class _Course:
    """The books of one load: what was sent, what was written where, what has been applied."""

    def __init__(
        self,
        writer: Writer,
        ask_applied: Callable[[], Mapping[int, int]],
        progress: Callable[[LoadReport], None] | None,
        stall_s: float,
    ) -> None:
        self._writer, self._ask_applied, self._progress, self._stall_s = writer, ask_applied, progress, stall_s
        self.reports: deque[Delivery] = deque()
        self.sent = self.applied = 0
        self.unwritten_bytes = 0
        self._written = self._written_bytes = 0
        self._ahead: dict[int, _Ahead] = {}
        self._applied: Mapping[int, int] = {}
        self._began = self._moved = self._asked = self._told = time.monotonic()

    def ahead_bytes(self) -> int:
        """The most any partition can be ahead of what is applied, unwritten records counted against each."""
        return self.unwritten_bytes + max((ahead.bytes for ahead in self._ahead.values()), default=0)

    def update(self) -> None:
        """Take in the delivery reports that have come."""
        now = time.monotonic()
        while self.reports:
            self._take(self.reports.popleft())
            self._moved = now
        if self._progress and now - self._told >= _PROGRESS_S:
            self._told = now
            self._ask()
            self._progress(self.report())

    def wait(self) -> None:
        """Let a moment pass; raises `LoadStalled` when too many have passed in vain."""
        self._writer.poll(_TICK_S)
        self.update()
        if self._writer.refusal:
            raise LoadStalled(f"Kafka refuses the load: {self._writer.refusal}")
        if time.monotonic() - self._asked >= _TICK_S:
            self._ask()
        if time.monotonic() - self._moved > self._stall_s:
            raise LoadStalled(f"nothing moved for {self._stall_s:g} s: {self._waiting_for()}")

    def report(self) -> LoadReport:
        """How far the load is."""
        seconds = time.monotonic() - self._began
        return LoadReport(self._written, self.applied, self._written_bytes, seconds)

    def finish(self) -> LoadReport:
        """The last report, told to whoever follows the progress."""
        report = self.report()
        if self._progress:
            self._progress(report)
        return report

    def _take(self, delivery: Delivery) -> None:
        if delivery.error:
            raise delivery.error
        size = delivery.size + _RECORD_BYTES
        ahead = self._ahead.setdefault(delivery.partition, _Ahead())
        ahead.records.append((delivery.offset, size))
        ahead.bytes += size
        self.unwritten_bytes -= size
        self._written += 1
        self._written_bytes += delivery.size

    def _ask(self) -> None:
        """Strike out what has been applied."""
        self._asked = time.monotonic()
        offsets = self._ask_applied()
        if offsets != self._applied:
            # Whoever applies may have other records to go through before these.
            self._applied, self._moved = offsets, self._asked
        for partition, offset in offsets.items():
            ahead = self._ahead.get(partition)
            while ahead and ahead.records and ahead.records[0][0] < offset:
                ahead.bytes -= ahead.records.popleft()[1]
                self.applied += 1

    def _waiting_for(self) -> str:
        waits = [
            f"partition {partition} has {len(ahead.records)} records to apply, from offset {ahead.records[0][0]} on"
            for partition, ahead in sorted(self._ahead.items())
            if ahead.records
        ]
        if unwritten := self.sent - self._written:
            waits.append(f"{unwritten} records are not written")
        return "; ".join(waits)
