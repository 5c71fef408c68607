"""What a writer applies and a follower reads: one batch of changes and its log entry."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any

import msgpack
import numpy as np

from index_store.checkpoint import Checkpoint
from index_store.errors import BatchTooLarge, InvalidBatch
from index_store.generations import Column, GenerationInfo
from index_store.keys import ShardKeys

#: A batch's columns, ids and source records may not exceed this together: the server applies it in one go.
MAX_BATCH_BYTES = 64 << 20

#: column name -> pieces of (rows [n], values [n, width]); where a row comes twice, the later value counts.
Columns = Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that take effect together, or not at all.

    `seq` is one more than that of the batch before; `rows` the number of rows in use after it, counted from 0
    and never falling. Rows never written are zeros. `sources` maps an id to its record, opaque bytes, or to None
    to delete it; they take no effect where another generation's are further on in the stream. Without `checkpoint`
    the stored one stays.
    """

    seq: int
    rows: int
    columns: Columns = field(default_factory=dict)
    ids_set: Mapping[str, int] = field(default_factory=dict)
    ids_deleted: Sequence[str] = ()
    sources: Mapping[str, bytes | None] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A batch as followers see it; each column comes as at most one piece, `checkpoint` None leaves it where it is."""

    seq: int
    epoch: int
    rows: int
    columns: Columns
    ids_set: Mapping[str, int]
    ids_deleted: Sequence[str]
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch on its way: the entry (`header`, `data`), the blocks it touches, and where each range goes."""

    header: bytes
    data: bytes
    blocks: list[str]
    targets: bytes
    sources: bytes


def encode(batch: Batch, info: GenerationInfo, keys: ShardKeys) -> Encoded:
    """Check a batch against its generation and encode it.

    Raises `InvalidBatch` for an unknown column, a wrong shape or dtype, a row outside [0, rows) or an id both set
    and deleted, `BatchTooLarge` for more than MAX_BATCH_BYTES.
    """
    _check_ids(batch)
    known = {column.name: column for column in info.columns}
    blocks: dict[str, int] = {}
    header_columns, targets, parts = [], [], []
    for name, pieces in batch.columns.items():
        if name not in known:
            raise InvalidBatch(f"column {name!r}: generation {info.name!r} has {', '.join(known)}")
        rows, data = _flatten(known[name], pieces, batch.rows)
        if not len(rows):
            continue
        firsts, counts = _runs(rows, info.block_rows)
        header_columns.append([name, np.stack([firsts, counts], axis=1).ravel().tolist()])
        numbers = (firsts // info.block_rows).tolist()
        targets.append([blocks.setdefault(keys.block(name, number), len(blocks) + 1) for number in numbers])
        parts.append(data)
    # Opaque bytes go as msgpack raw: the server's decoder is older than the bin type.
    set_sources = [part for pair in batch.sources.items() if pair[1] is not None for part in pair]
    sources = _pack([set_sources, [key for key, record in batch.sources.items() if record is None]])
    header = msgpack.packb([
        batch.rows,
        header_columns,
        [part for key, row in batch.ids_set.items() for part in (key, int(row))],
        list(batch.ids_deleted),
        None if batch.checkpoint is None else msgpack.unpackb(batch.checkpoint.pack()),
        sha1(sources, usedforsecurity=False).hexdigest(),  # so that the chain covers them
    ])  # fmt: skip
    encoded = Encoded(header, b"".join(parts), list(blocks), _pack(targets), sources)
    size = len(encoded.header) + len(encoded.data) + len(encoded.sources)
    if size > MAX_BATCH_BYTES:
        raise BatchTooLarge(f"a batch of {size} bytes, at most {MAX_BATCH_BYTES} go at once: split it")
    return encoded


def decode(epoch: int, seq: int, header: bytes, data: bytes, info: GenerationInfo) -> Change:
    """The change in a log entry."""
    rows, header_columns, ids, deleted, checkpoint, _digest = msgpack.unpackb(header)
    known = {column.name: column for column in info.columns}
    columns: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    at = 0
    for name, runs in header_columns:
        column = known[name]
        firsts, counts = np.array(runs, np.int64).reshape(-1, 2).T
        total = int(counts.sum())
        within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        values = np.frombuffer(data, column.dtype, total * column.width, at).reshape(total, column.width)
        columns[name] = [(np.repeat(firsts, counts) + within, values)]
        at += values.nbytes
    ids_set = dict(zip(ids[::2], ids[1::2], strict=True))
    return Change(seq, epoch, rows, columns, ids_set, deleted, Checkpoint.of(checkpoint))


def chain_of(before: bytes, header: bytes, data: bytes) -> bytes:
    """The chain after an entry: sha1hex(chain before ‖ entry), as the server computes it."""
    digest = sha1(before, usedforsecurity=False)
    digest.update(header)
    digest.update(data)
    return digest.hexdigest().encode()


def _pack(value: Any) -> bytes:
    return bytes(msgpack.packb(value, use_bin_type=False))


def _check_ids(batch: Batch) -> None:
    outside = [key for key, row in batch.ids_set.items() if not 0 <= row < batch.rows]
    if outside:
        raise InvalidBatch(f"id {outside[0]!r}: row {batch.ids_set[outside[0]]} is not in [0, {batch.rows})")
    both = batch.ids_set.keys() & set(batch.ids_deleted)
    if both:
        raise InvalidBatch(f"id {min(both)!r} is both set and deleted")


def _flatten(column: Column, pieces: Iterable[tuple[np.ndarray, np.ndarray]], rows: int) -> tuple[np.ndarray, bytes]:
    """All rows of the pieces, int64 [n], and their values' bytes."""
    all_rows, parts = [np.empty(0, np.int64)], []
    for where, values in pieces:
        if values.dtype != column.dtype or values.shape != (len(where), column.width):
            raise InvalidBatch(
                f"column {column.name!r}: {values.dtype}{list(values.shape)} for {len(where)} rows, "
                f"wanted {column.dtype}[{len(where)}, {column.width}]"
            )
        if where.ndim != 1 or (len(where) and (where.dtype.kind not in "iu" or where.min() < 0 or where.max() >= rows)):
            raise InvalidBatch(f"column {column.name!r}: rows must be integers in [0, {rows})")
        all_rows.append(where.astype(np.int64))
        parts.append(values.tobytes())
    return np.concatenate(all_rows), b"".join(parts)


def _runs(rows: np.ndarray, block_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Firsts and counts of the stretches of consecutive rows, none of which crosses a block."""
    breaks = (np.diff(rows) != 1) | (rows[1:] % block_rows == 0)
    starts = np.concatenate([[0], np.flatnonzero(breaks) + 1])
    return rows[starts], np.diff(np.append(starts, len(rows)))
