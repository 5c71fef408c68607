"""The way into the histories: each record of a partition once, whatever becomes of the writer or the store."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import msgpack

from index_store.checkpoint import Checkpoint
from index_store.connection import Server
from index_store.errors import NotTaken, SequenceConflict
from index_store.histories import BUCKETS, Reached, bucket_of, partition_of, stream_field
from index_store.keys import IndexKeys, check_name


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One record of a behaviours partition. Without behaviour and item it erases the user."""

    offset: int
    user: str
    behavior: str | None = None
    item: str = ""
    timestamp_ms: int = 0


@dataclass(slots=True)
class _Known:
    """What the store holds of a partition: by stream the packed position, and by bucket the last offset."""

    positions: dict[str, bytes] = field(default_factory=dict)
    lasts: list[dict[str, int]] = field(default_factory=list)


class HistoryWriter:
    """Appends the records of one partition to histories of at most `cap` items per user and behaviour.

    For an item the newest event counts; of two events of the same time the one appended later is the newer.

    `take` comes first, and again after every error of `append` and `check`. A bucket accepts records only on top of
    those that this writer knows it to have. So a store that was restored from an older copy, or lost its latest writes,
    refuses instead of leaving a gap, and of several writers of one partition all but one are refused.
    """

    def __init__(self, server: Server, index: str, partition: int, *, cap: int = 200) -> None:
        if cap < 1:
            raise ValueError("cap must be at least 1")
        self._server, self._keys = server, IndexKeys(check_name("index", index))
        self._partition, self._cap = partition, cap
        self._known: _Known | None = None

    def take(self) -> Checkpoint | None:
        """Learn what the store holds, and from where on to read; None for the beginning.

        Where a bucket has lost what it had when the position was stored, that is from its loss on. Records that come
        again are skipped where they are there. Of several streams the newest one's position counts; check it with
        `check_stream`.
        """
        self._known = known = self._read()
        stored = {name: Reached.unpack(packed) for name, packed in known.positions.items()}
        if not stored:
            return None
        name, reached = max(stored.items(), key=lambda item: item[1].position.timestamp_ms)
        lost = [
            last + 1
            for bucket, had in zip(known.lasts, reached.lasts, strict=True)
            if (last := bucket.get(name, -1)) < had
        ]
        return replace(reached.position, next_offset=min([reached.position.next_offset, *lost]))

    def append(self, events: Sequence[HistoryEvent], position: Checkpoint) -> int:
        """Apply records, in the order of offsets, and the position after them; returns how many were new.

        The records must follow on what `take` said, or on the last `append`, with none left out.

        Raises `SequenceConflict` when the store is not where this writer left it, `StoreUnavailable` or `StoreFull`
        when they were applied in part, perhaps. Then `take` tells from where to go on.
        """
        if any(later.offset <= earlier.offset for earlier, later in pairwise(events)):
            raise ValueError("events must come in the order of offsets, each once")
        if events and events[-1].offset >= position.next_offset:
            raise ValueError(f"the position {position.next_offset} must lie behind offset {events[-1].offset}")
        known, self._known = self._taken(), None  # until all of it is there
        name, applied = stream_field(self._partition, position), 0
        parts: dict[int, list[HistoryEvent]] = {}
        for event in events:
            bucket = bucket_of(event.user)
            if event.offset > known.lasts[bucket].get(name, -1):
                parts.setdefault(bucket, []).append(event)
                applied += 1
        calls = [self._call(bucket, name, known.lasts[bucket].get(name), part) for bucket, part in parts.items()]
        self._require(b"appended", self._server.call_all("append", calls))
        for bucket, part in parts.items():
            known.lasts[bucket][name] = part[-1].offset
        # The position goes last: it says of every bucket what it has.
        packed = Reached(position, tuple(bucket.get(name, -1) for bucket in known.lasts)).pack()
        before = known.positions.get(name, b"")
        self._require(b"advanced", [self._server.call("advance", [self._keys.positions], [name, before, packed])])
        known.positions[name] = packed
        self._known = known
        return applied

    def check(self) -> None:
        """Raise `SequenceConflict` when the store is not where this writer left it."""
        known, self._known = self._taken(), None
        if self._read() != known:
            raise self._conflict()
        self._known = known

    def _read(self) -> _Known:
        """Position first: a bucket may only be found to have more than it says."""
        keys = [self._keys.positions, *(self._keys.offsets(bucket) for bucket in range(BUCKETS))]
        positions, *lasts = (
            {name.decode(): value for name, value in found.items() if partition_of(name.decode()) == self._partition}
            for found in self._server.ask_all([("HGETALL", key) for key in keys])
        )
        return _Known(positions, [{name: int(last) for name, last in bucket.items()} for bucket in lasts])

    def _call(
        self, bucket: int, name: str, last: int | None, events: Sequence[HistoryEvent]
    ) -> tuple[list[str], list[bytes | str | int | float]]:
        places: dict[str, int] = {}
        packed = [[places.setdefault(e.user, len(places) + 1), e.behavior, e.item, e.timestamp_ms] for e in events]
        keys = [self._keys.offsets(bucket), *(self._keys.history(bucket, user) for user in places)]
        return keys, [name, "" if last is None else last, events[-1].offset, self._cap, msgpack.packb(packed)]

    def _taken(self) -> _Known:
        if self._known is None:
            raise NotTaken(f"histories, partition {self._partition}: call take() first, then read from where it says")
        return self._known

    def _require(self, outcome: bytes, answers: Sequence[Sequence[bytes]]) -> None:
        if any(answer[0] != outcome for answer in answers):
            raise self._conflict()

    def _conflict(self) -> SequenceConflict:
        return SequenceConflict(
            f"histories, partition {self._partition}: the store is not where this writer left it (restored, or written "
            "by another): call take() and read from where it says"
        )
