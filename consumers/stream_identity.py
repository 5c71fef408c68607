"""What a topic is now, as its broker tells: which cluster's, which one of that name, how long it keeps what."""

from collections.abc import Collection, Mapping

import structlog
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    OffsetSpec,
)

from index_store import Stream
from producers import is_embedded, make_client

_log = structlog.get_logger(__name__)

_TIMEOUT_S = 5.0
_EARLIEST, _LATEST = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]

_NOT_ALLOWED = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})


class StreamLookup:
    """Asks about one topic. Everything raises `KafkaException` where the broker does not answer, or refuses."""

    def __init__(self, bootstrap_servers: str, topic: str, options: Mapping[str, object] | None = None) -> None:
        settings = {**(options or {}), "bootstrap.servers": bootstrap_servers}
        self._admin, self._topic = make_client(AdminClient, settings), topic
        self._warned = False

    def streams(self, partitions: Collection[int]) -> dict[int, Stream]:
        """Partitions, one or more, as they are now; it takes no more questions for many than for one.

        On the embedded broker, which tells no topic ids, the name stands for the topic.
        """
        cluster = self._admin.list_topics(timeout=_TIMEOUT_S)  # of all topics: naming one could make it
        found = cluster.topics[self._topic].partitions if self._topic in cluster.topics else {}
        if absent := set(partitions) - found.keys():
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, f"{self._topic} {sorted(absent)}"))
        embedded = is_embedded(cluster)
        topic_id = self._topic if embedded else self._topic_id()
        retention_ms = None if embedded else self._delete_retention_ms()
        firsts, ends = self._offsets(partitions, _EARLIEST), self._offsets(partitions, _LATEST)
        return {
            partition: Stream(
                cluster.cluster_id or "", topic_id, len(found), firsts[partition], ends[partition], retention_ms
            )
            for partition in partitions
        }

    def committed(self, group: str, partition: int) -> int:
        """From where a group reads on, 0 where it has committed nothing."""
        asked = ConsumerGroupTopicPartitions(group, [TopicPartition(self._topic, partition)])
        answers = self._admin.list_consumer_group_offsets([asked], request_timeout=_TIMEOUT_S)
        (found,) = answers[group].result().topic_partitions
        if found.error is not None:
            raise KafkaException(found.error)
        return max(int(found.offset), 0)

    def _offsets(self, partitions: Collection[int], which: OffsetSpec) -> dict[int, int]:
        asked = {TopicPartition(self._topic, partition): which for partition in partitions}
        answers = self._admin.list_offsets(asked, request_timeout=_TIMEOUT_S)
        return {place.partition: int(answer.result().offset) for place, answer in answers.items()}

    def _topic_id(self) -> str:
        answers = self._admin.describe_topics(TopicCollection([self._topic]), request_timeout=_TIMEOUT_S)
        return str(answers[self._topic].result().topic_id)

    def _delete_retention_ms(self) -> int | None:
        """How long deletions are kept; None where none goes by age, and where this worker may not know."""
        asked = ConfigResource(ConfigResource.Type.TOPIC, self._topic)
        try:
            config = self._admin.describe_configs([asked], request_timeout=_TIMEOUT_S)[asked].result()
        except KafkaException as error:
            if error.args[0].code() not in _NOT_ALLOWED:
                raise
            if not self._warned:
                _log.warning(
                    "deletions that were missed go unnoticed: allow DESCRIBE_CONFIGS on the topic",
                    topic=self._topic, error=str(error),
                )  # fmt: skip
            self._warned = True
            return None
        compacted = "compact" in config["cleanup.policy"].value.split(",")
        return int(config["delete.retention.ms"].value) if compacted else None
