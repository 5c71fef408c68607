"""What users did, by item id: in buckets, each of which knows how far it has come in the stream."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Self
from zlib import crc32

import msgpack

from index_store.checkpoint import Checkpoint
from index_store.connection import Server
from index_store.keys import IndexKeys, check_name

BUCKETS = 64

#: behaviour -> [(item, timestamp in ms)], newest first
History = dict[str, list[tuple[str, int]]]


def bucket_of(user: str) -> int:
    """The user's bucket: crc32 of the id mod 64, the same in every process."""
    return crc32(user.encode()) % BUCKETS


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a partition is in the histories: the position, and by bucket the last offset that it had then.

    −1 stands for none. Every bucket that still has that offset has everything before the position.
    """

    position: Checkpoint
    lasts: tuple[int, ...]

    def pack(self) -> bytes:
        """As msgpack."""
        return bytes(msgpack.packb([astuple(self.position), self.lasts]))

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """The inverse of `pack`."""
        position, lasts = msgpack.unpackb(packed)
        return cls(Checkpoint(*position), tuple(lasts))


class HistoryStore:
    """Reads the histories of one index; a `HistoryWriter` changes them."""

    def __init__(self, server: Server, index: str) -> None:
        self._server, self._keys = server, IndexKeys(check_name("index", index))

    def read(self, users: Iterable[str]) -> dict[str, History]:
        """The histories of users, in one round trip; empty for those who have none."""
        names = list(dict.fromkeys(users))
        answers = self._server.ask_all([("GET", self._keys.history(bucket_of(user), user)) for user in names])
        return {user: _decode(packed) for user, packed in zip(names, answers, strict=True)}

    def positions(self) -> dict[int, Checkpoint]:
        """Per partition the position before which every record is in the histories.

        A partition is missing here until its first batch has been appended. Where the stream was replaced, the newer
        one's position counts.
        """
        positions: dict[int, Checkpoint] = {}
        for name, packed in self._server.ask("HGETALL", self._keys.positions).items():
            partition, found = partition_of(name.decode()), Reached.unpack(packed).position
            known = positions.get(partition)
            if known is None or found.timestamp_ms >= known.timestamp_ms:
                positions[partition] = found
        return positions


def stream_field(partition: int, position: Checkpoint) -> str:
    """The field for a partition of one stream: its offsets say nothing about those of a topic made anew."""
    return f"{position.cluster_id}/{position.topic_id}/{partition}"


def partition_of(field: str) -> int:
    """The partition that a field is for."""
    return int(field.rsplit("/", 1)[1])


def _decode(packed: bytes | None) -> History:
    if packed is None:
        return {}
    stored = msgpack.unpackb(packed)
    return {behavior: [(item, at) for item, at in entries] for behavior, entries in stored.items()}
