import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest

from consumers import intake, state_consumer
from consumers.behavior_updater import behavior_updater
from consumers.events import Assigned, Record, Revoked
from consumers.graveyard import bury_all
from consumers.offsets import Ticket
from consumers.state_consumer import StateConsumer
from consumers.state_handler import Beat, silent
from index_store import (
    Batch,
    Checkpoint,
    HistoryStore,
    InvalidBatch,
    ShardDamaged,
    ShardWriter,
    StoreError,
    StoreUnavailable,
    StreamChanged,
    UnknownGeneration,
    connect,
)
from messages import Behavior, Item, encode, parse_dead_letter
from producers import DeliveryFailed, ProducerError, Undelivered, Writer
from tests.brokers import mock_kafka, reader
from tests.consumers.stage import (
    QUICK,
    Run,
    Stage,
    assert_holds,
    make_items,
    redis_away,
    running,
    wait_until,
)
from tests.raw_records import write_with_header
from tests.servers import redis_server
from tests.store_copies import StoreCopy

ITEMS = make_items(60)


def newer(item: Item) -> bytes:
    """An item as a release with a newer major schema would write it."""
    return bytes(msgpack.packb({**msgpack.unpackb(encode(item)), "v": (9, 0)}))


def test_unreadable_records_become_dead_letters_and_the_rest_goes_on(stage: Stage) -> None:
    """Every unreadable record is kept as it came, with its origin and the reason; the others are applied."""
    bad: list[tuple[Any, Any]] = [
        (b"junk", b"\xc1\x00"),
        (None, encode(ITEMS[0])),
        (b"\xff", encode(ITEMS[0])),
        (b"other", encode(ITEMS[0])),
        (b"flat", encode(Item("flat", vector=np.ones(3, np.float32), timestamp_ms=1))),
    ]
    for key, value in bad:
        stage.produce(stage.topics.items, key, value, headers=[("from", b"here")])
    with running(stage.item_writer()):
        stage.put(ITEMS[:5])
        wait_until(lambda: stage.count() == 5, "the readable items")
    letters = stage.letters(stage.topics.items, len(bad))
    found = {parse_dead_letter(letter.headers()).offset: letter for letter in letters}
    for offset, (key, value) in enumerate(bad):
        assert (found[offset].key(), found[offset].value()) == (key, value)
        assert ("from", b"here") in found[offset].headers()
    assert parse_dead_letter(found[3].headers()).reason == "id: 'i0' under the key 'other'"


def test_a_header_that_is_no_text_makes_a_dead_letter(stage: Stage) -> None:
    """The client cannot read the headers of such a record, but the worker goes on, also behind it."""
    stage.put(ITEMS[1:59])  # so many that Python has specialised how it calls the client
    write_with_header(stage.kafka, stage.topics.items, b"i0", encode(ITEMS[0]), b"\xff\xfe")
    stage.put(ITEMS[59:])
    with running(stage.item_writer()):
        wait_until(lambda: stage.count() == 59, "the items before and behind it")
    (letter,) = stage.letters(stage.topics.items, 1)
    assert (letter.key(), letter.value()) == (b"i0", encode(ITEMS[0]))
    assert parse_dead_letter(letter.headers()).reason == "headers: a name is not UTF-8"


def test_a_thousand_bad_records_do_not_take_minutes(stage: Stage) -> None:
    """They are buried by the batch, and the good one behind them is applied soon."""
    for number in range(1000):
        stage.produce(stage.topics.items, f"bad{number}", b"\xc1")
    with running(stage.item_writer()):
        stage.put(ITEMS[:1])
        wait_until(lambda: stage.count() == 1, "the item behind a thousand bad records", timeout_s=10)
    stage.letters(stage.topics.items, 1000)


def huge(stage: Stage, key: bytes) -> Record:
    """A record larger than Kafka takes letters."""
    value, headers = b"\xc1" * 3_000_000, [("from", b"here" * 1000)]
    return Record(Ticket(0, 7, 1), 1, stage.topics.items, key, value, headers, 0)


@pytest.mark.parametrize(("key", "kept"), [(b"k", b"k"), (b"k" * 3_000_000, None)])
def test_of_what_is_too_large_a_letter_without_the_content_remains(stage: Stage, key: bytes, kept: bytes) -> None:
    """The letter says where the record is, what is wrong with it and how large it was, and the worker goes on."""
    with Writer(stage.kafka) as writer:
        bury_all(writer, [(huge(stage, key), "nonsense")])
    (letter,) = stage.letters(stage.topics.items, 1)
    found = parse_dead_letter(letter.headers())
    assert (letter.key(), letter.value(), found.offset) == (kept, None, 7)
    assert found.reason == f"{3_000_000 + len(key)} bytes left out, too many for a letter: nonsense"


def test_a_dead_letter_that_kafka_does_not_take_is_an_error(stage: Stage) -> None:
    """Whoever buries hears of it, so that the offset does not count."""
    record, impatient = replace(huge(stage, b"k"), value=b"\xc1"), {"message.timeout.ms": 100}
    with Writer("localhost:1", impatient) as writer, pytest.raises(ProducerError, match="_MSG_TIMED_OUT"):
        bury_all(writer, [(record, "nonsense")])


def test_a_letter_that_is_not_acknowledged_keeps_its_record_open(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is away when a record is buried does not end the worker: it buries it later, and goes on."""
    refusals: list[ProducerError] = [Undelivered(1), DeliveryFailed("t", "_MSG_TIMED_OUT")]

    def bury(*arguments: Any) -> None:
        if refusals:
            raise refusals.pop()
        bury_all(*arguments)

    monkeypatch.setattr(state_consumer, "bury_all", bury)
    stage.produce(stage.topics.items, "bad", b"\xc1")
    stage.put(ITEMS[:5])
    with running(stage.item_writer()):
        wait_until(lambda: stage.count() == 5, "the items behind it")
    stage.letters(stage.topics.items, 1)
    assert not refusals


def test_a_newer_schema_pauses_the_partition_until_an_upgrade(stage: Stage) -> None:
    """What came before it is applied and no dead letter is written; whoever can read it goes on from there."""
    stage.put(ITEMS[:10])
    stage.produce(stage.topics.items, "i10", newer(ITEMS[10]))
    stage.put(ITEMS[11:20])
    writer = stage.item_writer()
    with running(writer):
        wait_until(lambda: stage.count() == 10 and not writer._held.get(0), "the items before the newer one")
        what, why = f"every partition of {stage.topics.items} to be taken", "a newer release wrote offset 10"
        said = (f"{what}: {why} of partition 0, upgrade this worker",)
        wait_until(lambda: writer.status().waiting_for == said, "a word about it")
        # Behind it comes a partition that goes on: once that is applied, the paused one has had its chance.
        stage.produce(stage.topics.items, "misled", encode(ITEMS[0]), partition=1)
        stage.letters(stage.topics.items, 1)
        assert stage.count() == 10
        assert_holds(stage, ITEMS[:10])
    upgraded = stage.item_writer()
    decode = upgraded._handler.decode
    upgraded._handler.decode = lambda key, record: ITEMS[10] if key == "i10" else decode(key, record)
    with running(upgraded):
        wait_until(lambda: stage.count() == 20, "all items")
    assert_holds(stage, ITEMS[:20])


def test_the_store_going_away_and_coming_back_loses_nothing(kafka: str) -> None:
    """What is written while the store does not answer is in the index, once, when it does again."""
    with redis_server() as url:
        stage = Stage(kafka, url)
        stage.writing.close()
        stage.writing = connect(url, writer=True, timeout_s=0.1)
        writer = stage.item_writer()
        with running(writer):
            stage.put(ITEMS[:10])
            wait_until(lambda: stage.count() == 10, "the first items")
            with redis_away(url):
                stage.put(ITEMS[10:40])
                wait_until(lambda: 0 in writer._wanted, "the writer to miss the store")
            stage.put(ITEMS[40:])
            wait_until(lambda: stage.count() == 60, "all items")
        assert_holds(stage, ITEMS)
        stage.close()


def test_a_store_that_lost_its_data_ends_the_writer(kafka: str) -> None:
    """Going on would build half an index; the error names what to do."""
    with redis_server() as url:
        stage = Stage(kafka, url)
        run = Run(stage.item_writer())
        stage.put(ITEMS[:5])
        wait_until(lambda: stage.count() == 5, "the first items")
        stage.server.ask("FLUSHALL")
        stage.put(ITEMS[5:10])
        run.thread.join(20)
        assert isinstance(run.failure, UnknownGeneration)
        stage.close()


def test_another_cluster_ends_the_writer(redis: str) -> None:
    """An offset of one Kafka means nothing in another: the writer refuses and says what to do."""
    with mock_kafka() as one, mock_kafka() as other:
        stage = Stage(one, redis)
        stage.put(ITEMS[:5])
        with running(stage.item_writer()):
            wait_until(lambda: stage.count() == 5, "the items")
        moved = Stage(other, redis, index=stage.index)
        moved.put(ITEMS[5:10])
        run = Run(moved.item_writer())
        run.thread.join(20)
        assert isinstance(run.failure, StreamChanged)
        moved.close()
        stage.close()


class Handler:
    """Keeps what it is given; refuses as it is told."""

    gaps_allowed = False

    def __init__(self, *refusals: Exception | None) -> None:
        self.refusals = list(refusals)
        self.applied: list[str] = []
        self.offset: int | None = None
        self.checkpoints: list[Checkpoint] = []
        self.held: set[int] = set()

    def keeps(self, partition: int) -> bool:
        """All of them."""
        return True

    def decode(self, key: str, record: Record) -> str:
        """The key."""
        return key

    def check(self, partition: int) -> None:
        """Nobody else writes."""

    def take(self, partition: int) -> Checkpoint | None:
        """Hold it; where it stands."""
        self.held.add(partition)
        if partition or self.offset is None:
            return None
        topic = self.topic
        return Checkpoint(self.offset, topic.cluster_id, topic.topic_id, topic.partitions, 0)

    def apply(self, partition: int, entries: Iterable[Any], checkpoint: Checkpoint, beat: Beat = silent) -> None:
        """Keep the keys, or raise the next refusal."""
        if self.refusals and (refusal := self.refusals.pop(0)):
            raise refusal
        assert partition in self.held
        self.applied += [entry.key for entry in entries]
        if partition == 0:
            self.offset, self.topic = checkpoint.next_offset, checkpoint
            self.checkpoints.append(checkpoint)

    def release(self, partition: int) -> None:
        """Hold it no longer."""
        self.held.discard(partition)


def test_a_refused_batch_comes_again_and_only_once(stage: Stage) -> None:
    """After a passing error the partition is taken anew and read from where its state stands."""
    handler = Handler(None, StoreUnavailable("no answer"), None, StoreUnavailable("no answer"))
    consumer = StateConsumer(stage.kafka, stage.topics.items, "g", handler, batch=7, kafka_options=QUICK)
    keys = [f"k{n}" for n in range(100)]
    for key in keys:
        stage.produce(stage.topics.items, key, b"")
    with running(consumer):
        wait_until(lambda: len(handler.applied) >= 100, "all records")
    assert handler.applied == keys
    assert not handler.held


@pytest.mark.parametrize("error", [InvalidBatch("does not fit"), ShardDamaged("not ours")])
def test_an_error_that_stays_ends_the_consumer(stage: Stage, error: StoreError) -> None:
    """A batch that can never be applied is not tried again for ever."""
    handler = Handler(error)
    run = Run(StateConsumer(stage.kafka, stage.topics.items, "g", handler, kafka_options=QUICK))
    stage.produce(stage.topics.items, "k", b"")
    run.thread.join(20)
    assert run.failure is error
    assert not handler.held


def test_a_worker_that_waits_for_each_partition_in_turn_is_not_stuck(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heart beats before each of them, and once more when it lets go of one."""
    handler, steps = Handler(*[StoreUnavailable("no answer")] * 4), list[str]()
    consumer: StateConsumer[str] = StateConsumer(stage.kafka, stage.topics.items, "g", handler, kafka_options=QUICK)
    monkeypatch.setattr(consumer._intake, "start_at", lambda *_: 1)
    stage.put(ITEMS[:1])  # makes the topic
    for partition in range(4):
        consumer._events.put(Assigned(partition))
    consumer._turn()
    assert consumer._held.keys() == {0, 1, 2, 3}
    apply, release = handler.apply, handler.release
    monkeypatch.setattr(consumer._heart, "beat", lambda: steps.append("beat"))
    monkeypatch.setattr(handler, "apply", lambda *batch: (steps.append("apply"), apply(*batch)))
    monkeypatch.setattr(handler, "release", lambda partition: (steps.append("release"), release(partition)))
    for partition in range(4):
        consumer._events.put(Record(Ticket(partition, 0, 1), 1, stage.topics.items, b"k", b"", (), 0))
    consumer._turn()
    assert steps[:16] == ["beat", "apply", "beat", "release"] * 4


def test_records_of_an_earlier_reading_do_not_count(stage: Stage) -> None:
    """What was queued when a partition went and came again is passed over, before and after it is taken anew."""
    handler, topic = Handler(), stage.topics.items
    stage.put(ITEMS[:5])
    consumer: StateConsumer[str] = StateConsumer(stage.kafka, topic, "g", handler, kafka_options=QUICK)
    starts: list[tuple[int, int]] = []

    def start_at(partition: int, offset: int) -> int:
        starts.append((partition, offset))
        return len(starts)

    consumer._intake.start_at = start_at  # type: ignore[method-assign]

    def record(offset: int, reading: int) -> Record:
        return Record(Ticket(0, offset, reading), reading, topic, b"%d" % offset, b"", (), 0)

    def feed(*events: Any) -> None:
        for event in events:
            consumer._events.put(event)
        consumer._turn()

    feed(Assigned(0))
    feed(record(0, 1), record(1, 1))
    assert handler.applied == ["0", "1"]
    # The partition goes and comes; the start that the poll thread acts upon first is still the old one.
    feed(record(2, 1), Revoked(0), Assigned(0), record(2, 1), record(3, 1))
    assert handler.applied == ["0", "1"]
    assert starts == [(0, 0), (0, 2)]
    feed(record(2, 1), record(2, 2), record(3, 2))
    assert handler.applied == ["0", "1", "2", "3"]
    feed(Revoked(0), record(4, 2))
    assert handler.applied == ["0", "1", "2", "3"]
    assert not handler.held


def change_streams(monkeypatch: pytest.MonkeyPatch, consumer: StateConsumer[Any], **changes: Any) -> None:
    """Let a consumer find its topic changed."""
    look = consumer._lookup.streams
    monkeypatch.setattr(
        consumer._lookup,
        "streams",
        lambda partitions: {number: replace(stream, **changes) for number, stream in look(partitions).items()},
    )


def test_a_quiet_partition_keeps_a_young_checkpoint(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where deletions go by age, the checkpoint's time moves on while a partition is read to its end."""
    handler = Handler()
    monkeypatch.setattr(state_consumer, "_LOOK_S", 0.1)
    consumer = StateConsumer(stage.kafka, stage.topics.items, "g", handler, kafka_options=QUICK)
    change_streams(monkeypatch, consumer, delete_retention_ms=60_000)
    stage.produce(stage.topics.items, "k", b"", timestamp=1000)
    assert stage.producer.flush(20) == 0
    with running(consumer):
        wait_until(lambda: len(handler.checkpoints) == 2, "the renewed checkpoint")
    first, renewed = handler.checkpoints
    assert renewed == replace(first, timestamp_ms=renewed.timestamp_ms)
    assert time.time() - 60 < first.timestamp_ms / 1000 < renewed.timestamp_ms / 1000 <= time.time()
    assert handler.applied == ["k"]


def test_a_checkpoint_is_as_old_as_its_newest_record(stage: Stage) -> None:
    """Or as the beginning of the reading, of an empty state; a producer's clock that is wrong makes it no younger."""
    handler, now = Handler(), int(time.time() * 1000)
    consumer = StateConsumer(stage.kafka, stage.topics.items, "g", handler, batch=1, kafka_options=QUICK)
    for timestamp in (1000, now + 1, now + 3_600_000):
        stage.produce(stage.topics.items, "k", b"", timestamp=timestamp)
    assert stage.producer.flush(20) == 0
    with running(consumer):
        wait_until(lambda: len(handler.checkpoints) == 3, "the records")
    times = [checkpoint.timestamp_ms for checkpoint in handler.checkpoints]
    assert now <= times[0] == times[1] <= times[2] <= int(time.time() * 1000)


def test_a_topic_made_anew_under_a_worker_ends_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the group and the client do not notice, whose offsets go on in the new topic."""
    handler = Handler()
    monkeypatch.setattr(state_consumer, "_LOOK_S", 0.1)
    consumer = StateConsumer(stage.kafka, stage.topics.items, "g", handler, kafka_options=QUICK)
    stage.put(ITEMS[:5])
    run = Run(consumer)
    wait_until(lambda: len(handler.applied) == 5, "the records")
    change_streams(monkeypatch, consumer, topic_id="another")
    run.thread.join(20)
    assert isinstance(run.failure, StreamChanged)


def test_a_position_that_is_not_there_ends_the_writer(stage: Stage) -> None:
    """Records under offsets beyond the end would be others than those that the state has."""
    stage.put(ITEMS[:5])
    with running(stage.item_writer()):
        wait_until(lambda: stage.count() == 5, "the items")
    writer = ShardWriter(stage.writing, stage.info, 0)
    position = writer.take()
    ahead = replace(position.checkpoint, next_offset=6)
    writer.apply(Batch(position.seq + 1, position.rows, checkpoint=ahead))
    run = Run(stage.item_writer())
    run.thread.join(20)
    assert isinstance(run.failure, StreamChanged)
    assert "ends at 5" in str(run.failure)


def test_records_without_a_shard_are_buried_once(stage: Stage) -> None:
    """A restarted writer goes on behind the dead letters that it has written, in partitions that its state lacks."""
    for number in range(3):
        stage.produce(stage.topics.items, f"misled{number}", b"", partition=2)
    with running(stage.item_writer()):
        stage.letters(stage.topics.items, 3)
    stage.produce(stage.topics.items, "misled again", b"", partition=2)
    with running(stage.item_writer()):
        letters = stage.letters(stage.topics.items, 4)
        stage.put(ITEMS[:5])
        wait_until(lambda: stage.count() == 5, "the items of the shard that there is")
    assert sorted(letter.key() for letter in letters) == [b"misled again", b"misled0", b"misled1", b"misled2"]
    with reader(stage.kafka, stage.topics.dead_letters(stage.topics.items)) as consumer:
        assert len(consumer.consume(5, 0.5)) == 4


def test_an_index_that_went_back_is_made_whole_though_nothing_comes(stage: Stage) -> None:
    """Restored from an older copy under a living writer, the index holds everything again by itself."""
    stage.put(ITEMS[:20])
    with running(stage.item_writer()):
        wait_until(lambda: stage.count() == 20, "the first items")
        copy = StoreCopy(stage.server, stage.index)
        stage.put(ITEMS[20:])
        stage.delete("i3")
        wait_until(lambda: stage.count() == 59, "the other items")
        copy.restore()
        wait_until(lambda: stage.count() == 59 and "i3" not in stage.stored(), "the lost items")
    assert_holds(stage, [item for item in ITEMS if item.id != "i3"])


def test_histories_that_went_back_are_made_whole_though_nothing_comes(stage: Stage) -> None:
    """Restored from an older copy under a living updater, every record counts again, once; so does an erasure."""
    histories, users = HistoryStore(stage.server, stage.index), [f"u{n}" for n in range(30)]

    def did(item: str, at: int) -> None:
        for user in users:
            stage.produce(stage.topics.behaviors, user, encode(Behavior(user, item, "view", at)))
        assert stage.producer.flush(20) == 0

    def position() -> int:
        return getattr(histories.positions().get(0), "next_offset", 0)

    with running(behavior_updater(stage.kafka, stage.writing, stage.index, QUICK)):
        did("a", 1)
        wait_until(lambda: position() == 30, "the first records")
        copy = StoreCopy(stage.server, stage.index)
        stage.produce(stage.topics.behaviors, users[0], None)
        did("b", 2)
        wait_until(lambda: position() == 61, "the other records")
        expected = histories.read(users)
        assert expected[users[0]] == {"view": [("b", 2)]}
        copy.restore()
        wait_until(lambda: position() == 61, "the lost records")
    assert histories.read(users) == expected


def test_behaviours_become_histories_and_a_null_value_erases(stage: Stage) -> None:
    """Newest first by user and behaviour, also after a restart; unreadable ones are dead letters."""
    histories = HistoryStore(stage.server, stage.index)

    def did(user: str, item: str, behavior: str, at: int) -> None:
        stage.produce(stage.topics.behaviors, user, encode(Behavior(user, item, behavior, at)))

    def updater() -> StateConsumer[Behavior]:
        return behavior_updater(stage.kafka, stage.writing, stage.index, QUICK)

    did("anna", "a", "buy", 10)
    did("anna", "b", "view", 30)
    did("anna", "c", "view", 20)
    did("ben", "a", "buy", 10)
    stage.produce(stage.topics.behaviors, "anna", encode(Behavior("ben", "a", "buy", 10)))
    with running(updater()):
        wait_until(lambda: histories.positions().get(0), "the first records")
    did("anna", "d", "view", 5)
    stage.produce(stage.topics.behaviors, "ben", None)
    with running(updater()):
        wait_until(lambda: histories.positions()[0].next_offset == 7, "all records")
    assert histories.read(["anna", "ben"]) == {
        "anna": {"buy": [("a", 10)], "view": [("b", 30), ("c", 20), ("d", 5)]},
        "ben": {},
    }
    (letter,) = stage.letters(stage.topics.behaviors, 1)
    assert parse_dead_letter(letter.headers()).reason == "user: 'ben' under the key 'anna'"


@pytest.mark.parametrize(("batch", "window_bytes"), [(2, 1 << 20), (1000, 100)])
def test_more_records_than_the_window_pass_through(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, batch: int, window_bytes: int
) -> None:
    """A partition that is paused for being full, of records or bytes, goes on when it is not; each is applied once."""
    monkeypatch.setattr(intake, "_WINDOW_BYTES", window_bytes)
    handler = Handler()
    consumer = StateConsumer(stage.kafka, stage.topics.items, "g", handler, batch=batch, kafka_options=QUICK)
    keys = [f"k{n}" for n in range(2000)]
    for key in keys:
        stage.produce(stage.topics.items, key, b"body")
    with running(consumer):
        wait_until(lambda: len(handler.applied) >= len(keys), "all records")
    assert handler.applied == keys
