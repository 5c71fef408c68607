"""Whether an index holds what its topic says: every item once, as its newest event made it, and nothing else.

topic_item_missing   the topic has an item that the index has not
topic_item_extra     the index has an item that the topic has not
topic_item_differs   the index has an older event of an item, or another one
topic_not_compared   the item writer does not stand at the topic's end
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha1

from consumers.connection import as_bytes, headers_of
from consumers.events import Record
from consumers.item_writer import ItemHandler
from consumers.offsets import Ticket
from hopstream.inspection.report import Tick
from hopstream.inspection.streams import Streams
from index_store.inspection import Moment, ShardInspector
from messages import Item, MalformedMessage, MessageError, decode_item, encode

_TRIES = 10
_PAUSE_S = 0.5
_TICK = 1_000


@dataclass(frozen=True, slots=True)
class _Event:
    """The newest event of an item, and what its source record must be."""

    timestamp_ms: int
    digest: bytes


class TopicAudit:
    """Follows one partition as the item writer does, and compares when both stand at its end."""

    def __init__(
        self, handler: ItemHandler, inspector: ShardInspector, streams: Streams, topic: str, partition: int
    ) -> None:
        self._handler, self._inspector, self._streams = handler, inspector, streams
        self._topic, self._partition = topic, partition
        self._expected: dict[str, _Event] = {}
        self._next = 0  # offset from which the topic has not been read
        self._last = -1  # offset of the last record that was there

    def faults(self, done: Tick) -> Iterator[tuple[str, str]]:
        """Read the topic to its end and compare; a writer that is a little behind is waited for."""
        stored: int | None = None
        for _ in range(_TRIES):
            self._read_to_end(done)
            found, stored = self._compared()
            if found is not None:
                yield from found
                return
            time.sleep(_PAUSE_S)
        yield "topic_not_compared", f"the topic ends at {self._next}, the index stands at {stored}: let it catch up"

    def _read_to_end(self, done: Tick) -> None:
        end = self._streams.extent(self._topic, self._partition)
        start = max(self._next, end.low)
        for count, message in enumerate(self._streams.read(self._topic, self._partition, start, end.high), start=1):
            self._last = message.offset() or 0
            self._take(Record(
                Ticket(self._partition, self._last, 0), 0, self._topic, as_bytes(message.key()),
                as_bytes(message.value()), headers_of(message), message.timestamp()[1],
            ))  # fmt: skip
            if count % _TICK == 0:
                done(_TICK)
        self._next = end.high

    def _take(self, record: Record) -> None:
        """Do to what is expected what the item writer does to the index."""
        try:
            record.require_headers()
            key = (record.key or b"").decode()
            item = self._handler.decode(key, record)
        except (MalformedMessage, UnicodeDecodeError):
            return  # a dead letter
        known = self._expected.get(key)
        if item is None:
            self._expected.pop(key, None)
        elif known is None or item.timestamp_ms >= known.timestamp_ms:
            self._expected[key] = _Event(item.timestamp_ms, _digest(item))

    def _compared(self) -> tuple[list[tuple[str, str]] | None, int | None]:
        """Faults of the records that are stored, None while they are of another position; and that position."""
        found: list[tuple[str, str]] = []
        missing = set(self._expected)
        for records, moment in self._inspector.sources():
            stored = moment.checkpoint.next_offset if moment.checkpoint else None
            if not self._is_at_end(moment):
                return None, stored
            for name, record in records.items():
                missing.discard(name)
                found += self._record_faults(name, record or b"")
        found += [("topic_item_missing", repr(item)) for item in sorted(missing)]
        return found, stored

    def _is_at_end(self, moment: Moment) -> bool:
        """Offsets at the end may belong to no record: compacted away, or the end of a transaction."""
        at = moment.checkpoint.next_offset if moment.checkpoint else 0
        return moment.mark == moment.checkpoint and self._last < at <= self._next

    def _record_faults(self, name: str, record: bytes) -> Iterator[tuple[str, str]]:
        expected = self._expected.get(name)
        if expected is None:
            yield "topic_item_extra", repr(name)
            return
        try:
            item = decode_item(record)
        except MessageError as error:
            yield "topic_item_differs", f"{name!r}: {error}"
            return
        # A newer event than the topic's: an older one came after it, was passed over, and is what compaction has kept.
        if item.timestamp_ms <= expected.timestamp_ms and _digest(item) != expected.digest:
            yield "topic_item_differs", f"{name!r}: of {item.timestamp_ms}, the topic's is of {expected.timestamp_ms}"


def _digest(item: Item) -> bytes:
    return sha1(encode(item), usedforsecurity=False).digest()
