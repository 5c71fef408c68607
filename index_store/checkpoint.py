"""Where in a Kafka partition a state stands, and whether it may be resumed from there."""

from dataclasses import astuple, dataclass
from typing import Any, Self

import msgpack

from index_store.errors import StreamChanged


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A position in one partition, with what identifies the stream.

    `next_offset` is the first offset that is not yet in the state; `timestamp_ms` is the time (epoch ms)
    of the newest record in it, or of the moment it was read to its end.
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


def check_stream(
    stored: Checkpoint | None,
    *,
    cluster_id: str,
    topic_id: str,
    partitions: int,
    now_ms: int,
    delete_retention_ms: int | None,
) -> None:
    """Refuse to resume from a checkpoint that does not belong to the stream as it is now.

    Without a checkpoint there is nothing to refuse. `delete_retention_ms` is the topic's setting: deletions
    older than that are gone from a compacted topic. None means that the topic loses nothing by age.

    Raises `StreamChanged`, which names the remedy.
    """
    if stored is None:
        return
    remedy = "build a new generation from the beginning of the topic, or restore the stream that the state came from"
    for what, was, now in (
        ("cluster", stored.cluster_id, cluster_id),
        ("topic id", stored.topic_id, topic_id),
        ("partition count", stored.partitions, partitions),
    ):
        if was != now:
            raise StreamChanged(f"the state was made from {what} {was!r}, the stream now has {now!r}: {remedy}")
    age_ms = now_ms - stored.timestamp_ms
    if delete_retention_ms is not None and age_ms > delete_retention_ms:
        raise StreamChanged(
            f"the state is {age_ms} ms old, deletions are kept for {delete_retention_ms} ms "
            f"(delete.retention.ms), so some may have been missed: {remedy}"
        )
