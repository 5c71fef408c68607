"""What a topic is now, as its broker tells: which cluster's, which one of that name, how long it keeps what."""

from collections.abc import Mapping

import structlog
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    OffsetSpec,
)

from index_store import Stream
from producers import has_controller, make_client

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

    def stream(self, partition: int) -> Stream:
        """A partition as it is now. On the embedded broker, which tells no topic ids, the name stands for the topic."""
        cluster = self._admin.list_topics(timeout=_TIMEOUT_S)  # of all topics: naming one could make it
        topic = cluster.topics.get(self._topic)
        if topic is None or partition not in topic.partitions:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, f"{self._topic} [{partition}]"))
        real = has_controller(cluster)
        return Stream(
            cluster_id=cluster.cluster_id or "",
            topic_id=self._topic_id() if real else self._topic,
            partitions=len(topic.partitions),
            first=self._offset(partition, _EARLIEST),
            end=self.end(partition),
            delete_retention_ms=self._delete_retention_ms() if real else None,
        )

    def end(self, partition: int) -> int:
        """The offset that the next record of a partition will have."""
        return self._offset(partition, _LATEST)

    def committed(self, group: str, partition: int) -> int:
        """From where a group reads on, 0 where it has committed nothing."""
        asked = ConsumerGroupTopicPartitions(group, [TopicPartition(self._topic, partition)])
        answers = self._admin.list_consumer_group_offsets([asked], request_timeout=_TIMEOUT_S)
        (found,) = answers[group].result().topic_partitions
        if found.error is not None:
            raise KafkaException(found.error)
        return max(int(found.offset), 0)

    def _offset(self, partition: int, which: OffsetSpec) -> int:
        asked = TopicPartition(self._topic, partition)
        return int(self._admin.list_offsets({asked: which}, request_timeout=_TIMEOUT_S)[asked].result().offset)

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
