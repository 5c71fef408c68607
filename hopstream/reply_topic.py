"""The topic on which one client hears its answers."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from hopstream.errors import KafkaUnavailable

__all__ = ["ReplyTopic"]

Answer = TypeVar("Answer")

_DEFAULTS: Mapping[str, object] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # Should the broker have dropped what was not read yet: go on with the oldest that it has.
    "auto.offset.reset": "earliest",
    "fetch.wait.max.ms": 10,  # an idle fetch waits this out, and 500 ms by default
    "queued.max.messages.kbytes": 16_384,
    # The embedded broker makes a topic when metadata are asked for, and in no other way.
    "allow.auto.create.topics": True,
    "log_level": 4,
}
_SLICE_S = 0.5  # the longest wait inside librdkafka, which does not hear Ctrl-C
_PAUSE_S = 0.05  # before a question that was answered with "not yet" is asked again
_BATCH = 512
_RETENTION_MS = 10 * 60 * 1000


class ReplyTopic:
    """Reads all partitions of a reply topic, from where they ended when this was made; in no consumer group.

    To be used by one thread at a time. `trouble` is the last thing Kafka complained about, None if it never did.
    """

    def __init__(
        self, bootstrap_servers: str, topic: str, options: Mapping[str, object] | None = None, patience_s: float = 10.0
    ) -> None:
        """Find or make the topic and take position. Raises `KafkaUnavailable` after `patience_s` seconds in vain."""
        self.topic = topic
        self.trouble: str | None = None
        self._address: dict[str, Any] = {**(options or {}), "bootstrap.servers": bootstrap_servers}
        # The client insists on a group's name; nobody joins it and nothing is committed under it.
        settings = {**_DEFAULTS, **self._address, "group.id": topic, "error_cb": self._note}
        deadline = time.monotonic() + patience_s
        try:
            self._consumer = Consumer(settings)
        except KafkaException as error:
            raise KafkaUnavailable(f"kafka.options: {_reason(error.args[0])}") from None
        try:
            self.partitions = self._find(deadline)
            self._consumer.assign([self._end(partition, deadline) for partition in self.partitions])
        except BaseException:
            self._consumer.close()
            raise

    def poll(self, timeout_s: float) -> list[Message]:
        """Return the messages that are there, waiting at most `timeout_s` seconds for the first."""
        first = self._consumer.poll(timeout_s)
        if first is None:
            return []
        messages = []
        for message in (first, *self._consumer.consume(_BATCH, 0)):
            if error := message.error():
                self._note(error)
            else:
                messages.append(message)
        return messages

    def close(self) -> None:
        """Leave Kafka."""
        self._consumer.close()

    def _find(self, deadline: float) -> tuple[int, ...]:
        """Return the topic's partitions; make it where asking for it did not."""
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
        """Have the topic created, unless somebody else was quicker."""
        # -1: as many partitions and copies as the broker makes by default.
        policy = {"cleanup.policy": "delete", "retention.ms": str(_RETENTION_MS)}
        topic = NewTopic(self.topic, num_partitions=-1, replication_factor=-1, config=policy)
        left_s = max(deadline - time.monotonic(), _SLICE_S)
        creation = AdminClient(self._address).create_topics([topic], request_timeout=left_s)[self.topic]
        try:
            creation.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                problem = f"{self.topic} does not exist and could not be made: {_reason(error.args[0])}"
                raise KafkaUnavailable(problem) from None

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
            with suppress(KafkaException):
                return self._noting(ask)
            if time.monotonic() >= deadline:
                servers = self._address["bootstrap.servers"]
                raise KafkaUnavailable(f"Kafka at {servers} does not answer for {self.topic}: {self.trouble}")
            time.sleep(_PAUSE_S)

    def _noting(self, ask: Callable[[float], Answer]) -> Answer:
        try:
            return ask(_SLICE_S)
        except KafkaException as error:
            self._note(error.args[0])
            raise

    def _note(self, error: KafkaError) -> None:
        self.trouble = _reason(error)


def _reason(error: KafkaError) -> str:
    return f"{error.name()}: {error.str()}"
