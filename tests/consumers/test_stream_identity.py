from concurrent.futures import Future
from typing import Any, cast
from unittest.mock import Mock

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    ClusterMetadata,
    ConfigEntry,
    PartitionMetadata,
    TopicMetadata,
)

from consumers.stream_identity import StreamLookup
from index_store import Stream
from tests.consumers.stage import Stage


class Configurations:
    """Answers as an `AdminClient` that is asked for a topic's settings."""

    def __init__(self, answer: dict[str, str] | KafkaError) -> None:
        self.answer = answer

    def describe_configs(self, resources: list[Any], request_timeout: float) -> dict[Any, "Future[Any]"]:
        """The answer, for whichever topic."""
        future: Future[Any] = Future()
        if isinstance(self.answer, KafkaError):
            future.set_exception(KafkaException(self.answer))
        else:
            future.set_result({name: ConfigEntry(name, value) for name, value in self.answer.items()})
        return {resources[0]: future}


def retention(answer: dict[str, str] | KafkaError) -> int | None:
    """How long a topic keeps deletions, whose settings are these."""
    lookup = StreamLookup("localhost:1", "t.items")
    lookup._admin = cast("Any", Configurations(answer))
    return lookup._delete_retention_ms()


def test_a_stream_is_what_its_broker_says(stage: Stage) -> None:
    """First and last offset are the partition's own; the embedded broker names a topic by its name."""
    topic = stage.topics.items
    for number in range(3):
        stage.produce(topic, f"k{number}", b"", partition=2)
    assert stage.producer.flush(20) == 0
    lookup = StreamLookup(stage.kafka, topic)
    cluster = stage.producer.list_topics(timeout=10).cluster_id or ""
    assert lookup.streams([2, 1]) == {
        2: Stream(cluster, topic, 4, 0, 3, None),
        1: Stream(cluster, topic, 4, 0, 0, None),
    }
    assert lookup.committed("nobody", 2) == 0


def test_asking_makes_no_topic(stage: Stage) -> None:
    """A topic that is not there is an error, and still not there: who makes it decides on its policy."""
    with pytest.raises(KafkaException, match="UNKNOWN_TOPIC_OR_PART"):
        StreamLookup(stage.kafka, "nowhere.items").streams([0])
    assert "nowhere.items" not in stage.producer.list_topics(timeout=10).topics


def test_a_cluster_without_a_controller_is_no_other_stream() -> None:
    """While nobody tells a topic's id, its name is not taken for it, as on the embedded broker: the error passes."""
    cluster, topic = ClusterMetadata(), TopicMetadata()
    cluster.cluster_id, cluster.controller_id, cluster.topics = "RFVqjWm0TsK", -1, {"t.items": topic}
    topic.partitions = {0: PartitionMetadata()}
    told: Future[Any] = Future()
    told.set_exception(KafkaException(KafkaError(KafkaError._TIMED_OUT)))
    lookup = StreamLookup("localhost:1", "t.items")
    lookup._admin = Mock()
    lookup._admin.list_topics.return_value = cluster
    lookup._admin.describe_topics.return_value = {"t.items": told}
    with pytest.raises(KafkaException, match="_TIMED_OUT"):
        lookup.streams([0])


def test_deletions_go_by_age_only_where_topics_are_compacted() -> None:
    """The setting counts for a compacted topic, also for one that drops old records as well."""
    kept = {"delete.retention.ms": "86400000"}
    assert retention({"cleanup.policy": "compact", **kept}) == 86_400_000
    assert retention({"cleanup.policy": "compact,delete", **kept}) == 86_400_000
    assert retention({"cleanup.policy": "delete", **kept}) is None


def test_a_worker_that_may_not_ask_for_settings_goes_on() -> None:
    """Without the right, the age is not looked at; any other error is one."""
    assert retention(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)) is None
    with pytest.raises(KafkaException, match="_TIMED_OUT"):
        retention(KafkaError(KafkaError._TIMED_OUT))
