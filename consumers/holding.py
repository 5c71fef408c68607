"""A partition in the hands of a state consumer: how far it has been read, and whether it still is what it was."""

import time
from dataclasses import dataclass, replace

from consumers.events import Record
from index_store import Checkpoint, Stream, check_stream

_RENEWALS = 10  # checkpoints of a quiet partition in the time that deletions are kept
_RENEW_AT_MOST_S = 3600.0


@dataclass(slots=True)
class Holding:
    """What is known of a partition whose records are applied.

    kept: the state has a place for it. next_offset, complete_ms: where to read on, and up to when nothing is missing,
    as the next checkpoint says it. reading: the number of the reading whose records count. end: the offset it has been
    read to where that was its end, None while records come. check_at, renew_at: when the state is to be looked at, and
    its checkpoint renewed, on the monotonic clock.
    """

    stream: Stream
    kept: bool
    next_offset: int
    complete_ms: int
    reading: int = 0
    end: int | None = None
    check_at: float = 0.0
    renew_at: float = 0.0

    @property
    def checkpoint(self) -> Checkpoint:
        """The position, as it is stored beside the state."""
        stream = self.stream
        return Checkpoint(self.next_offset, stream.cluster_id, stream.topic_id, stream.partitions, self.complete_ms)

    def passed(self, record: Record) -> None:
        """Move the position behind a record."""
        self.next_offset = record.ticket.offset + 1
        self.complete_ms = max(self.complete_ms, min(record.timestamp_ms, now_ms()))  # clocks may be wrong

    def confirm(self, stream: Stream) -> None:
        """Raise `StreamChanged` if the topic is another one now than that of this partition."""
        check_stream(replace(self.checkpoint, next_offset=stream.end), stream, now_ms=now_ms())

    def renew(self, stream: Stream, asked_ms: int) -> bool:
        """Note that a partition which is still read to its end, as asked just now, has been complete up to then.

        Only where deletions go by age, for who comes back later must know whether one can have been missed; and only
        from time to time. True if the checkpoint is to be stored.
        """
        kept_ms = stream.delete_retention_ms
        if kept_ms is None or self.end != stream.end or time.monotonic() < self.renew_at:
            return False
        self.renew_at = time.monotonic() + min(kept_ms / 1000 / _RENEWALS, _RENEW_AT_MOST_S)
        self.next_offset, self.complete_ms = stream.end, asked_ms
        return True


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
