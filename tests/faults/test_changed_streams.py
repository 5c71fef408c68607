"""Topics that are no longer the ones an index was made from: the worker refuses, and says what to do."""

from contextlib import closing

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from consumers.behavior_updater import behavior_updater
from index_store import Checkpoint, HistoryStore, IndexStore
from messages import Behavior, encode
from tests.brokers import delete_topics, make_topic, mock_kafka, reader
from tests.consumers.stage import QUICK, Stage, make_items, running, wait_until
from tests.integration.processes import hopstream

ITEMS = make_items(21)
KINDS = pytest.mark.parametrize("kind", ["items", "behaviors"])
COMPACTED_AT_ONCE = {
    "cleanup.policy": "compact",
    "segment.ms": "100",
    "min.cleanable.dirty.ratio": "0.001",
    "delete.retention.ms": "100",
}

State = tuple[int, int, Checkpoint | None, dict[int, Checkpoint]]


def state(stage: Stage) -> State:
    """Where the shard and the histories stand."""
    shard = IndexStore(stage.server, stage.index).shard(stage.info, 0)
    return shard.seq, shard.rows, shard.checkpoint, HistoryStore(stage.server, stage.index).positions()


def apply_some(stage: Stage) -> None:
    """Make a state out of both topics."""
    updater = behavior_updater(stage.kafka, stage.writing, stage.index, QUICK)
    with running(stage.item_writer()), running(updater):
        stage.put(ITEMS[:20])
        write(stage, "behaviors")
        wait_until(lambda: stage.count() == 20, "the items")
        wait_until(lambda: 0 in HistoryStore(stage.server, stage.index).positions(), "the behaviour")


def write(stage: Stage, kind: str) -> None:
    """Write one more record to a topic."""
    if kind == "items":
        stage.put(ITEMS[20:])
    else:
        stage.produce(stage.topics.behaviors, "u", encode(Behavior("u", "i1", "view", 1)))
        assert stage.producer.flush(20) == 0


def assert_refused(stage: Stage, kind: str, what: str) -> None:
    """With a record to be applied, the worker ends with 1, names what is wrong and what to do, and applies nothing."""
    before = state(stage)
    write(stage, kind)
    with hopstream(stage, "serve", "updates", options=QUICK) as worker:
        wait_until(lambda: worker.poll() is not None, "the worker to refuse")
        said = worker.output
    assert worker.returncode == 1
    reason = said.splitlines()[-1]
    assert what in reason, said
    assert "hopstream index create" in reason, said
    assert "Traceback" not in said
    assert state(stage) == before


@KINDS
def test_a_topic_made_anew_is_refused(real_kafka: str, stage: Stage, kind: str) -> None:
    """The same name, but another topic: the offsets of the one say nothing of the other."""
    apply_some(stage)
    topic = getattr(stage.topics, kind)
    delete_topics(real_kafka, topic)
    for name in (topic, stage.topics.dead_letters(topic)):
        make_topic(real_kafka, name, partitions=1)
    assert_refused(stage, kind, "topic id")


@KINDS
def test_another_number_of_partitions_is_refused(real_kafka: str, stage: Stage, kind: str) -> None:
    """Keys lie in other partitions now, behind which their older events do not count as older."""
    apply_some(stage)
    admin, topic = AdminClient({"bootstrap.servers": real_kafka}), getattr(stage.topics, kind)
    admin.create_partitions([NewPartitions(topic, 5)])[topic].result()
    assert_refused(stage, kind, "partition count")


def test_another_cluster_is_refused(real_kafka: str, redis: str) -> None:
    """The store of one cluster's index, the address of another: here the embedded broker's and the real one's."""
    with mock_kafka() as embedded, closing(Stage(embedded, redis)) as made:
        apply_some(made)
        with closing(Stage(real_kafka, redis, index=made.index)) as stage:
            assert_refused(stage, "items", "cluster")


def test_a_deletion_that_was_compacted_away_is_refused(real_kafka: str, stage: Stage) -> None:
    """The writer was away for so long that a deletion went unread: what it deleted would stay for ever."""
    delete_topics(real_kafka, stage.topics.items)
    for name in (stage.topics.items, stage.topics.dead_letters(stage.topics.items)):
        make_topic(real_kafka, name, partitions=1, policy=COMPACTED_AT_ONCE)
    apply_some(stage)
    stage.delete("i0")

    def deletion_is_gone() -> bool:
        stage.put(ITEMS[1:2])  # compaction leaves the newest segment alone, and a record has to begin another
        return b"i0" not in keys(stage)

    wait_until(deletion_is_gone, "the deletion to be compacted away")
    assert_refused(stage, "items", "delete.retention.ms")


def keys(stage: Stage) -> set[bytes]:
    """The keys of the records that the items topic still has."""
    found: set[bytes] = set()
    with reader(stage.kafka, stage.topics.items) as consumer:
        (here,) = consumer.assignment()
        end = consumer.get_watermark_offsets(here, timeout=10)[1]
        while consumer.position([here])[0].offset < end:
            found |= {message.key() for message in consumer.consume(1000, 0.1)}
    return found
