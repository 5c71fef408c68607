import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.events import Record
from consumers.filters import attribute_code
from consumers.item_writer import ItemHandler, last_words
from consumers.offsets import Ticket
from consumers.state_consumer import Entry
from engine.filters import Filter
from engine.index import NO_NEIGHBOR
from engine.relevance import plan_relevant
from index_store import Checkpoint, IndexStore, ShardDamaged, Sources, StaleEpoch
from messages import Item, MalformedMessage, decode_item, encode
from tests.consumers.stage import (
    DIMENSIONS,
    PARAMS,
    Stage,
    assert_holds,
    assert_sound,
    make_items,
    running,
    wait_until,
)


def entry(item: str, message: Item | None, offset: int = 0, partition: int = 0) -> Entry[Item]:
    """A record of the items topic as a handler gets it."""
    value = None if message is None else encode(message)
    return Entry(item, message, Record(Ticket(partition, offset, 1), 1, "t.items", item.encode(), value, (), 1000))


def entries(items: list[Item], first: int = 0) -> list[Entry[Item]]:
    """Records that put items, at consecutive offsets."""
    return [entry(item.id, item, first + n) for n, item in enumerate(items)]


def upto(offset: int) -> Checkpoint:
    """The position after a record."""
    return Checkpoint(offset, "cluster", "topic", 4, 1000)


def handler(stage: Stage) -> ItemHandler:
    """A handler that has taken the shard."""
    made = ItemHandler(stage.writing, stage.info, stage.model, PARAMS)
    made.take(0)
    return made


events = st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 5)), max_size=12)


@given(events, st.lists(st.integers(0, 12), max_size=3))
def test_batches_come_to_what_single_events_come_to(events: list[tuple[str, int | None]], cuts: list[int]) -> None:
    """However a stream of puts and deletions is cut into batches, the same item events remain in the end."""
    stream = [
        entry(name, None if at is None else Item(name, text=str(n), timestamp_ms=at), n)
        for n, (name, at) in enumerate(events)
    ]
    expected: dict[str, Item] = {}
    for each in stream:
        if each.message is None:
            expected.pop(each.key, None)
        elif each.key not in expected or expected[each.key].timestamp_ms <= each.message.timestamp_ms:
            expected[each.key] = each.message
    held: dict[str, Item] = {}
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut <= len(stream))})
    for first, last in pairwise(edges):
        words = last_words(stream[first:last], {item: message.timestamp_ms for item, message in held.items()})
        for item, message in words.items():
            if message is None:
                held.pop(item, None)
            else:
                held[item] = message
    assert held == expected


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 15), st.booleans()), min_size=1, max_size=12), max_size=6))
def test_any_stream_leaves_a_sound_index(kafka: str, redis: str, batches: list[list[tuple[int, bool]]]) -> None:
    """After any batches of puts and deletions the mirror holds what a dict holds, and no link leads nowhere."""
    stage = Stage(kafka, redis)
    try:
        writer, items, expected, offset = handler(stage), make_items(16), dict[str, Item](), 0
        for number, batch in enumerate(batches):
            vectors = make_items(16, seed=number)
            stream = []
            for which, keep in batch:
                name = items[which].id
                item = Item(name, vector=vectors[which].vector, timestamp_ms=number) if keep else None
                stream.append(entry(name, item, offset))
                offset += 1
                expected.pop(name, None)
                if item is not None:
                    expected[name] = item
            writer.apply(0, stream, upto(offset))
            assert_sound(stage.mirror())
        assert_holds(stage, expected.values())
        writer.release(0)
    finally:
        stage.close()


def test_an_update_keeps_the_row_and_an_older_event_changes_nothing(stage: Stage) -> None:
    """A newer event moves the item where it is; one with an earlier time moves the position only."""
    writer = handler(stage)
    writer.apply(0, entries(make_items(20)), upto(20))
    row = stage.mirror().row_of["i3"]
    new, old = np.ones(DIMENSIONS, np.float32), np.zeros(DIMENSIONS, np.float32)
    writer.apply(0, [entry("i3", Item("i3", vector=new, timestamp_ms=2000), 20)], upto(21))
    writer.apply(0, [entry("i3", Item("i3", vector=old, timestamp_ms=1999), 21)], upto(22))
    mirror = stage.mirror()
    assert mirror.row_of["i3"] == row
    assert np.array_equal(stage.stored()["i3"], new)
    assert writer.take(0) == upto(22)
    assert_sound(mirror)
    writer.release(0)


def test_what_a_writer_did_not_link_the_next_one_links(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended between the items and their links: as it would have itself, new items and one that changed."""
    items = make_items(20)
    first = handler(stage)
    first.apply(0, entries(items[:10]), upto(10))
    moved = replace(items[3], vector=items[19].vector, timestamp_ms=2000)
    stream = [*entries(items[10:], 10), entry(moved.id, moved, 20)]
    with monkeypatch.context() as patched:
        patched.setattr("consumers.item_writer.plan_relevant", Mock(side_effect=InterruptedError))
        with pytest.raises(InterruptedError):
            first.apply(0, stream, upto(21))
    between = stage.mirror().index
    rows = stage.mirror().rows([moved.id, *(item.id for item in items[10:])])
    assert bool((between.relevant[rows] == NO_NEIGHBOR).all())
    assert_holds(stage, [*items[:3], moved, *items[4:]])
    after = ItemHandler(stage.writing, stage.info, stage.model, PARAMS)
    assert after.take(0) == upto(21)
    after.check(0)
    index = stage.mirror().index
    assert bool((index.relevant[: index.rows] != NO_NEIGHBOR).all())
    expected = plan_relevant(between, np.array(rows))
    assert bool((index.relevant[expected.rows].numpy() == expected.neighbors).all())
    seq = stage.mirror().seq
    handler(stage).check(0)
    assert stage.mirror().seq == seq


def test_what_many_link_to_is_forgotten_piece_by_piece(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deletion whose links do not fit one batch: sound, and nothing links to what is gone."""
    monkeypatch.setattr("consumers.item_writer._FORGETTING", 3)
    monkeypatch.setattr("consumers.item_writer._LINKED", 4)
    writer, items = handler(stage), make_items(30)
    beat = Mock()
    writer.apply(0, entries(items), upto(30), beat)
    assert beat.call_count == 8, "one for each piece: what takes long is seen to live"
    written = stage.mirror().seq
    assert written > 1 + 1, "one batch for the items, and several for their links"
    writer.apply(0, [entry(item.id, None, 30 + n) for n, item in enumerate(items[:4])], upto(34))
    assert stage.mirror().seq > written + 2 + 1, "two batches for the deletion, and several for the links before"
    assert_sound(stage.mirror())
    assert_holds(stage, items[4:])


def test_a_freed_row_is_used_again(stage: Stage) -> None:
    """Deleting and adding does not grow the index."""
    writer = handler(stage)
    writer.apply(0, entries(make_items(30)), upto(30))
    gone = [f"i{n}" for n in range(10)]
    writer.apply(0, [entry(item, None, 30 + n) for n, item in enumerate(gone)], upto(40))
    assert_sound(stage.mirror())
    writer.apply(0, entries(make_items(10, seed=5, prefix="n"), 40), upto(50))
    mirror = stage.mirror()
    assert mirror.index.rows == 30
    assert len(mirror.row_of) == 30
    assert_sound(mirror)
    writer.release(0)


def test_a_generation_behind_leaves_the_source_records_of_the_one_ahead(stage: Stage) -> None:
    """A deletion that the one ahead has long passed takes nothing away; one behind where that stands does."""
    sources, items = Sources(stage.server, stage.index, 0), make_items(2)
    stream = [entry("i0", items[0]), entry("i1", items[1], 1), entry("i0", None, 2), entry("i0", items[0], 3)]
    ahead = handler(stage)
    for offset, each in enumerate(stream, 1):
        ahead.apply(0, [each], upto(offset))
    ahead.release(0)
    stage.info = replace(stage.info, name="g2")
    IndexStore(stage.server, stage.index).create_generation(stage.info)
    behind = handler(stage)
    for first, last in ((0, 2), (2, 3)):
        behind.apply(0, stream[first:last], upto(last))
        assert dict(sources) == {item.id: encode(item) for item in items}
    behind.apply(0, [stream[3], entry("i0", None, 4), entry("i1", None, 5)], upto(6))
    assert dict(sources) == {}
    behind.release(0)


def test_a_source_record_that_cannot_be_read_is_damage(stage: Stage) -> None:
    """It names the shard and the item, and is an error that no repetition mends."""
    writer = handler(stage)
    writer.apply(0, entries(make_items(3)), upto(3))
    stage.server.ask("HSET", stage.info.keys(0).sources, "i1", b"\xc1")
    with pytest.raises(ShardDamaged, match=r"shard 0.*item 'i1'.*restore a backup"):
        writer.apply(0, entries(make_items(3), 3), upto(6))
    writer.release(0)


def test_the_second_writer_fences_the_first(stage: Stage) -> None:
    """After a second writer has taken the shard, what the first still sends is refused and changes nothing."""
    first, second = handler(stage), handler(stage)
    with pytest.raises(StaleEpoch):
        first.apply(0, entries(make_items(5)), upto(5))
    assert stage.count() == 0
    second.apply(0, entries(make_items(5)), upto(5))
    assert stage.count() == 5
    first.release(0)
    second.release(0)


def test_what_an_item_is_filtered_by_follows_its_events(stage: Stage) -> None:
    """Tags, number and group of the newest event are in its row, and in the record that a new generation is made of."""
    writer = handler(stage)
    writer.apply(0, entries(make_items(9)), upto(9))
    moved = Item("i6", tags=("new",), group="other", vector=np.ones(DIMENSIONS, np.float32), timestamp_ms=2000)
    writer.apply(0, [entry("i6", moved, 9)], upto(10))
    index = stage.mirror().index
    assert index.numbers[:8:2].tolist() == pytest.approx([0, 0.2, 0.4, math.nan], nan_ok=True)
    assert index.groups[:8].tolist() == [attribute_code(f"group {n}") for n in (0, 1, 2, 3, 4, 5)] + [
        attribute_code("other"),
        attribute_code("group 0"),
    ]
    for wanted, rows in (
        (Filter(any_of=(attribute_code("third"), attribute_code("new"))), [0, 3, 6]),
        (Filter(high=0.6), [0, 2, 4]),
    ):
        assert np.flatnonzero(index.matching(wanted)).tolist() == rows
    ((_, record),) = Sources(stage.server, stage.index, 0).get_many(["i6"])
    assert decode_item(record) == moved
    writer.release(0)


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (Item("a", timestamp_ms=1), "vector: has no vector"),
        (Item("a", vector=np.ones(3, np.float32), timestamp_ms=1), "vector: has a vector of 3 dimensions, needs 8"),
        (
            Item("a", vector=np.ones(8, np.float32), tags=tuple(f"t{n}" for n in range(33)), timestamp_ms=1),
            "tags: more than the 32",
        ),
        (Item("b", vector=np.ones(8, np.float32), timestamp_ms=1), "id: 'b' under the key 'a'"),
    ],
)
def test_items_that_cannot_be_held_are_malformed(stage: Stage, item: Item, problem: str) -> None:
    """No vector, one of another length, more tags than the index has room for, another item's key."""
    writer = ItemHandler(stage.writing, stage.info, stage.model, PARAMS)
    with pytest.raises(MalformedMessage, match=problem):
        writer.decode("a", entry(item.id, item).record)
    with pytest.raises(MalformedMessage, match="partition: 3 is no shard"):
        writer.decode("a", entry(item.id, item, partition=3).record)


@pytest.mark.parametrize(
    "protocol",
    [
        {"group.protocol": "consumer"},
        {"group.protocol": "classic"},
        {"group.protocol": "classic", "partition.assignment.strategy": "cooperative-sticky"},
    ],
    ids=["consumer", "classic", "cooperative"],
)
def test_items_go_from_the_topic_into_the_index(new_stage: Callable[..., Stage], protocol: dict[str, str]) -> None:
    """What is put, changed and deleted on the topic is what a mirror holds afterwards, in every kind of group."""
    stage, items = new_stage(), make_items(300)
    with running(stage.item_writer(protocol)):
        stage.put(items)
        wait_until(lambda: stage.count() == 300, "300 items")
        moved = Item("i7", vector=np.full(DIMENSIONS, 2, np.float32), timestamp_ms=5000)
        stage.delete("i1", "i2")
        stage.put([moved])
        wait_until(lambda: stage.count() == 298 and stage.stored()["i7"][0] == 2, "the changes")
    expected = {item.id: item for item in [*items, moved] if item.id not in ("i1", "i2")}
    assert_holds(stage, expected.values())
    assert_sound(stage.mirror())
