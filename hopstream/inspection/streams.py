"""Looking at topics with little patience: nothing is joined, made or committed."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from hopstream.errors import HopstreamError
from producers import make_client

PATIENCE_S = 3.0
_STALLED_S = 30.0
_AT_ONCE = 1_000


class StreamsUnavailable(HopstreamError):
    """Kafka does not answer, or does not tell."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a partition begins and ends: the oldest offset that is kept, and the one that the next record gets."""

    low: int
    high: int


class Streams:
    """A connection to look through; close it, or use it in a `with` block. Raises `StreamsUnavailable`.

    It is made of options that librdkafka takes, or `InvalidOptions` is raised.
    """

    def __init__(self, bootstrap_servers: str, options: Mapping[str, object] | None = None) -> None:
        self._address = bootstrap_servers
        self._problem = ""
        self._consumer = make_client(Consumer, {
            "fetch.wait.max.ms": 10,
            **(options or {}),
            "bootstrap.servers": bootstrap_servers,
            "group.id": "hopstream-inspection",  # needed, though no group is joined
            "enable.auto.commit": False,
            "allow.auto.create.topics": False,
            "enable.partition.eof": True,
            "error_cb": self._remember,
        })  # fmt: skip

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def extents(self, topic: str) -> dict[int, Extent]:
        """By partition, where a topic begins and ends; empty where there is no such topic."""
        try:
            found = self._consumer.list_topics(topic, timeout=PATIENCE_S).topics[topic]
            return {partition: self.extent(topic, partition) for partition in sorted(found.partitions)}
        except KafkaException as error:
            raise self._unavailable(error) from error

    def extent(self, topic: str, partition: int) -> Extent:
        """Where one partition begins and ends now."""
        try:
            ends = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=PATIENCE_S)
        except KafkaException as error:
            raise self._unavailable(error) from error
        return Extent(*ends)

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[Message]:
        """The records of a partition from one offset to another that it has reached, as far as they are still there."""
        if start >= end:
            return
        self._consumer.assign([TopicPartition(topic, partition, start)])
        deadline = time.monotonic() + _STALLED_S
        position = start
        while position < end:
            messages = self._consumer.consume(_AT_ONCE, 0.5)
            if messages:
                deadline = time.monotonic() + _STALLED_S
            elif time.monotonic() > deadline:
                raise StreamsUnavailable(f"{topic}/{partition}: nothing came from {self._address} for {_STALLED_S} s")
            for message in messages:
                if (error := message.error()) is None:
                    position = _offset(message) + 1
                    if position <= end:
                        yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    position = max(position, _offset(message))  # what was before it has been compacted away
                else:
                    raise self._unavailable(KafkaException(error))

    def _remember(self, error: KafkaError) -> None:
        # `_ALL_BROKERS_DOWN` follows every other one and says less.
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._problem = error.str()

    def _unavailable(self, error: KafkaException) -> StreamsUnavailable:
        kafka_error: Any = error.args[0]
        detail = f" ({self._problem})" if self._problem else ""
        return StreamsUnavailable(f"Kafka at {self._address} does not tell: {kafka_error.str()}{detail}")


def _offset(message: Message) -> int:
    offset = message.offset()
    return -1 if offset is None else offset
