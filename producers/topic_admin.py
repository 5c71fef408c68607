"""Topics made by their policies, and compared with them where they are there already."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ClusterMetadata,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)

from messages import Topics
from messages.topic_policies import BROKER_DEFAULT, VITAL_SETTINGS, TopicPolicy
from producers.clients import make_client
from producers.complaints import Complaints, describe_error
from producers.errors import TopicNotDeleted, TopicNotMade, TopicsUnavailable

_SLICE_S = 0.5  # the longest wait inside librdkafka, which does not hear Ctrl-C
_PAUSE_S = 0.1
_REQUEST_S = 15.0


def is_embedded(cluster: ClusterMetadata) -> bool:
    """Whether this is the embedded broker, librdkafka's, which answers no administrative requests.

    It is known by its id: a real cluster can be without a controller as well, for a while.
    """
    return (cluster.cluster_id or "").startswith("mockCluster")


@dataclass(frozen=True, slots=True)
class Deviation:
    """A topic that is not as its policy says; `vital` where messages are lost, refused or misread by that."""

    topic: str
    setting: str
    wanted: str
    found: str
    vital: bool

    def __str__(self) -> str:
        return f"{self.topic}: {self.setting} is {self.found}, should be {self.wanted}: {self._remedy}"

    @property
    def _remedy(self) -> str:
        if self.setting == "partitions":
            return (
                "it is the number of shards and cannot be lowered: use an index of another name, or delete the topic, "
                "make it anew and load the items again"
            )
        return (
            "kafka-configs.sh --bootstrap-server HOST:PORT --alter --entity-type topics "
            f"--entity-name {self.topic} --add-config {self.setting}={self.wanted}"
        )


@dataclass(frozen=True, slots=True)
class TopicState:
    """What became of a topic.

    made: now, otherwise it was there. partitions: None where the broker chose their number just now.
    unchecked: why its settings could not be compared, empty where they could or need not be.
    """

    topic: str
    made: bool
    partitions: int | None
    deviations: tuple[Deviation, ...] = ()
    unchecked: str = ""


class TopicAdmin:
    """Makes topics on one Kafka. Raises `InvalidOptions`."""

    def __init__(
        self, bootstrap_servers: str, options: Mapping[str, object] | None = None, *, patience_s: float = 10.0
    ) -> None:
        self._servers, self._patience_s = bootstrap_servers, patience_s
        self._complaints = Complaints()
        settings: dict[str, Any] = {
            **(options or {}),
            "bootstrap.servers": bootstrap_servers,
            "error_cb": self._complaints,
        }
        self._client = make_client(AdminClient, settings)

    def create(
        self, policies: Sequence[TopicPolicy], *, replication_factor: int = BROKER_DEFAULT
    ) -> tuple[TopicState, ...]:
        """Make the topics that are missing and compare the others with their policies.

        The embedded broker, which has no controller, has no policies either: it makes topics when they are named.
        Raises `TopicsUnavailable` after `patience_s` seconds without an answer, or at once when Kafka refuses the
        credentials; `TopicNotMade` for what Kafka does not let us make.
        """
        found = self._look()
        if is_embedded(found):
            return tuple(self._name(policy) for policy in policies)
        missing = [policy for policy in policies if policy.topic not in found.topics]
        made = self._make(missing, replication_factor)
        if len(made) < len(missing):  # somebody else was quicker
            found = self._look()
        return tuple(
            TopicState(policy.topic, made=True, partitions=None if policy.partitions < 0 else policy.partitions)
            if policy.topic in made
            else self._compare(policy, found)
            for policy in policies
        )

    def delete(self, topics: Topics) -> tuple[str, ...]:
        """Delete every topic of an index, those of its clients too; the names of those that were there.

        Raises as `create` does; on the embedded broker nothing can be deleted, nor has to be.
        """
        found = self._look()
        if is_embedded(found):
            return ()
        names = [name for name in found.topics if topics.owns(name)]
        for name, outcome in self._client.delete_topics(names, request_timeout=_REQUEST_S).items() if names else ():
            try:
                outcome.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise TopicNotDeleted(name, describe_error(error.args[0])) from None
        return tuple(names)

    def _look(self) -> ClusterMetadata:
        """All topics there are; asking for one by name could make it."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return self._client.list_topics(timeout=_SLICE_S)
            except KafkaException as error:
                self._complaints(error.args[0])
                self._client.poll(0)
            if self._complaints.hopeless or time.monotonic() >= deadline:
                raise TopicsUnavailable(f"Kafka at {self._servers} does not answer: {self._complaints}")
            time.sleep(_PAUSE_S)

    def _name(self, policy: TopicPolicy) -> TopicState:
        found = self._client.list_topics(policy.topic, timeout=_REQUEST_S).topics[policy.topic]
        unchecked = "the embedded broker makes topics when they are named"
        return TopicState(policy.topic, False, len(found.partitions), unchecked=unchecked)

    def _make(self, policies: Sequence[TopicPolicy], replication_factor: int) -> set[str]:
        """Make topics; the names of those that did not come into being meanwhile."""
        if not policies:
            return set()
        topics = [
            NewTopic(policy.topic, policy.partitions, replication_factor, config=dict(policy.settings))
            for policy in policies
        ]
        outcomes = self._client.create_topics(topics, operation_timeout=_REQUEST_S, request_timeout=_REQUEST_S)
        made = set()
        for topic, outcome in outcomes.items():
            try:
                outcome.result()
                made.add(topic)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise TopicNotMade(topic, describe_error(error.args[0])) from None
        return made

    def _compare(self, policy: TopicPolicy, found: ClusterMetadata) -> TopicState:
        topic = policy.topic
        partitions = len(found.topics[topic].partitions) if topic in found.topics else None
        deviations = []
        if policy.partitions_fixed and partitions not in (None, policy.partitions):
            deviations.append(Deviation(topic, "partitions", str(policy.partitions), str(partitions), vital=True))
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        answers = self._client.describe_configs([resource], request_timeout=_REQUEST_S)
        try:
            entries: Mapping[str, ConfigEntry] = answers[resource].result()
        except KafkaException as error:
            return TopicState(topic, False, partitions, tuple(deviations), unchecked=describe_error(error.args[0]))
        values = {name: str(entry.value) for name, entry in entries.items()}
        deviations += _deviations(policy, values)
        return TopicState(topic, False, partitions, tuple(deviations))


def _deviations(policy: TopicPolicy, values: Mapping[str, str]) -> Iterator[Deviation]:
    """Where a topic's settings differ from its policy."""
    for name, wanted in policy.settings.items():
        value = values.get(name, "unknown")
        roomy = name == "max.message.bytes" and value.isdigit() and int(value) > int(wanted)
        if value != wanted and not roomy:
            yield Deviation(policy.topic, name, wanted, value, vital=name in VITAL_SETTINGS)
