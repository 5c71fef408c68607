"""A reader that keeps up with a shard: bulk read, then the log, every step of it checked."""

import time
import uuid
from dataclasses import dataclass

import numpy as np

from index_store.batch import Change, chain_of, decode
from index_store.checkpoint import Checkpoint
from index_store.connection import Server
from index_store.errors import LogGap, ShardDamaged
from index_store.generations import GenerationInfo

_READ_BYTES = 8 << 20  # of blocks, in one round trip
_READ_ENTRIES = 64  # of the log, in one round trip


@dataclass(slots=True)
class Snapshot:
    """A shard as of `seq`: columns [rows, width] and id -> row. Source records are not in it.

    `checkpoint` is where in the stream it stands, None where no batch has ever said.
    """

    seq: int
    epoch: int
    rows: int
    columns: dict[str, np.ndarray]
    ids: dict[str, int]
    checkpoint: Checkpoint | None = None

    def replay(self, change: Change) -> None:
        """Apply the next change; columns grow by copying."""
        for name, array in self.columns.items():
            if change.rows > len(array):
                grown = np.zeros((change.rows, array.shape[1]), array.dtype)
                grown[: len(array)] = array
                self.columns[name] = array = grown
            for rows, values in change.columns.get(name, ()):
                array[rows] = values
        for key in change.ids_deleted:
            self.ids.pop(key, None)
        self.ids.update(change.ids_set)
        self.seq, self.epoch, self.rows = change.seq, change.epoch, change.rows
        self.checkpoint = change.checkpoint or self.checkpoint


@dataclass(slots=True)
class _Place:
    """The last entry seen."""

    epoch: int
    seq: int
    chain: bytes


class Follower:
    """Reads one shard of a generation and follows its log; one thread at a time.

    It holds a lease of `lease_s` seconds, renewed by `poll`, that keeps the log from being trimmed before it.
    """

    def __init__(
        self, server: Server, info: GenerationInfo, shard: int, *, lease_s: float = 60.0, name: str | None = None
    ) -> None:
        self.info, self.shard = info, shard
        self.name = name or uuid.uuid4().hex
        self._server, self._waiting = server, server.sibling()
        self._keys = info.keys(shard)
        self._lease_s, self._renewal = lease_s, 0.0
        self._place: _Place | None = None

    def load(self) -> Snapshot:
        """Read the whole shard, consistent as of one sequence number, even while it is written to.

        Raises `UnknownGeneration` or `GenerationMismatch` when the shard is not there or not as `info` says,
        `ShardDamaged` when it cannot be read, `LogGap` when writers outran the read beyond the log's cap: load again.
        """
        self._place = None
        epoch, seq, chain, rows, checkpoint = self._lease(None)
        columns = {column.name: column.zeros(rows) for column in self.info.columns}
        self._read_blocks(columns, rows)
        ids = self._read_ids()
        # What was read is a mixture of states since `seq`: replaying the log from there makes it one.
        snapshot = Snapshot(seq, epoch, rows, columns, ids, checkpoint)
        self._place = _Place(epoch, seq, chain)
        target = int(self._server.ask("HGET", self._keys.state, "seq") or -1)
        while True:
            for change in self._read():
                snapshot.replay(change)
            if snapshot.seq >= target:
                return snapshot

    def checkpoint(self) -> Checkpoint | None:
        """Where in the stream the store stands now; None where it does not say, or has no such shard."""
        return Checkpoint.unpack(self._server.ask("HGET", self._keys.state, "checkpoint"))

    def poll(self, timeout_s: float = 0.0) -> list[Change]:
        """The changes since the last call, in order; waits up to `timeout_s` seconds for one.

        Raises `LogGap` when the log does not continue from here (trimmed, or the store was reset or restored): load
        anew.
        """
        place = self._placed()
        if time.monotonic() >= self._renewal:
            self._lease(place.seq)
        changes = self._read()
        # The socket would time out before a longer wait ended.
        wait_ms = int(1000 * min(timeout_s, self._waiting.timeout_s / 2, self._lease_s / 3))
        if changes or wait_ms < 1:
            return changes
        answer = self._waiting.ask(
            "XREAD", "COUNT", _READ_ENTRIES, "BLOCK", wait_ms, "STREAMS", self._keys.log, f"{place.epoch}-{place.seq}"
        )
        return self._checked(answer[0][1]) if answer else []

    def close(self) -> None:
        """Release the lease; the server that was given stays open."""
        self._place = None
        self._waiting.close()
        self._server.ask("HDEL", self._keys.leases, self.name)

    def _lease(self, seq: int | None) -> tuple[int, int, bytes, int, Checkpoint | None]:
        """Hold the log from `seq`, or from where it is now; epoch, seq, chain, rows and checkpoint of the shard."""
        outcome, *rest = self._server.call(
            "lease",
            [self._keys.state, self._keys.leases],
            [self.info.digest, self.name, "" if seq is None else seq, int(1000 * self._lease_s)],
        )
        if outcome != b"leased":
            if seq is not None:
                raise self._gap("the shard is gone")
            raise self.info.refuse(outcome)
        self._renewal = time.monotonic() + self._lease_s / 3
        _, epoch, at, chain, rows, checkpoint = rest[0]
        return int(epoch), int(at), chain, int(rows), Checkpoint.unpack(checkpoint)

    def _read_blocks(self, columns: dict[str, np.ndarray], rows: int) -> None:
        for column in self.info.columns:
            block_rows, array = self.info.block_rows, columns[column.name]
            at_once = max(1, _READ_BYTES // (block_rows * column.row_bytes))
            numbers = range(-(-rows // block_rows))
            for first in range(0, len(numbers), at_once):
                some = numbers[first : first + at_once]
                blocks = self._server.ask("MGET", *(self._keys.block(column.name, number) for number in some))
                for number, block in zip(some, blocks, strict=True):
                    place = array[number * block_rows : (number + 1) * block_rows]
                    if len(block or b"") % column.row_bytes:
                        raise self._damaged(f"block {number} of column {column.name!r} ends within a row")
                    values = np.frombuffer(block or b"", column.dtype).reshape(-1, column.width)[: len(place)]
                    place[: len(values)] = values

    def _read_ids(self) -> dict[str, int]:
        try:
            parts = self._server.scan_hash(self._keys.ids)
            return {key.decode(): int(row) for part in parts for key, row in part.items()}
        except ValueError as error:
            raise self._damaged(f"an id or its row cannot be read ({error})") from None

    def _damaged(self, problem: str) -> ShardDamaged:
        return ShardDamaged(
            f"shard {self.shard} of generation {self.info.name!r}: {problem}: restore a backup, or drop the index and "
            "let it be made anew"
        )

    def _read(self) -> list[Change]:
        """What the log holds after the place, checked against the state of the same moment."""
        place = self._placed()
        entries, state = self._server.ask_all(
            [
                ("XRANGE", self._keys.log, f"({place.epoch}-{place.seq}", "+", "COUNT", _READ_ENTRIES),
                ("HMGET", self._keys.state, "seq", "chain"),
            ],
            atomic=True,
        )
        changes = self._checked(entries)
        # Nothing to read is no proof of being up to date: a trimmed or a reset log is as silent.
        if len(entries) < _READ_ENTRIES and state != [str(place.seq).encode(), place.chain]:
            raise self._gap(f"the store is at {state[0] and int(state[0])}")
        return changes

    def _checked(self, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> list[Change]:
        changes, place = [], self._placed()
        for entry_id, fields in entries:
            epoch, seq = map(int, entry_id.split(b"-"))
            header, data = fields[b"h"], fields[b"d"]
            chain = chain_of(place.chain, header, data)
            if seq != place.seq + 1 or chain != fields[b"c"]:
                raise self._gap(f"the next entry is {seq}" if seq != place.seq + 1 else f"entry {seq} is another one")
            changes.append(decode(epoch, seq, header, data, self.info))
            place.epoch, place.seq, place.chain = epoch, seq, chain
        return changes

    def _placed(self) -> _Place:
        if self._place is None:
            raise LogGap(f"follower of shard {self.shard} stands nowhere: call load()")
        return self._place

    def _gap(self, found: str) -> LogGap:
        place, self._place = self._place, None
        at = "nowhere" if place is None else str(place.seq)
        return LogGap(f"shard {self.shard}: the log does not continue after {at} ({found}): call load()")
