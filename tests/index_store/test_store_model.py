"""The write path and the follower against a plain dict, whatever the order of events."""

import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from index_store import (
    Batch,
    Checkpoint,
    Column,
    Follower,
    GenerationInfo,
    IndexStore,
    NotTaken,
    Outcome,
    SequenceConflict,
    ShardWriter,
    Snapshot,
    Sources,
    StaleEpoch,
    connect,
)

WIDTHS = {"vectors": ("<f4", 3), "neighbors": ("<i4", 2)}
MOST_ROWS = 30
IDS = st.sampled_from(["a", "b", "c", "d", "é", "x" * 40])
WRITERS = st.integers(0, 1)


@st.composite
def changes(draw: st.DrawFn, rows_before: int) -> dict[str, Any]:
    """The fields of a batch, but for `seq`: random ranges, ids, source records, sometimes a checkpoint."""
    rows = draw(st.integers(rows_before, min(rows_before + 9, MOST_ROWS)))
    columns = {}
    for name in draw(st.sets(st.sampled_from(sorted(WIDTHS)))) if rows else ():
        dtype, width = WIDTHS[name]
        pieces = []
        for where in draw(st.lists(st.lists(st.integers(0, rows - 1), max_size=12), max_size=3)):
            where = sorted(where) if draw(st.booleans()) else where
            first = draw(st.integers(0, 1_000))
            values = np.arange(first, first + len(where) * width).astype(dtype).reshape(-1, width)
            pieces.append((np.array(where, np.int64), values))
        columns[name] = pieces
    ids_set = draw(st.dictionaries(IDS, st.integers(0, rows - 1))) if rows else {}
    return {
        "rows": rows,
        "columns": columns,
        "ids_set": ids_set,
        "ids_deleted": sorted(draw(st.sets(IDS)) - ids_set.keys()),
        "sources": draw(st.dictionaries(IDS, st.none() | st.binary(max_size=8))),
        "checkpoint": draw(st.none() | st.builds(Checkpoint, st.integers(0, 2**40), *map(st.just, ("c", "t", 1, 0)))),
    }


class StoreMachine(RuleBasedStateMachine):
    """Two writers that take the shard from each other, a follower that joins at any time."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.server, self.writing = connect(self.url), connect(self.url, writer=True)
        self.info = GenerationInfo(
            f"i{uuid.uuid4().hex}", "g", "inner_product", "1", "file:///m", "0" * 64,
            tuple(Column(name, *shape) for name, shape in WIDTHS.items()), block_rows=4,
        )  # fmt: skip
        self.model = Snapshot(0, 0, 0, {c.name: c.zeros(0) for c in self.info.columns}, {})
        self.sources: dict[str, bytes] = {}
        self.checkpoint: Checkpoint | None = None
        self.mark = -1  # the furthest checkpoint that came with source records
        self.last: Batch | None = None
        self.held: list[int | None] = [None, None]  # each writer's epoch
        self.epoch = self.current = 0
        self.follower: Follower | None = None
        self.mirror: Snapshot | None = None

    @initialize()
    def create(self) -> None:
        """The shard is there and empty."""
        IndexStore(self.server, self.info.index).create_generation(self.info)
        self.writers = [ShardWriter(self.writing, self.info, 0) for _ in range(2)]

    @rule(who=WRITERS)
    def take(self, who: int) -> None:
        """Taking shows where the shard stands and increments the epoch."""
        position = self.writers[who].take()
        self.epoch += 1
        self.held[who], self.current = self.epoch, who
        assert (position.epoch, position.seq, position.rows) == (self.epoch, self.model.seq, self.model.rows)
        assert position.checkpoint == self.checkpoint

    @rule(data=st.data(), batches=st.integers(1, 4))
    def apply(self, data: st.DataObject, batches: int) -> None:
        """The writer of the current epoch applies the next batches."""
        for _ in range(batches):
            batch = Batch(self.model.seq + 1, **data.draw(changes(self.model.rows)))
            assert self._current_writer().apply(batch) is Outcome.APPLIED
            self._apply_to_model(batch)

    @rule()
    def apply_again(self) -> None:
        """The last batch once more changes nothing, also under a later epoch."""
        if self.last is not None:
            assert self._current_writer().apply(self.last) is Outcome.DUPLICATE

    @rule(ahead=st.sampled_from([-1, 0, 2]), data=st.data())
    def conflict(self, ahead: int, data: st.DataObject) -> None:
        """Another batch under a used number, or one that leaves a number out, is refused until the next take."""
        fields = data.draw(changes(self.model.rows))
        batch = Batch(self.model.seq + ahead, **{**fields, "sources": {"only in the conflict": b"!"}})
        with pytest.raises(SequenceConflict):
            self._current_writer().apply(batch)
        self.held[self.current] = None

    @rule(data=st.data())
    def apply_without_right(self, data: st.DataObject) -> None:
        """The writer that is not the current one is refused."""
        other = 1 - self.current
        batch = Batch(self.model.seq + 1, **data.draw(changes(self.model.rows)))
        with pytest.raises(NotTaken if self.held[other] is None else StaleEpoch):
            self.writers[other].apply(batch)
        self.held[other] = None

    @rule()
    def lose_functions(self) -> None:
        """A server that has lost the function library gets it again."""
        self.server.ask("FUNCTION", "FLUSH")

    @rule()
    def start_follower(self) -> None:
        """A follower may begin at any time."""
        self.stop_follower()
        self.follower = Follower(self.server, self.info, 0)
        self.mirror = self.follower.load()
        self._agree(self.mirror)

    @rule()
    def follow(self) -> None:
        """After the changes it was given, the follower has what the model has."""
        if self.follower is None or self.mirror is None:
            return
        for change in self.follower.poll():
            assert change.seq == self.mirror.seq + 1
            self.mirror.replay(change)
        self._agree(self.mirror)

    @invariant()
    def sources_agree(self) -> None:
        """Source records are those of the batches applied."""
        assert dict(Sources(self.server, self.info.index, 0)) == self.sources

    def teardown(self) -> None:
        """In the end a follower that kept up and one that begins now both have it all."""
        self.follow()
        self.start_follower()
        self.stop_follower()
        self.server.close()
        self.writing.close()

    def stop_follower(self) -> None:
        """Release its lease."""
        if self.follower is not None:
            self.follower.close()

    def _current_writer(self) -> ShardWriter:
        if self.held[self.current] is None:
            self.take(who=self.current)
        return self.writers[self.current]

    def _apply_to_model(self, batch: Batch) -> None:
        model = self.model
        for name, array in model.columns.items():
            grown = np.zeros((batch.rows, array.shape[1]), array.dtype)
            grown[: len(array)] = array
            for where, values in batch.columns.get(name, ()):
                for row, value in zip(where, values, strict=True):
                    grown[row] = value
            model.columns[name] = grown
        model.ids = {k: v for k, v in model.ids.items() if k not in batch.ids_deleted} | dict(batch.ids_set)
        self.checkpoint = batch.checkpoint or self.checkpoint
        position = self.checkpoint.next_offset if self.checkpoint else -1
        if position >= self.mark:
            self.mark = position
            self.sources = {k: v for k, v in (self.sources | dict(batch.sources)).items() if v is not None}
        model.seq, model.rows, self.last = batch.seq, batch.rows, batch

    def _agree(self, found: Snapshot) -> None:
        assert (found.seq, found.rows, found.ids) == (self.model.seq, self.model.rows, self.model.ids)
        for name, array in self.model.columns.items():
            np.testing.assert_array_equal(found.columns[name], array)


def test_any_sequence_of_events_leaves_what_the_model_holds(url: str) -> None:
    """Writers, duplicates, conflicts, lost functions and late followers in any order agree with a dict."""
    StoreMachine.url = url
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=50,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
