"""Generations of an index: what they hold, and which of them answers."""

import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import sha1
from typing import Self

import msgpack
import numpy as np

from index_store.checkpoint import Checkpoint
from index_store.connection import Server
from index_store.errors import GenerationActive, GenerationMismatch, LayoutMismatch, StoreError, UnknownGeneration
from index_store.keys import IndexKeys, ShardKeys, check_name

#: Version of keys and values in the store; another one is refused.
LAYOUT = 3
#: Scheme of the URI of an artefact in the store that holds the generation: `redis:DIGEST`.
IN_STORE = "redis"
_MAX_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Column:
    """A fixed-width array over rows: `width` numbers of `dtype` (little-endian, as `<f4`) each."""

    name: str
    dtype: str
    width: int

    def __post_init__(self) -> None:
        check_name("column", self.name)
        if self.width < 1 or np.dtype(self.dtype).kind not in "fiu":
            raise ValueError(f"column {self.name!r}: width {self.width} of {self.dtype!r} is not an array of numbers")
        object.__setattr__(self, "dtype", np.dtype(self.dtype).newbyteorder("<").str)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.width * np.dtype(self.dtype).itemsize

    def zeros(self, rows: int) -> np.ndarray:
        """An array [rows, width] of zeros."""
        return np.zeros((rows, self.width), self.dtype)


@dataclass(frozen=True, slots=True)
class GenerationInfo:
    """One metric version with the columns made by it.

    `metric` is the metric's kind, `artefact_uri` and `artefact_sha256` name its parameters, `metric_version`
    goes into every response. A block of `block_rows` rows of a column is one value in the store.
    """

    index: str
    name: str
    metric: str
    metric_version: str
    artefact_uri: str
    artefact_sha256: str
    columns: tuple[Column, ...]
    shards: int = 1
    block_rows: int = 1024

    def __post_init__(self) -> None:
        check_name("index", self.index)
        check_name("generation", self.name)
        if self.shards < 1 or self.block_rows < 1 or not self.columns:
            raise ValueError("a generation has at least one shard, one row a block and one column")
        if len({column.name for column in self.columns}) < len(self.columns):
            raise ValueError("two columns of one name")
        if self.block_rows * max(column.row_bytes for column in self.columns) > _MAX_BLOCK_BYTES:
            raise ValueError(f"a block would exceed {_MAX_BLOCK_BYTES} bytes: use fewer block_rows")

    def keys(self, shard: int) -> ShardKeys:
        """The keys of one of its shards."""
        if not 0 <= shard < self.shards:
            raise ValueError(f"shard {shard}: generation {self.name!r} has {self.shards}")
        return ShardKeys(self.index, shard, self.name)

    def blocks(self, shard: int, rows: int) -> list[str]:
        """The keys of all blocks of a shard of so many rows."""
        keys, numbers = self.keys(shard), range(-(-rows // self.block_rows))
        return [keys.block(column.name, number) for column in self.columns for number in numbers]

    @property
    def stored_artefact(self) -> str | None:
        """The digest of its artefact if that lies in the store, else None."""
        scheme, _, digest = self.artefact_uri.partition(":")
        return digest if scheme == IN_STORE else None

    def pack(self) -> bytes:
        """As msgpack."""
        return bytes(msgpack.packb(asdict(self)))

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """The inverse of `pack`."""
        fields = msgpack.unpackb(packed)
        return cls(**{**fields, "columns": tuple(Column(**column) for column in fields["columns"])})

    @property
    def digest(self) -> str:
        """Identifies this metadata, field by field."""
        return sha1(self.pack(), usedforsecurity=False).hexdigest()

    def require_artefact(self, sha256: str) -> None:
        """Raise `GenerationMismatch` unless `sha256` is the artefact that this generation was made with."""
        if sha256 != self.artefact_sha256:
            raise GenerationMismatch(
                f"generation {self.name!r} was made with artefact {self.artefact_sha256}, not {sha256}: "
                f"load the metric from {self.artefact_uri}"
            )

    def refuse(self, outcome: bytes) -> StoreError:
        """The error for a shard that the store does not have as this generation says."""
        if outcome == b"missing":
            return UnknownGeneration(
                f"the store has no shard of generation {self.name!r} of {self.index!r}: call create_generation and "
                "load it; if it was there before, the store has lost its data, or a drop was cut short: drop it again"
            )
        return GenerationMismatch(
            f"generation {self.name!r} of {self.index!r} was created with other metadata: "
            "look it up with IndexStore.generation, or use a new name"
        )


@dataclass(frozen=True, slots=True)
class ShardState:
    """Where a shard of a generation stands; its first writer makes the epoch 1."""

    epoch: int
    seq: int
    rows: int
    checkpoint: Checkpoint | None


class IndexStore:
    """The generations of one index. Raises `LayoutMismatch` if it was written by another layout version."""

    def __init__(self, server: Server, index: str) -> None:
        self.server, self.index = server, check_name("index", index)
        self._keys = IndexKeys(index)
        self._check_layout(server.ask("GET", self._keys.layout))

    def create_generation(self, info: GenerationInfo) -> None:
        """Make a generation with empty shards; harmless when it is there already as `info` says.

        Raises `GenerationMismatch` if the name is taken by other metadata.
        """
        if info.index != self.index:
            raise ValueError(f"generation of index {info.index!r} in the store of {self.index!r}")
        self.server.ask("SETNX", self._keys.layout, LAYOUT)
        self._check_layout(self.server.ask("GET", self._keys.layout))
        self.server.ask("HSETNX", self._keys.generations, info.name, info.pack())
        if self.generation(info.name) != info:
            raise info.refuse(b"mismatch")
        widths = msgpack.packb({column.name: column.row_bytes for column in info.columns})
        for shard in range(info.shards):
            # The first chain is unique: a store that was emptied and filled again is never taken for the old one.
            first = sha1(uuid.uuid4().bytes, usedforsecurity=False).hexdigest()
            arguments = [info.digest, first, info.block_rows, widths]
            outcome, *_ = self.server.call("create", [info.keys(shard).state], arguments)
            if outcome == b"mismatch":
                raise info.refuse(outcome)

    def generations(self) -> list[GenerationInfo]:
        """All generations, by name."""
        stored: Iterable[bytes] = self.server.ask("HVALS", self._keys.generations)
        return sorted((GenerationInfo.unpack(packed) for packed in stored), key=lambda info: info.name)

    def generation(self, name: str) -> GenerationInfo:
        """Look one up; raises `UnknownGeneration`."""
        packed = self.server.ask("HGET", self._keys.generations, name)
        if packed is None:
            raise UnknownGeneration(f"index {self.index!r} has no generation {name!r}: create it first")
        return GenerationInfo.unpack(packed)

    def activate(self, name: str) -> None:
        """Let generation `name` answer from now on; raises `UnknownGeneration` unless all its shards are there."""
        info = self.generation(name)
        for shard in range(info.shards):
            self.shard(info, shard)
        self.server.ask("SET", self._keys.active, name)

    def active(self) -> GenerationInfo | None:
        """The generation that answers, if one was activated."""
        name = self.server.ask("GET", self._keys.active)
        return None if name is None else self.generation(name.decode())

    def shard(self, info: GenerationInfo, shard: int) -> ShardState:
        """Where a shard stands now. Raises `UnknownGeneration` if the store does not have it."""
        epoch, seq, rows, checkpoint = self.server.ask(
            "HMGET", info.keys(shard).state, "epoch", "seq", "rows", "checkpoint"
        )
        if epoch is None:
            raise info.refuse(b"missing")
        return ShardState(int(epoch), int(seq), int(rows), Checkpoint.unpack(checkpoint))

    def drop_generation(self, name: str) -> None:
        """Delete a generation that does not answer, and its artefact in the store unless another one has the same.

        Source records and histories stay. A shard goes as a whole, whoever still writes or follows it finds it missing,
        and the metadata go last: what an interruption leaves cannot be activated, and dropping it again finishes.

        Raises `UnknownGeneration`, or `GenerationActive` for the one that answers.
        """
        info = self.generation(name)
        if self.server.ask("GET", self._keys.active) == name.encode():
            raise GenerationActive(
                f"generation {name!r} of {self.index!r} answers: let another one answer first (`hopstream index "
                "activate` or `create`), or drop the index as a whole"
            )
        for shard in range(info.shards):
            self._drop_shard(info, shard)
        # One by one: a full store refuses whatever comes in a transaction, deletions too.
        digest = info.stored_artefact
        if digest and not any(other.stored_artefact == digest for other in self.generations() if other != info):
            self.server.ask("UNLINK", self._keys.artefact(digest))
        self.server.ask("HDEL", self._keys.generations, name)

    def drop(self) -> int:
        """Delete everything that the store holds of this index; the number of keys. Its workers must have ended."""
        found = 0
        # `{index}` tags what belongs to the index as a whole, `{index:…}` its shards and buckets.
        for pattern in (f"{{{self.index}}}:*", f"{{{self.index}:*"):
            for keys in self.server.scan_keys(pattern):
                found += int(self.server.ask("UNLINK", *keys))
        return found

    def _drop_shard(self, info: GenerationInfo, shard: int) -> None:
        keys, outcome = info.keys(shard), b"conflict"
        while outcome == b"conflict":  # its writer is at work, and has added rows
            rows = int(self.server.ask("HGET", keys.state, "rows") or 0)
            blocks = info.blocks(shard, rows)
            outcome, *_ = self.server.call("drop", [keys.state, keys.ids, keys.log, keys.leases, *blocks], [rows])

    def _check_layout(self, stored: bytes | None) -> None:
        if stored is not None and int(stored) != LAYOUT:
            raise LayoutMismatch(
                f"index {self.index!r} has layout {int(stored)}, this hopstream writes {LAYOUT}: use the release that "
                "wrote it, or build the index anew under another name"
            )
