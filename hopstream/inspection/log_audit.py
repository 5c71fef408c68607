"""Whether a log is one chain that ends in the state, and whether the columns are what it says.

log_end_differs      the newest entry is not what the state says was applied last
log_broken           an entry does not follow the one before it
log_unreadable       an entry is no batch of this generation
log_replay_differs   a row, an id or the position is not what was written last
"""

from collections.abc import Iterator

import numpy as np

from index_store import Change, GenerationInfo, Snapshot
from index_store.batch import chain_of, decode
from index_store.inspection import LogEntry, Moment


class LogAudit:
    """Takes entries from the newest to the oldest: what comes first was written last and must be what is stored.

    The snapshot and the moment are of the newest entry. Before a break nothing is compared with what is stored: what
    overwrote it may be among the entries that are lost.
    """

    def __init__(self, info: GenerationInfo, snapshot: Snapshot, moment: Moment) -> None:
        self._info, self._snapshot, self._moment = info, snapshot, moment
        self._newer: LogEntry | None = None
        self._rows = {name: np.zeros(len(array), dtype=bool) for name, array in snapshot.columns.items()}
        self._ids: set[str] = set()
        self._positioned = self._broken = False
        self.entries = 0

    def faults(self, entry: LogEntry) -> Iterator[tuple[str, str]]:
        """What is wrong with the next older entry."""
        for fault in self._end_faults(entry) if self._newer is None else self._link_faults(entry, self._newer):
            self._broken = True
            yield fault
        try:
            change = decode(entry.epoch, entry.seq, entry.header, entry.data, self._info)
        except Exception as error:  # noqa: BLE001 - whatever a decoder makes of bytes that no writer has written
            yield "log_unreadable", f"entry {entry.seq}: {error}"
        else:
            if not self._broken:
                yield from self._replay_faults(change)
        self._newer = entry
        self.entries += 1

    def _end_faults(self, entry: LogEntry) -> Iterator[tuple[str, str]]:
        moment = self._moment
        if entry.seq != moment.seq or entry.chain != moment.chain or entry.epoch > moment.epoch:
            yield "log_end_differs", f"entry {entry.epoch}-{entry.seq}, the state is at {moment.epoch}-{moment.seq}"
        if chain_of(moment.previous, entry.header, entry.data) != entry.chain:
            yield "log_broken", f"entry {entry.seq} is not what its chain says"

    def _link_faults(self, entry: LogEntry, newer: LogEntry) -> Iterator[tuple[str, str]]:
        if entry.seq + 1 != newer.seq:
            yield "log_broken", f"entry {newer.seq} comes after {entry.seq}"
        elif chain_of(entry.chain, newer.header, newer.data) != newer.chain:
            yield "log_broken", f"entry {newer.seq} does not follow {entry.seq}"

    def _replay_faults(self, change: Change) -> Iterator[tuple[str, str]]:
        for name, pieces in change.columns.items():
            for rows, values in pieces:
                for row in self._differing(name, rows, values):
                    yield "log_replay_differs", f"{name} of row {row}: entry {change.seq} says otherwise"
        said: dict[str, int | None] = {**dict.fromkeys(change.ids_deleted), **change.ids_set}
        for item, place in said.items():
            if item not in self._ids and self._snapshot.ids.get(item) != place:
                yield "log_replay_differs", f"{item!r}: entry {change.seq} says row {place}"
        self._ids.update(said)
        if change.checkpoint is not None and not self._positioned:
            self._positioned = True
            if change.checkpoint != self._moment.checkpoint:
                yield "log_replay_differs", f"position: entry {change.seq} says {change.checkpoint}"

    def _differing(self, name: str, rows: np.ndarray, values: np.ndarray) -> list[int]:
        """The rows that no newer entry has written and that do not hold these values."""
        stored, newer = self._snapshot.columns[name], self._rows[name]
        within = rows < len(stored)
        rows, values = rows[within], values[within]
        _, last = np.unique(rows[::-1], return_index=True)  # of a row that comes twice, the later value counts
        rows, values = rows[::-1][last], values[::-1][last]
        fresh = ~newer[rows]
        newer[rows] = True
        rows, values = rows[fresh], values[fresh]
        # By their bytes, so that a NaN equals itself.
        differs = (stored[rows].view("u1") != np.ascontiguousarray(values).view("u1")).any(axis=1)
        found: list[int] = rows[differs].tolist()
        return found
