"""The index on Redis: columns, ids, source records, histories and the log that mirrors follow.

Start with `connect`, then `IndexStore` for generations, `ShardWriter` to write a shard, `Follower` to mirror it,
`Sources` for what items were made of, `HistoryWriter` and `HistoryStore` for what users did, `Artefacts` for the
metrics themselves.
"""

from index_store.artefacts import Artefacts, artefact_digest
from index_store.batch import MAX_BATCH_BYTES, Batch, Change
from index_store.checkpoint import Checkpoint, Stream, check_stream
from index_store.connection import Server, connect
from index_store.errors import (
    AccessDenied,
    ArtefactTooLarge,
    ArtefactUnreadable,
    BatchTooLarge,
    GenerationActive,
    GenerationMismatch,
    InvalidAddress,
    InvalidBatch,
    LayoutMismatch,
    LogGap,
    NotTaken,
    OutcomeUnknown,
    SequenceConflict,
    ShardDamaged,
    StaleEpoch,
    StoreError,
    StoreFull,
    StoreUnavailable,
    StreamChanged,
    UnknownGeneration,
    UnsuitableServer,
)
from index_store.follower import Follower, Snapshot
from index_store.generations import IN_STORE, LAYOUT, Column, GenerationInfo, IndexStore, ShardState
from index_store.histories import BUCKETS, History, HistoryStore, bucket_of
from index_store.history_writer import HistoryEvent, HistoryWriter
from index_store.sources import Sources
from index_store.writer import Outcome, Position, ShardWriter

__all__ = [
    "BUCKETS",
    "IN_STORE",
    "LAYOUT",
    "MAX_BATCH_BYTES",
    "AccessDenied",
    "ArtefactTooLarge",
    "ArtefactUnreadable",
    "Artefacts",
    "Batch",
    "BatchTooLarge",
    "Change",
    "Checkpoint",
    "Column",
    "Follower",
    "GenerationActive",
    "GenerationInfo",
    "GenerationMismatch",
    "History",
    "HistoryEvent",
    "HistoryStore",
    "HistoryWriter",
    "IndexStore",
    "InvalidAddress",
    "InvalidBatch",
    "LayoutMismatch",
    "LogGap",
    "NotTaken",
    "Outcome",
    "OutcomeUnknown",
    "Position",
    "SequenceConflict",
    "Server",
    "ShardDamaged",
    "ShardState",
    "ShardWriter",
    "Snapshot",
    "Sources",
    "StaleEpoch",
    "StoreError",
    "StoreFull",
    "StoreUnavailable",
    "Stream",
    "StreamChanged",
    "UnknownGeneration",
    "UnsuitableServer",
    "artefact_digest",
    "bucket_of",
    "check_stream",
    "connect",
]
