"""Where in a Kafka partition a state stands, and whether it may be resumed from there."""

from dataclasses import astuple, dataclass
from typing import Any, Self

import msgpack

from index_store.errors import StreamChanged

_REMEDY = (
    "bring back the stream that the state was made from; or end the workers, run `hopstream index drop` and "
    "`hopstream index create`, which let them build everything anew from the beginning of the topics"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A position in one partition, with what identifies the stream.

    `next_offset` is the first offset that is not yet in the state. `timestamp_ms` (epoch ms) is when the state was
    complete for the last time: the time of its newest record, or the moment the partition was read to its end, or for
    an empty state the moment reading began. Everything written before then is in the state, or was read over.
    """

    next_offset: int
    cluster_id: str
    topic_id: str
    partitions: int
    timestamp_ms: int

    def pack(self) -> bytes:
        """As msgpack."""
        return bytes(msgpack.packb(astuple(self)))

    @classmethod
    def unpack(cls, packed: bytes | None) -> Self | None:
        """The inverse of `pack`; None stays None."""
        return None if packed is None else cls.of(msgpack.unpackb(packed))

    @classmethod
    def of(cls, fields: list[Any] | None) -> Self | None:
        """From the list of fields that a log entry carries."""
        return None if fields is None else cls(*fields)


@dataclass(frozen=True, slots=True)
class Stream:
    """One partition of a topic as its broker describes it now.

    `first` and `end` are offsets: of the oldest record that is there, and of the next one to be written.
    `delete_retention_ms` is how long a compacted topic keeps deletions at least; None where none goes by age, or where
    the broker does not say.
    """

    cluster_id: str
    topic_id: str
    partitions: int
    first: int
    end: int
    delete_retention_ms: int | None = None


def check_stream(stored: Checkpoint | None, stream: Stream, *, now_ms: int, gaps_allowed: bool = False) -> None:
    """Refuse to resume from a checkpoint that does not belong to the stream as it is now.

    Without a checkpoint there is nothing to refuse. `gaps_allowed`: records that went before they were read do not make
    the state wrong, as with histories, whose old end goes anyway.

    Raises `StreamChanged`, which names the remedy.
    """
    if stored is None:
        return
    for what, was, now in (
        ("cluster", stored.cluster_id, stream.cluster_id),
        ("topic id", stored.topic_id, stream.topic_id),
        ("partition count", stored.partitions, stream.partitions),
    ):
        if was != now:
            raise StreamChanged(f"the state was made from {what} {was!r}, the stream now has {now!r}: {_REMEDY}")
    if stored.next_offset > stream.end:
        raise StreamChanged(
            f"the state holds records up to offset {stored.next_offset}, the partition ends at {stream.end}, so "
            f"others will come under the same offsets: {_REMEDY}"
        )
    if stored.next_offset < stream.first and not gaps_allowed:
        raise StreamChanged(
            f"the state goes on at offset {stored.next_offset}, the partition begins at {stream.first}, and what lay "
            f"between is gone: {_REMEDY}"
        )
    age_ms, kept_ms = now_ms - stored.timestamp_ms, stream.delete_retention_ms
    if kept_ms is not None and age_ms > kept_ms and stored.next_offset < stream.end:
        raise StreamChanged(
            f"the state is {age_ms} ms old, deletions are kept for {kept_ms} ms (delete.retention.ms), so some may "
            f"have been missed: {_REMEDY}"
        )
