"""The one joint of engine and store: a generation in memory, changed only by what the log says."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import structlog

from consumers.filters import ATTRIBUTE_WIDTH, FILTER_COLUMNS
from engine.index import ItemIndex
from engine.model import Model
from index_store import (
    Change,
    Checkpoint,
    Column,
    Follower,
    GenerationInfo,
    LogGap,
    Snapshot,
    StoreError,
    StoreUnavailable,
)

_log = structlog.get_logger(__name__)

_POLL_S = 0.2
_RETRY_S = 0.5


def columns_of(model: Model, degree: int, relevant: int = 0) -> tuple[Column, ...]:
    """The columns of a generation made by this model, each row linked to so many neighbours and relevant rows."""
    columns = [
        Column("vectors", "<f4", model.metric.dimensions),
        Column("neighbors", "<i4", degree),
        *FILTER_COLUMNS,
        Column("versions", "<i8", 1),
    ]
    if model.metric.bias_width:
        columns.append(Column("biases", "<f4", model.metric.bias_width))
    if relevant:
        columns.append(Column("relevant", "<i4", relevant))
    return tuple(columns)


class Mirror:
    """One shard of a generation, as the engine searches it, with the ids of its rows."""

    def __init__(self, info: GenerationInfo, model: Model, device: str = "cpu") -> None:
        self._info, self._model, self._device = info, model, device
        self.seq = 0
        self.row_of: dict[str, int] = {}
        self._ids: list[str] = []
        self.index = self._empty_index()

    def load(self, snapshot: Snapshot) -> None:
        """Become this snapshot, whatever was here before."""
        self.index = self._empty_index()
        self.index.load(snapshot.columns)
        self.row_of = dict(snapshot.ids)
        self._ids = [""] * snapshot.rows
        for item, row in snapshot.ids.items():
            self._ids[row] = item
        self.seq = snapshot.seq

    def apply(self, change: Change) -> None:
        """Take over the next change."""
        # The values are a view of the log entry's bytes, which torch takes for its own to write.
        columns = {name: [(rows, values.copy()) for rows, values in pieces] for name, pieces in change.columns.items()}
        self.index.apply(columns, change.rows)
        self._ids += [""] * (change.rows - len(self._ids))
        for item in change.ids_deleted:
            self.row_of.pop(item, None)
        for item, row in change.ids_set.items():
            self.row_of[item] = row
            self._ids[row] = item
        self.seq = change.seq

    def items(self, rows: np.ndarray) -> list[str]:
        """The ids of the items in these rows, int64[n]."""
        return [self._ids[row] for row in rows.tolist()]

    def rows(self, items: Iterable[str]) -> list[int]:
        """The rows of those of the items that are here."""
        return [row for item in items if (row := self.row_of.get(item)) is not None]

    @property
    def version(self) -> str:
        """What answers say of the index that they were made with."""
        return f"{self._info.name}.{self.seq}"

    def _empty_index(self) -> ItemIndex:
        widths = {column.name: column.width for column in self._info.columns}
        degree, relevant = widths["neighbors"], widths.get("relevant", 0)
        return ItemIndex(self._model.metric, degree, ATTRIBUTE_WIDTH, self._device, relevant=relevant)


@dataclass(slots=True)
class StreamPlace:
    """Where in the stream a mirror stands: at a checkpoint, or beyond it by changes that had none of their own."""

    checkpoint: Checkpoint | None = None
    beyond: bool = False

    def take_over(self, message: Snapshot | Change) -> None:
        """Stand where the mirror stands after this."""
        if message.checkpoint is not None or isinstance(message, Snapshot):
            self.checkpoint, self.beyond = message.checkpoint, False
        else:
            self.beyond = True

    def is_ahead_of(self, stored: Checkpoint | None) -> bool:
        """Whether a store that stands there has yet to read what the mirror knows.

        A position in another stream is neither ahead nor behind: what was made from it is simply another index.
        """
        mine = self.checkpoint
        if mine is None or stored is None:
            return mine is not None
        if _stream(mine) != _stream(stored):
            return False
        return stored.next_offset < mine.next_offset + self.beyond


def _stream(checkpoint: Checkpoint) -> tuple[str, str, int]:
    return checkpoint.cluster_id, checkpoint.topic_id, checkpoint.partitions


class MirrorFeed:
    """Follows a shard's log in a thread of its own and hands snapshots and changes on, in order.

    While the store does not answer, what was seen last stays. A store that lost the shard counts as one that does not
    answer, and so does one that went back (restored from an older copy), until its writer has caught up with the
    mirror: what is deleted must not come back. ``available`` says whether it answers in this sense, ``answered_at``
    when the server last answered at all, on the monotonic clock.
    """

    def __init__(self, follower: Follower, deliver: Callable[[Snapshot | Change], None]) -> None:
        self._follower, self._deliver = follower, deliver
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._place = StreamPlace()
        self._said: set[tuple[str, object]] = set()
        self.available = False
        self.answered_at = 0.0
        self._thread = threading.Thread(target=self._run, name="mirror feed", daemon=True)

    def start(self) -> None:
        """Load the shard, deliver the snapshot and begin to follow. Raises `StoreError`."""
        self._load()
        self._thread.start()

    def stop(self) -> None:
        """Follow no longer and give the lease back; harmless if it was never started."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        try:
            self._follower.close()
        except StoreError as error:
            _log.info("lease not given back", error=str(error))

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._follow()
        except Exception as error:  # noqa: BLE001 - a mirror that stands still without a word is worse than none
            self._failure = error

    def _follow(self) -> None:
        """Hand on what is new, from the log or, where that does not continue, all of it."""
        try:
            for change in self._follower.poll(_POLL_S):
                self._hand_on(change)
            self._answered()
        except LogGap as gap:
            if self.available:
                _log.warning("log gap, loading anew", error=str(gap))
            self._load_anew()
        except StoreError as error:
            self._unreadable(error)

    def _load(self) -> None:
        self._hand_on(self._follower.load())
        self._answered()

    def _load_anew(self) -> None:
        try:
            # Asked before anything is read: catching up takes long, and a snapshot is large.
            stored = self._follower.checkpoint()
            self.answered_at = time.monotonic()
            if self._place.is_ahead_of(stored):
                offset = "none" if stored is None else stored.next_offset
                self._away("store went back, answering from the mirror until it has caught up", offset=offset)
            else:
                self._load()
        except StoreError as error:
            self._unreadable(error)

    def _hand_on(self, message: Snapshot | Change) -> None:
        self._deliver(message)
        self._place.take_over(message)

    def _answered(self) -> None:
        self.answered_at, self.available = time.monotonic(), True
        self._said.clear()

    def _unreadable(self, error: StoreError) -> None:
        problem = "store away" if isinstance(error, StoreUnavailable) else "store cannot be followed"
        self._away(f"{problem}, answering from the mirror", error=str(error))

    def _away(self, event: str, **details: object) -> None:
        """Say what it is, each thing once until the store can be followed again, and look again a little later."""
        what = event, details.get("error")
        if what not in self._said:
            _log.warning(event, **details)
            self._said.add(what)
        self.available = False
        self._stopping.wait(_RETRY_S)
