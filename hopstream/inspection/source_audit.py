"""Whether the items of a shard are what their source records say.

source_missing       an item without a record
source_without_item  a record without an item
source_unreadable    a record that is no item, or another one
vector_differs       an item is not where its record would be placed now
attributes_differ    an item has other tags than its record
numbers_differ       an item has another number than its record, or one where that has none
groups_differ        an item is of another group than its record
sources_elsewhere    the records go up to another position in the stream than the items
"""

from collections.abc import Iterator, Mapping

import numpy as np

from consumers.filters import filter_values, require_room
from engine.model import Model
from index_store import Snapshot
from index_store.inspection import Moment
from messages import Item, MalformedMessage, MessageError, decode_item

#: Of a vector's length: what a product differs by between processors and builds of a library, with room to spare.
_TOLERANCE = 1e-4


class SourceAudit:
    """Compares records with a snapshot of the moment in which they were read. Without a model, not where items are."""

    def __init__(self, model: Model | None) -> None:
        self._model = model
        self.seen: set[str] = set()

    def faults(self, records: Mapping[str, bytes | None], snapshot: Snapshot) -> Iterator[tuple[str, str]]:
        """What is wrong with these records; None stands for a missing one."""
        self.seen.update(records)
        readable: list[tuple[Item, int]] = []
        for name, record in records.items():
            row = snapshot.ids.get(name)
            if record is None:
                if row is not None:
                    yield "source_missing", repr(name)
            elif row is None:
                yield "source_without_item", repr(name)
            else:
                try:
                    readable.append((self._read(name, record), row))
                except MessageError as error:
                    yield "source_unreadable", f"{name!r}: {error}"
        readable = [(item, row) for item, row in readable if 0 <= row < snapshot.rows]
        if readable:
            items, rows = [item for item, _ in readable], np.array([row for _, row in readable])
            yield from _filter_faults(items, rows, snapshot)
            if self._model is not None:
                yield from _placement_faults(self._model, items, rows, snapshot)

    def _read(self, name: str, record: bytes) -> Item:
        item = decode_item(record)
        if item.id != name:
            raise MalformedMessage("id", f"is {item.id!r}")
        require_room(item)
        if self._model is not None and (problem := self._model.encoder.problem(item.vector)):
            raise MalformedMessage("vector", problem)
        return item


def _filter_faults(items: list[Item], rows: np.ndarray, snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    for name, expected in filter_values(items).items():
        # By their bits, so that the NaN of no number equals itself.
        differs = (snapshot.columns[name][rows].view(np.int64) != expected.view(np.int64)).any(axis=1)
        for place in np.flatnonzero(differs).tolist():
            yield f"{name}_differ", f"{items[place].id!r}: row {rows[place]}"


def _placement_faults(
    model: Model, items: list[Item], rows: np.ndarray, snapshot: Snapshot
) -> Iterator[tuple[str, str]]:
    vectors, biases = model.encoder.encode(
        [item.id for item in items],
        [item.text for item in items],
        [item.tags for item in items],
        [item.vector for item in items],
    )
    differs = _differs(snapshot.columns["vectors"][rows], vectors)
    if model.metric.bias_width:
        differs |= _differs(snapshot.columns["biases"][rows], biases)
    for place in np.flatnonzero(differs).tolist():
        yield "vector_differs", f"{items[place].id!r}: row {rows[place]}"


def _differs(stored: np.ndarray, encoded: np.ndarray) -> np.ndarray:
    wide = encoded.astype(np.float64)  # in which no square overflows
    close = np.linalg.norm(stored - wide, axis=1) <= _TOLERANCE * np.linalg.norm(wide, axis=1)
    differs: np.ndarray = ~close  # NaN is close to nothing
    return differs


def position_faults(moment: Moment) -> Iterator[tuple[str, str]]:
    """Whether items and records were written together."""
    if moment.mark != moment.checkpoint:
        yield "sources_elsewhere", f"records: {moment.mark}, items: {moment.checkpoint}"


def sources_are_ahead(moment: Moment) -> bool:
    """Whether another generation's writer, further on in the same stream, has written the records since."""
    mark, mine = moment.mark, moment.checkpoint
    if mark is None:
        return False
    if mine is None:
        return moment.seq == 0  # nothing was written to this generation yet
    same = (mark.cluster_id, mark.topic_id) == (mine.cluster_id, mine.topic_id)
    return same and mark.next_offset > mine.next_offset
