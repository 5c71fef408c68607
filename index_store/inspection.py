"""A shard as it is stored, read by whoever wants to know whether it is sound. Nothing here writes.

What has to be compared is read in one transaction, together with the sequence number of that moment.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from index_store.checkpoint import Checkpoint
from index_store.connection import Server
from index_store.generations import GenerationInfo

_ENTRIES = 32  # of the log, each up to MAX_BATCH_BYTES, though few come near it
_RECORDS = 1_000
_COMMANDS = 5_000

_STATE = ("epoch", "seq", "rows", "chain", "previous", "appended", "trimmed", "checkpoint")


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the server is. Without AOF, what it holds is as old as its last dump once it has restarted."""

    server: str
    used_bytes: int
    max_bytes: int
    policy: str
    aof: bool

    @classmethod
    def of(cls, server: Server) -> "ServerFacts":
        """Ask the server."""
        about, memory, persistence = (server.ask("INFO", section) for section in ("server", "memory", "persistence"))
        valkey = about.get("valkey_version")
        return cls(
            f"Valkey {valkey}" if valkey else f"Redis {about['redis_version']}",
            int(memory["used_memory"]),
            int(memory["maxmemory"]),
            str(memory["maxmemory_policy"]),
            bool(int(persistence["aof_enabled"])),
        )


@dataclass(frozen=True, slots=True)
class ShardSize:
    """How much a shard holds; `block_bytes` is the server's memory for its columns."""

    items: int
    log_entries: int
    log_bytes: int
    block_bytes: int


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One batch in the log, not decoded yet, and the chain that the server computed for it."""

    epoch: int
    seq: int
    header: bytes
    data: bytes
    chain: bytes


@dataclass(frozen=True, slots=True)
class Moment:
    """What a shard's state says at one moment: its newest batch, the chain up to it and the chain before it.

    `log_bytes` is how much of the log is kept.
    `mark` is up to where in the stream the source records go, which other generations share.
    """

    epoch: int
    seq: int
    rows: int
    chain: bytes
    previous: bytes
    log_bytes: int
    checkpoint: Checkpoint | None
    mark: Checkpoint | None


class ShardInspector:
    """Reads what a follower has no need of."""

    def __init__(self, server: Server, info: GenerationInfo, shard: int) -> None:
        self._server, self._info, self._shard, self._keys = server, info, shard, info.keys(shard)

    def size(self) -> ShardSize:
        """How much there is."""
        items, entries, counts, rows = self._server.ask_all(
            [
                ("HLEN", self._keys.ids),
                ("XLEN", self._keys.log),
                ("HMGET", self._keys.state, "appended", "trimmed"),
                ("HGET", self._keys.state, "rows"),
            ],
            atomic=True,
        )
        appended, trimmed = (int(count or 0) for count in counts)
        return ShardSize(int(items), int(entries), appended - trimmed, self._block_bytes(int(rows or 0)))

    def log(self) -> Iterator[tuple[list[LogEntry], Moment]]:
        """The log from its newest entry to its oldest, in parts, each with the state of the moment it was read in.

        What is trimmed meanwhile is the end of it, and simply does not come.
        """
        below = "+"
        while True:
            found, moment = self._at_one_moment(("XREVRANGE", self._keys.log, below, "-", "COUNT", _ENTRIES))
            entries = [_log_entry(*named) for named in found]
            yield entries, moment
            if len(entries) < _ENTRIES:
                return
            below = f"({entries[-1].epoch}-{entries[-1].seq}"

    def sources(self) -> Iterator[tuple[dict[str, bytes | None], Moment]]:
        """All source records, in parts; those that come or go meanwhile may be in none, others in two."""
        cursor = 0
        while True:
            (cursor, part), moment = self._at_one_moment(("HSCAN", self._keys.sources, cursor, "COUNT", _RECORDS))
            yield {_text(item): record for item, record in part.items()}, moment
            if not cursor:
                return

    def sources_of(self, items: Sequence[str]) -> Iterator[tuple[dict[str, bytes | None], Moment]]:
        """The source records of these items, None where there is none, in parts."""
        for first in range(0, len(items), _RECORDS):
            some = items[first : first + _RECORDS]
            records, moment = self._at_one_moment(("HMGET", self._keys.sources, *some))
            yield dict(zip(some, records, strict=True)), moment

    def _at_one_moment(self, command: Sequence[bytes | str | int]) -> tuple[Any, Moment]:
        answer, state, mark = self._server.ask_all(
            [command, ("HMGET", self._keys.state, *_STATE), ("GET", self._keys.mark)], atomic=True
        )
        if state[0] is None:
            raise self._info.refuse(b"missing")
        epoch, seq, rows, chain, previous, appended, trimmed, checkpoint = state
        moment = Moment(
            int(epoch), int(seq), int(rows), chain, previous, int(appended) - int(trimmed),
            Checkpoint.unpack(checkpoint), Checkpoint.unpack(mark),
        )  # fmt: skip
        return answer, moment

    def _block_bytes(self, rows: int) -> int:
        blocks = self._info.blocks(self._shard, rows)
        total = 0
        for first in range(0, len(blocks), _COMMANDS):
            some = blocks[first : first + _COMMANDS]
            total += sum(used or 0 for used in self._server.ask_all([("MEMORY", "USAGE", block) for block in some]))
        return total


def _log_entry(name: bytes, fields: dict[bytes, bytes]) -> LogEntry:
    epoch, seq = map(int, name.split(b"-"))
    return LogEntry(epoch, seq, fields.get(b"h", b""), fields.get(b"d", b""), fields.get(b"c", b""))


def _text(name: bytes) -> str:
    """A field's name, also where it is none that hopstream would have written."""
    return name.decode(errors="backslashreplace")
