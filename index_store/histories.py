"""What users did, by item id: in buckets, each of which knows how far it has come in the stream."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from zlib import crc32

import msgpack

from index_store.checkpoint import Checkpoint
from index_store.connection import Server
from index_store.keys import IndexKeys, check_name

BUCKETS = 64

#: behaviour -> [(item, timestamp in ms)], newest first
History = dict[str, list[tuple[str, int]]]


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One record of a behaviours partition. Without behaviour and item it erases the user."""

    offset: int
    user: str
    behavior: str | None = None
    item: str = ""
    timestamp_ms: int = 0


def bucket_of(user: str) -> int:
    """The user's bucket: crc32 of the id mod 64, the same in every process."""
    return crc32(user.encode()) % BUCKETS


class HistoryStore:
    """Histories of one index, at most `cap` items per user and behaviour.

    For an item the newest event counts; of two events of the same time the one appended later is the newer.
    """

    def __init__(self, server: Server, index: str, *, cap: int = 200) -> None:
        if cap < 1:
            raise ValueError("cap must be at least 1")
        self.cap = cap
        self._server, self._keys = server, IndexKeys(check_name("index", index))

    def append(self, partition: int, events: Sequence[HistoryEvent], position: Checkpoint) -> int:
        """Apply records of one partition, in the order of offsets, and say how many were new.

        The records must follow on what `positions` says, with none left out; those that a bucket has already are
        skipped, so a batch may be appended again after any error. `position` is where the partition stands after
        them: it is recorded once every bucket has its part.

        Raises `StoreUnavailable` or `StoreFull` when it was applied in part, perhaps: append it again.
        """
        if any(later.offset <= earlier.offset for earlier, later in pairwise(events)):
            raise ValueError("events must come in the order of offsets, each once")
        if events and events[-1].offset >= position.next_offset:
            raise ValueError(f"the position {position.next_offset} must lie behind offset {events[-1].offset}")
        by_bucket: dict[int, list[HistoryEvent]] = {}
        for event in events:
            by_bucket.setdefault(bucket_of(event.user), []).append(event)
        field = _stream_field(partition, position)
        calls = [self._call(bucket, field, part) for bucket, part in by_bucket.items()]
        applied = sum(int(answer[1]) for answer in self._server.call_all("append", calls))
        self._server.call("advance", [self._keys.positions], [field, position.next_offset, position.pack()])
        return applied

    def read(self, users: Iterable[str]) -> dict[str, History]:
        """The histories of users, in one round trip; empty for those who have none."""
        names = list(dict.fromkeys(users))
        answers = self._server.ask_all([("GET", self._keys.history(bucket_of(user), user)) for user in names])
        return {user: _decode(packed) for user, packed in zip(names, answers, strict=True)}

    def positions(self) -> dict[int, Checkpoint]:
        """Per partition the position from which to read on: every bucket has everything before it.

        A partition is missing here until its first `append` has ended: read it from its beginning. Where the stream
        was replaced, the newer one's position counts; check it with `check_stream`.
        """
        positions: dict[int, Checkpoint] = {}
        for name, packed in self._server.ask("HGETALL", self._keys.positions).items():
            partition, found = int(name.rsplit(b"/", 1)[1]), Checkpoint.unpack(packed)
            known = positions.get(partition)
            if found is not None and (known is None or found.timestamp_ms >= known.timestamp_ms):
                positions[partition] = found
        return positions

    def _call(
        self, bucket: int, field: str, events: Sequence[HistoryEvent]
    ) -> tuple[list[str], list[bytes | str | int | float]]:
        places: dict[str, int] = {}
        packed = [
            [places.setdefault(e.user, len(places) + 1), e.offset, e.behavior, e.item, e.timestamp_ms] for e in events
        ]
        keys = [self._keys.offsets(bucket), *(self._keys.history(bucket, user) for user in places)]
        return keys, [field, self.cap, msgpack.packb(packed)]


def _stream_field(partition: int, position: Checkpoint) -> str:
    """Offsets of one stream say nothing about another's: a topic made anew begins anew."""
    return f"{position.cluster_id}/{position.topic_id}/{partition}"


def _decode(packed: bytes | None) -> History:
    if packed is None:
        return {}
    stored = msgpack.unpackb(packed)
    return {behavior: [(item, at) for item, at in entries] for behavior, entries in stored.items()}
