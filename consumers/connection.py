"""A consumer's connection to Kafka: its settings, how it joins and leaves a group, and which errors end it."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException

from consumers.errors import IntakeFailed

_log = structlog.get_logger(__name__)

_POLL_S = 0.002
_LEAVE_S = 5.0
_METADATA_S = 1.0  # also the longest that a wish to stop goes unheard

_DEFAULTS: Mapping[str, object] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "allow.auto.create.topics": True,  # where brokers do that at all; the embedded one does it in no other way
    "fetch.wait.max.ms": 10,  # an idle fetch waits this out, and 500 ms by default
    "queued.max.messages.kbytes": 16_384,
    "log_level": 4,
}

# librdkafka goes on trying after every other error that is not fatal, and reports it for information only.
_BEYOND_REPAIR = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.INVALID_GROUP_ID,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError._AUTO_OFFSET_RESET,
    }
)


def consumer_settings(bootstrap_servers: str, group: str, options: Mapping[str, object] | None) -> dict[str, Any]:
    """Librdkafka's settings for a member of this group: our defaults, the user's options over them."""
    return {**_DEFAULTS, **(options or {}), "bootstrap.servers": bootstrap_servers, "group.id": group}


def wait_for_topic(consumer: Consumer, topic: str, stopping: threading.Event) -> None:
    """Return when the topic is there: a subscription may take minutes to notice that its topic exists by now."""
    while not stopping.is_set():
        try:
            found = consumer.list_topics(topic, timeout=_METADATA_S).topics[topic]
            if found.error is None and found.partitions:
                return
            problem = found.error and found.error.str()
        except KafkaException as error:
            problem = error.args[0].str()
        _log.warning("topic not found yet", topic=topic, error=problem)
        stopping.wait(_METADATA_S)


def leave(consumer: Consumer) -> None:
    """Leave the group, then close.

    A partition that is revoked inside of `close` can meet a group that is gone already; the client then waits for
    ever and, as it holds the interpreter's lock, so does the process.
    """
    try:
        consumer.unsubscribe()
        deadline = time.monotonic() + _LEAVE_S
        while consumer.assignment() and time.monotonic() < deadline:
            consumer.poll(_POLL_S)
    finally:
        consumer.close()


def raise_if_beyond_repair(error: KafkaError) -> None:
    """Pass over what mends itself; raise `IntakeFailed` for what does not."""
    if error.fatal() or error.code() in _BEYOND_REPAIR:
        raise IntakeFailed(f"{error.name()}: {error.str()}")


def as_bytes(value: str | bytes | None) -> bytes | None:
    """A key or value as it came; the client's types allow for text, which Kafka does not have."""
    return value.encode() if isinstance(value, str) else value
