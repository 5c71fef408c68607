"""The one writer of a shard."""

from dataclasses import dataclass, replace
from enum import StrEnum

from index_store.batch import Batch, encode
from index_store.checkpoint import Checkpoint
from index_store.connection import Server
from index_store.errors import (
    InvalidBatch,
    NotTaken,
    OutcomeUnknown,
    SequenceConflict,
    ShardDamaged,
    StaleEpoch,
    StoreError,
    StoreUnavailable,
)
from index_store.generations import GenerationInfo


class Outcome(StrEnum):
    """What became of a batch that was not refused."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"  # it had been applied before; nothing changed


@dataclass(frozen=True, slots=True)
class Position:
    """Where a shard stands: the next batch has `seq` + 1, the next Kafka record is the checkpoint's."""

    epoch: int
    seq: int
    rows: int
    checkpoint: Checkpoint | None
    chain: bytes
    previous: bytes


class ShardWriter:
    """Applies batches to one shard of a generation, fenced by an epoch.

    `take` comes first, and again after every error of `apply` but `InvalidBatch`: what the old epoch may still
    have on its way is then refused. The log keeps `log_bytes`, and up to `leased_bytes` for live followers.
    """

    def __init__(
        self,
        server: Server,
        info: GenerationInfo,
        shard: int,
        *,
        log_bytes: int = 64 << 20,
        leased_bytes: int = 256 << 20,
    ) -> None:
        if not server.writer:
            raise ValueError("a writer needs connect(..., writer=True): other clients may send a write twice")
        if not 0 <= log_bytes <= leased_bytes:
            raise ValueError("log_bytes must not exceed leased_bytes")
        self.info, self.shard = info, shard
        self._server, self._keys = server, info.keys(shard)
        self._caps = [log_bytes, leased_bytes]
        self._held: Position | None = None

    @property
    def position(self) -> Position:
        """Where the shard stands; raises `NotTaken`."""
        if self._held is None:
            raise NotTaken(f"shard {self.shard}: call take() first, then read the position anew")
        return self._held

    def take(self) -> Position:
        """Become the shard's writer under a new epoch and learn where it stands.

        Raises `UnknownGeneration` or `GenerationMismatch` when the shard is not there or not as `info` says, and
        `StoreUnavailable` without an answer: take again.
        """
        self._held = None
        outcome, *rest = self._server.call("take", [self._keys.state], [self.info.digest])
        if outcome != b"taken":
            raise self.info.refuse(outcome)
        epoch, seq, chain, previous, rows, checkpoint = rest[0]
        self._held = Position(int(epoch), int(seq), int(rows), Checkpoint.unpack(checkpoint), chain, previous)
        return self._held

    def apply(self, batch: Batch) -> Outcome:
        """Apply a batch, all of it or nothing. The very batch applied last is recognised, and changes nothing.

        Raises `InvalidBatch` when it does not fit the generation, and the writer can go on; `NotTaken`, `StaleEpoch`,
        `SequenceConflict`, `StoreFull` or `ShardDamaged` when refused, and nothing was written; `OutcomeUnknown` when
        the answer was lost.
        """
        held = self.position
        if batch.rows < held.rows:
            raise InvalidBatch(f"rows must not fall: {batch.rows} after {held.rows}")
        encoded = encode(batch, self.info, self._keys)
        before = held.previous if batch.seq == held.seq else held.chain
        keys = self._keys
        self._held = None  # until the answer is here
        try:
            outcome, *rest = self._server.call(
                "apply",
                [keys.state, keys.ids, keys.sources, keys.mark, keys.log, keys.leases, *encoded.blocks],
                [held.epoch, batch.seq, before, encoded.header, encoded.data, encoded.targets, encoded.sources,
                 *self._caps],
            )  # fmt: skip
        except StoreUnavailable as error:
            raise OutcomeUnknown(f"batch {batch.seq} may have been applied or not ({error}): call take()") from error
        if outcome not in (b"applied", b"duplicate"):
            raise self._refusal(outcome, rest, batch.seq, held.epoch)
        if outcome == b"applied":
            held = replace(held, seq=batch.seq, rows=batch.rows, chain=rest[0], previous=before)
            if batch.checkpoint is not None:
                held = replace(held, checkpoint=batch.checkpoint)
        self._held = held
        return Outcome(outcome.decode())

    def trim(self, log_bytes: int, leased_bytes: int) -> int:
        """Trim the log to these caps now, as every `apply` does to its own; the number of entries dropped."""
        keys = self._keys
        _, dropped = self._server.call("trim", [keys.state, keys.log, keys.leases], [log_bytes, leased_bytes])
        return int(dropped)

    def _refusal(self, outcome: bytes, rest: list[bytes], seq: int, epoch: int) -> StoreError:
        if outcome == b"stale":
            return StaleEpoch(
                f"shard {self.shard} was taken by epoch {int(rest[0])}, this writer holds {epoch}: stop, or call take()"
            )
        if outcome == b"conflict":
            return SequenceConflict(
                f"batch {seq} does not follow what the store applied last ({int(rest[0])}), or another batch has that "
                "number: call take() and read the position anew"
            )
        if outcome == b"invalid":
            return ShardDamaged(
                f"shard {self.shard} holds other data than generation {self.info.name!r} says ({rest[0].decode()}): "
                "restore a backup, or drop the index and let it be made anew"
            )
        return self.info.refuse(outcome)
