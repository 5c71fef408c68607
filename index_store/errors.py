"""What can go wrong with the store. Every message says what to do about it.

StoreError
├── StoreUnavailable        no answer, or a server that cannot answer now
│   └── OutcomeUnknown      a write whose answer was lost: take() first, then read the position anew
├── AccessDenied            the server refuses the user, the password or the command
├── InvalidAddress          a URL with options that no connection has
├── StoreFull               maxmemory is reached
├── UnsuitableServer        too old, or with an eviction policy that loses keys
├── LayoutMismatch          the keys were written by another layout version of hopstream
├── UnknownGeneration       no generation of that name in this index (or the store was emptied)
├── GenerationActive        the generation answers, and cannot be dropped
├── GenerationMismatch      the generation is there but is not the one that was meant
├── InvalidBatch            (also a ValueError) refused before anything was sent
│   └── BatchTooLarge       over the size limit of one log entry
├── NotTaken                the writer must call take() before it applies
├── StaleEpoch              another writer took the shard
├── SequenceConflict        the batch does not follow the last one that was applied
├── LogGap                  the log does not continue where the follower stands: load anew
├── ShardDamaged            a shard holds what no writer has written
├── ArtefactTooLarge        a metric's files that the store does not take
├── ArtefactUnreadable      a metric's files that are missing from the store, or damaged there
└── StreamChanged           the stored offset belongs to another stream, or is too old
"""


class StoreError(Exception):
    """Base of everything that this room raises on purpose."""


class StoreUnavailable(StoreError):
    """The server gave no answer, or cannot answer now (loading, a replica, connection lost)."""


class OutcomeUnknown(StoreUnavailable):
    """A write may or may not have happened; `take()` tells."""


class AccessDenied(StoreError):
    """The server refuses the user, the password, or the command to this user."""


class InvalidAddress(StoreError):
    """The store's URL cannot be made sense of."""


class StoreFull(StoreError):
    """The server has reached its `maxmemory`."""


class UnsuitableServer(StoreError):
    """The server lacks functions (before 7), or may evict keys."""


class LayoutMismatch(StoreError):
    """The index was written with another layout version."""


class UnknownGeneration(StoreError):
    """There is no such generation."""


class GenerationActive(StoreError):
    """The generation answers, and cannot be dropped."""


class GenerationMismatch(StoreError):
    """The stored generation differs from the one that the caller holds."""


class InvalidBatch(StoreError, ValueError):
    """A batch that does not fit its generation; nothing was sent."""


class BatchTooLarge(InvalidBatch):
    """A batch over the size limit of one log entry; nothing was sent."""


class NotTaken(StoreError):
    """The writer holds no epoch."""


class StaleEpoch(StoreError):
    """Another writer has taken the shard since."""


class SequenceConflict(StoreError):
    """The batch does not follow what was applied last."""


class LogGap(StoreError):
    """The log does not continue where the follower stands."""


class ShardDamaged(StoreError):
    """A shard holds what no writer has written, and cannot be read."""


class ArtefactTooLarge(StoreError):
    """A metric's files that are more than the store takes."""


class ArtefactUnreadable(StoreError):
    """A metric's files that are missing from the store, or damaged there."""


class StreamChanged(StoreError):
    """A stored stream position must not be resumed from."""
