"""The topic on which one client hears its answers."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from hopstream.errors import KafkaUnavailable
from messages import reply_policy
from producers import Complaints, ProducerError, TopicAdmin, make_client

__all__ = ["ReplyTopic"]

Answer = TypeVar("Answer")

_DEFAULTS: Mapping[str, object] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # Should the broker have dropped what was not read yet: go on with the oldest that it has.
    "auto.offset.reset": "earliest",
    "fetch.wait.max.ms": 10,  # an idle fetch waits this out, and 500 ms by default
    "queued.max.messages.kbytes": 16_384,
    # A topic that comes into being by being asked for has the broker's policy, not ours.
    "allow.auto.create.topics": False,
}
_SLICE_S = 0.5  # the longest wait inside librdkafka, which does not hear Ctrl-C
_PAUSE_S = 0.05  # before a question that was answered with "not yet" is asked again
_BATCH = 512


class ReplyTopic:
    """Reads all partitions of a reply topic, from where they ended when this was made; in no consumer group.

    To be used by one thread at a time.
    """

    def __init__(
        self, bootstrap_servers: str, topic: str, options: Mapping[str, object] | None = None, patience_s: float = 10.0
    ) -> None:
        """Find or make the topic and take position.

        Raises `KafkaUnavailable` after `patience_s` seconds in vain, `InvalidOptions` at once.
        """
        self.topic = topic
        self._servers, self._options = bootstrap_servers, options
        self._complaints = Complaints()
        settings: dict[str, Any] = {
            **_DEFAULTS,
            **(options or {}),
            "bootstrap.servers": bootstrap_servers,
            # The client insists on a group's name; nobody joins it and nothing is committed under it.
            "group.id": topic,
            "error_cb": self._complaints,
        }
        deadline = time.monotonic() + patience_s
        self._consumer = make_client(Consumer, settings)
        try:
            self.partitions = self._find(deadline)
            self._consumer.assign([self._end(partition, deadline) for partition in self.partitions])
            self._complaints.settle()
        except BaseException:
            self._consumer.close()
            raise

    @property
    def trouble(self) -> str:
        """What Kafka complained about, empty if it never did."""
        return str(self._complaints)

    def poll(self, timeout_s: float) -> list[Message]:
        """Return the messages that are there, waiting at most `timeout_s` seconds for the first."""
        first = self._consumer.poll(timeout_s)
        if first is None:
            return []
        messages = []
        for message in (first, *self._consumer.consume(_BATCH, 0)):
            if error := message.error():
                self._complaints(error)
            else:
                messages.append(message)
        return messages

    def close(self) -> None:
        """Leave Kafka."""
        self._consumer.close()

    def _find(self, deadline: float) -> tuple[int, ...]:
        """Return the topic's partitions; make it where it is not there yet."""
        made = False

        def partitions(timeout_s: float) -> tuple[int, ...]:
            nonlocal made
            found = self._consumer.list_topics(self.topic, timeout=timeout_s).topics[self.topic]
            if found.error and found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART and not made:
                self._make(deadline)
                made = True
            if found.error:
                raise KafkaException(found.error)
            return tuple(sorted(found.partitions))

        return self._patiently(partitions, deadline)

    def _make(self, deadline: float) -> None:
        patience_s = max(deadline - time.monotonic(), _SLICE_S)
        try:
            TopicAdmin(self._servers, self._options, patience_s=patience_s).create([reply_policy(self.topic)])
        except ProducerError as error:
            raise KafkaUnavailable(str(error)) from None

    def _end(self, partition: int, deadline: float) -> TopicPartition:
        """Return the position after the last record of a partition."""

        def end(timeout_s: float) -> int:
            here = TopicPartition(self.topic, partition)
            _, high = self._consumer.get_watermark_offsets(here, timeout=timeout_s, cached=False)
            return high

        return TopicPartition(self.topic, partition, self._patiently(end, deadline))

    def _patiently(self, ask: Callable[[float], Answer], deadline: float) -> Answer:
        """Ask in slices until there is an answer: right after its creation, a topic has no leader for a while."""
        while True:
            try:
                return ask(_SLICE_S)
            except KafkaException as error:
                self._complaints(error.args[0])
                self._consumer.poll(0)  # for what else it complains about
            if self._complaints.hopeless or time.monotonic() >= deadline:
                raise KafkaUnavailable(f"Kafka at {self._servers} does not answer for {self.topic}: {self.trouble}")
            time.sleep(_PAUSE_S)
