"""`hopstream index verify` finds what is wrong, and nothing else."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest

from consumers.item_writer import ItemHandler
from hopstream.inspection import topic_audit
from hopstream.inspection.verification import Report, verify
from hopstream.settings import IndexSettings, KafkaSettings, RedisSettings, Settings
from index_store import Checkpoint, IndexStore, Server, inspection
from index_store.errors import ShardDamaged
from messages import Item, decode_item, encode
from tests.consumers.stage import DEGREE, DIMENSIONS, PARAMS, RELEVANT, Stage, make_items, running, wait_until
from tests.consumers.test_item_writer import entries, entry

ROWS = 60


def check(stage: Stage, **options: Any) -> Report:
    """Verify a stage's index."""
    settings = Settings(
        index=IndexSettings(name=stage.index),
        kafka=KafkaSettings(bootstrap_servers=stage.kafka),
        redis=RedisSettings(url=stage.redis),
    )
    return verify(settings, lambda *_: nullcontext(lambda _: None), **options)


def kinds(report: Report) -> set[str]:
    """What kinds of faults were found."""
    return {fault.kind for fault in report.faults}


@pytest.fixture
def filled(kafka: str, redis: str) -> Iterator[Stage]:
    """Sixty rows in which items were put, moved and deleted; i1 and i2 are gone, i3 was put last."""
    stage = Stage(kafka, redis)
    handler = ItemHandler(stage.writing, stage.info, stage.model, PARAMS)
    handler.take(0)
    items = make_items(ROWS)
    handler.apply(0, entries(items), position(stage, 60))
    handler.apply(0, [entry("i1", None, 60), entry("i2", None, 61)], position(stage, 62))
    moved = Item("i3", vector=np.full(DIMENSIONS, 2, np.float32), tags=("moved",), timestamp_ms=2000)
    handler.apply(0, [entry("i3", moved, 62)], position(stage, 63))
    handler.release(0)
    yield stage
    stage.close()


def position(stage: Stage, offset: int) -> Checkpoint:
    """A position in the stage's stream, which is not in Kafka."""
    return Checkpoint(offset, "cluster", stage.topics.items, 4, 1000)


def test_a_sound_index_is_sound(filled: Stage) -> None:
    """Put, moved and deleted items: no fault, and the figures of what is there; twice the same."""
    report = check(filled)
    assert report.faults == ()
    assert report == check(filled)
    assert (report.sound, report.items, report.rows, report.offset, report.lag) == (True, 58, 60, 63, None)
    assert (report.seq, report.log_entries) == (7, 7)
    assert report.generation == "g1"


def write_row(stage: Stage, column: str, row: int, values: np.ndarray) -> None:
    """Overwrite one row of a column, past every rule."""
    width = next(each for each in stage.info.columns if each.name == column)
    data = np.ascontiguousarray(values, width.dtype).tobytes()
    stage.server.ask("SETRANGE", stage.info.keys(0).block(column, 0), row * width.row_bytes, data)


def links(*rows: int, width: int = DEGREE) -> np.ndarray:
    """A row of links, to neighbours if nothing else is said."""
    return np.array([*rows, *[-1] * (width - len(rows))])


def rewrite_log(stage: Stage, change: Callable[[int, dict[bytes, bytes]], dict[bytes, bytes]]) -> None:
    """Replace the log by one with other entries of the same names."""
    log = stage.info.keys(0).log
    found = stage.server.ask("XRANGE", log, "-", "+")
    stage.server.ask("DEL", log)
    for name, fields in found:
        changed = change(int(name.split(b"-")[1]), fields)
        stage.server.ask("XADD", log, name, *[part for pair in changed.items() for part in pair])


def tamper(number: int, field: bytes, value: bytes) -> Callable[[Stage], object]:
    """Let one field of one log entry be another."""
    return lambda stage: rewrite_log(stage, lambda seq, was: {**was, field: value} if seq == number else was)


def ask(key: str, command: str, *arguments: bytes | str | int) -> Callable[[Stage], object]:
    """Run a raw command on one of the shard's keys."""
    return lambda stage: stage.server.ask(command, getattr(stage.info.keys(0), key), *arguments)


def row(column: str, number: int, values: np.ndarray) -> Callable[[Stage], object]:
    """Overwrite a row."""
    return lambda stage: write_row(stage, column, number, values)


MOVED = np.full(DIMENSIONS, 2.5)
CORRUPTIONS: list[tuple[Callable[[Stage], object], set[str], str]] = [
    (ask("ids", "HSET", "ghost", 9999), {"id_out_of_range", "source_missing"}, "'ghost': row 9999 of 60"),
    (ask("ids", "HSET", "twin", 5), {"row_of_several_ids", "source_missing"}, "'twin'"),
    (ask("ids", "HSET", "i1", 1), {"id_of_freed_row", "source_missing", "log_replay_differs"}, "'i1': row 1"),
    (ask("ids", "HDEL", "i5"), {"row_without_id", "source_without_item", "log_replay_differs"}, "row 5"),
    (row("versions", 5, np.zeros(1)), {"row_never_written", "id_of_freed_row", "link_to_freed_row",
                                       "freed_row_with_links", "log_replay_differs"}, "row 5"),
    (row("neighbors", 5, links(7, 9999)), {"link_out_of_range", "log_replay_differs"}, "row 5 to 9999"),
    (row("neighbors", 5, links(7, -7)), {"link_out_of_range", "log_replay_differs"}, "row 5 to -7"),
    (row("neighbors", 5, links(7, 1)), {"link_to_freed_row", "log_replay_differs"}, "row 5 to 1"),
    (row("neighbors", 5, links(7, 5)), {"link_to_itself", "log_replay_differs"}, "row 5 to 5"),
    (row("neighbors", 5, links(7, 8, 7)), {"link_repeated", "log_replay_differs"}, "row 5 to 7"),
    (row("neighbors", 5, links()), {"row_without_links", "log_replay_differs"}, "row 5"),
    (row("neighbors", 1, links(7)), {"freed_row_with_links", "log_replay_differs"}, "row 1"),
    (row("relevant", 5, links(7, 9999, width=RELEVANT)), {"link_out_of_range", "log_replay_differs"}, "row 5 to 9999"),
    (row("relevant", 5, links(7, 1, width=RELEVANT)), {"link_to_freed_row", "log_replay_differs"}, "row 5 to 1"),
    (row("relevant", 5, links(width=RELEVANT)), {"log_replay_differs"}, "relevant"),
    (row("relevant", 1, links(7, width=RELEVANT)), {"freed_row_with_links", "log_replay_differs"}, "row 1"),
    (row("vectors", 5, MOVED), {"vector_differs", "log_replay_differs"}, "'i5': row 5"),
    (row("vectors", 5, MOVED * np.nan), {"value_not_finite", "vector_differs", "log_replay_differs"}, "of row 5"),
    (row("attributes", 5, np.arange(32)), {"attributes_differ", "log_replay_differs"}, "'i5': row 5"),
    (row("numbers", 5, np.zeros(1)), {"numbers_differ", "log_replay_differs"}, "'i5': row 5"),
    (row("numbers", 6, np.full(1, np.nan)), {"numbers_differ", "log_replay_differs"}, "'i6': row 6"),
    (row("numbers", 6, np.full(1, np.inf)), {"value_not_finite", "numbers_differ", "log_replay_differs"},
     "numbers of row 6"),
    (row("groups", 5, np.zeros(1)), {"groups_differ", "log_replay_differs"}, "'i5': row 5"),
    (ask("sources", "HDEL", "i5"), {"source_missing"}, "'i5'"),
    (ask("sources", "HSET", "ghost", b"x"), {"source_without_item"}, "'ghost'"),
    (ask("sources", "HSET", b"\xff", b"x"), {"source_without_item"}, "xff"),
    (ask("sources", "HSET", "i5", b"\xc1"), {"source_unreadable"}, "'i5'"),
    (ask("sources", "HSET", "i5", encode(Item("i6", vector=np.ones(8, np.float32), timestamp_ms=1))),
     {"source_unreadable"}, "'i5': id: is 'i6'"),
    (ask("sources", "HSET", "i5", encode(Item("i5", timestamp_ms=1))), {"source_unreadable"}, "has no vector"),
    (ask("mark", "SET", Checkpoint(9, "cluster", "t", 4, 1000).pack()), {"sources_elsewhere"}, "next_offset=9"),
    (ask("state", "HSET", "chain", "0" * 40), {"log_end_differs"}, "entry 1-7"),
    (ask("state", "HSET", "seq", 9), {"log_end_differs"}, "the state is at 1-9"),
    (ask("state", "HSET", "checkpoint", Checkpoint(9, "cluster", "t", 4, 1000).pack()),
     {"log_replay_differs", "sources_elsewhere"}, "entry 7 says"),
    (ask("log", "DEL"), {"log_end_differs"}, "no entries"),
    (ask("log", "XDEL", "1-2"), {"log_broken"}, "entry 3 comes after 1"),
    (tamper(2, b"d", b""), {"log_broken", "log_unreadable"}, "entry 2 does not follow 1"),
    (tamper(2, b"c", b"0" * 40), {"log_broken"}, "entry 3 does not follow 2"),
    (tamper(7, b"h", msgpack.packb([60, [], [], [], None, ""])), {"log_broken"}, "entry 7 is not what its chain says"),
    (tamper(3, b"h", b"\xc1"), {"log_broken", "log_unreadable"}, "entry 3"),
]  # fmt: skip


@pytest.mark.parametrize(("corrupt", "found", "example"), CORRUPTIONS)
def test_every_corruption_is_found_and_named(
    filled: Stage, corrupt: Callable[[Stage], object], found: set[str], example: str
) -> None:
    """What is wrong, and what follows from it; nothing else; an example says where."""
    corrupt(filled)
    report = check(filled)
    assert not report.sound
    assert kinds(report) == found
    assert any(example in shown for fault in report.faults for shown in fault.examples), report.faults


@pytest.mark.parametrize(
    ("corrupt", "problem"),
    [
        (ask("ids", "HSET", "x", "no row"), "an id or its row cannot be read"),
        (ask("ids", "HSET", b"\xff", 1), "an id or its row cannot be read"),
        (
            lambda stage: stage.server.ask("APPEND", stage.info.keys(0).block("vectors", 0), b"x"),
            "block 0 of column 'vectors' ends within a row",
        ),
    ],
)
def test_a_shard_that_cannot_be_read_is_an_error(
    filled: Stage, corrupt: Callable[[Stage], object], problem: str
) -> None:
    """It says what cannot be read, and what to do."""
    corrupt(filled)
    with pytest.raises(ShardDamaged, match=f"{problem}.*restore a backup"):
        check(filled)


def test_without_encoding_a_moved_vector_is_still_found_by_the_log(filled: Stage) -> None:
    """`quick` leaves out one comparison, not all."""
    write_row(filled, "vectors", 5, MOVED)
    assert kinds(check(filled, quick=True)) == {"log_replay_differs"}


def test_another_generation_that_is_further_on_is_no_fault(filled: Stage) -> None:
    """Source records are shared: those of a later position are not compared with these items."""
    filled.server.ask("SET", filled.info.keys(0).mark, position(filled, 99).pack())
    filled.server.ask("HDEL", filled.info.keys(0).sources, "i5")
    report = check(filled)
    assert report.sound
    assert any("another generation" in note for note in report.notes)


def test_a_generation_that_has_read_nothing_yet_is_sound(filled: Stage) -> None:
    """The records that another one wrote are not its fault; those that it wrote itself at an unknown position are."""
    fresh = replace(filled.info, name="g2")
    IndexStore(filled.server, filled.index).create_generation(fresh)
    report = check(filled, generation="g2")
    assert (report.faults, report.items) == ((), 0)
    assert any("another generation" in note for note in report.notes)
    filled.server.ask("HDEL", filled.info.keys(0).state, "checkpoint")
    assert "sources_elsewhere" in kinds(check(filled))


def test_another_processor_may_round_otherwise(filled: Stage) -> None:
    """A vector that is off by less than a ten-thousandth of its length is the same, one by more is not."""
    record = filled.server.ask("HGET", filled.info.keys(0).sources, "i5")
    item = decode_item(record)
    assert item.vector is not None
    for part, differs in ((5e-5, False), (2e-4, True)):
        moved = item.vector + part * np.linalg.norm(item.vector) * np.eye(DIMENSIONS)[0]
        write_row(filled, "vectors", 5, moved)
        assert ("vector_differs" in kinds(check(filled))) == differs


def test_a_writer_at_work_is_no_fault(filled: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two reads a batch puts, moves and deletes items: everything compared is of one moment."""
    monkeypatch.setattr(inspection, "_ENTRIES", 2)
    monkeypatch.setattr(inspection, "_RECORDS", 10)
    handler = ItemHandler(filled.writing, filled.info, filled.model, PARAMS)
    handler.take(0)
    done = 0

    def write() -> None:
        nonlocal done
        done += 1
        items = make_items(4, seed=done, prefix=f"n{done % 7}-")
        moved = Item("i7", vector=np.full(DIMENSIONS, done, np.float32), timestamp_ms=3000 + done)
        batch = [*items, moved, Item(f"k{done}", vector=np.ones(DIMENSIONS, np.float32), timestamp_ms=1)]
        gone = [*(f"n{(done - 3) % 7}-{n}" for n in range(4)), f"i{done}"]
        handler.apply(0, [*entries(batch), *(entry(item, None) for item in gone)], position(filled, 63 + done))

    def amid_writes(real: Callable[..., Any]) -> Callable[..., Any]:
        def asked(self: Server, *command: Any, **options: Any) -> Any:
            answer = real(self, *command, **options)
            if not self.writer:
                write()
            return answer

        return asked

    monkeypatch.setattr(Server, "ask", amid_writes(Server.ask))
    monkeypatch.setattr(Server, "ask_all", amid_writes(Server.ask_all))
    report = check(filled)
    monkeypatch.undo()
    handler.release(0)
    assert report.faults == ()
    assert done > 20
    assert check(filled).sound


@pytest.fixture
def streamed(kafka: str, redis: str) -> Iterator[Stage]:
    """An index made from its topic: sixty items, one of them put again, one deleted, one letter nobody can read."""
    stage = Stage(kafka, redis)
    items = make_items(ROWS)
    stage.producer.list_topics(stage.topics.items, timeout=10)  # makes it
    with running(stage.item_writer()):
        stage.put(items)
        stage.put([Item("i7", vector=np.full(DIMENSIONS, 2, np.float32), timestamp_ms=5000), items[7]])
        stage.produce(stage.topics.items, "i8", b"\xc1")
        stage.delete("i1")
        wait_until(lambda: stage.count() == 59, "the deletion")
        wait_until(lambda: check(stage, quick=True).lag == 0, "the end of the topic")
    yield stage
    stage.close()


def test_an_index_is_compared_with_its_topic(streamed: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound as it is; an item missing, one too many and an older one are found; a topic that goes on is not passed."""
    report = check(streamed, against_topic=True)
    assert report.faults == ()
    assert (report.items, report.offset, report.lag) == (59, 64, 0)
    sources = streamed.info.keys(0).sources
    older = Item("i7", vector=np.ones(DIMENSIONS, np.float32), timestamp_ms=4000)
    newer = Item("i6", vector=np.ones(DIMENSIONS, np.float32), timestamp_ms=9000)  # its event was compacted away
    for item in (older, newer, Item("ghost", timestamp_ms=1)):
        streamed.server.ask("HSET", sources, item.id, encode(item))
    streamed.server.ask("HDEL", sources, "i5")
    found = {fault.kind: fault.examples for fault in check(streamed, against_topic=True).faults}
    assert found["topic_item_missing"] == ("'i5'",)
    assert found["topic_item_extra"] == ("'ghost'",)
    assert found["topic_item_differs"] == ("'i7': of 4000, the topic's is of 5000",)
    monkeypatch.setattr(topic_audit, "_PAUSE_S", 0.0)
    streamed.put(make_items(1, prefix="unread"))
    report = check(streamed, against_topic=True)
    assert "topic_not_compared" in kinds(report)
    assert report.lag == 1


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"next_offset": 999}, "up to offset 999, the partition ends at 64"),
        ({"cluster_id": "elsewhere"}, "from cluster 'elsewhere'"),
        ({"topic_id": "older"}, "from topic id 'older'"),
        ({"partitions": 99}, "from partition count 99"),
    ],
)
def test_another_stream_than_the_index_was_made_from_is_a_fault(
    streamed: Stage, changed: dict[str, Any], problem: str
) -> None:
    """Another cluster, topic or number of partitions, or an end before the index's position."""
    keys = streamed.info.keys(0)
    stored = Checkpoint.unpack(streamed.server.ask("HGET", keys.state, "checkpoint"))
    assert stored is not None
    streamed.server.ask("HSET", keys.state, "checkpoint", replace(stored, **changed).pack())
    found = {fault.kind: fault.examples for fault in check(streamed).faults}
    assert found.keys() == {"stream_changed", "log_replay_differs", "sources_elsewhere"}
    assert problem in found["stream_changed"][0]
