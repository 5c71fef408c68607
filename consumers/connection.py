"""A consumer's connection to Kafka: its settings, how it joins and leaves a group, and which errors end it."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from operator import methodcaller
from typing import Any, cast

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka.admin import AdminClient

from consumers.errors import IntakeFailed
from messages import Headers
from producers import describe_error, is_embedded, make_client

_log = structlog.get_logger(__name__)

_POLL_S = 0.002
_LEAVE_S = 5.0
_QUIET_S = 0.2  # many times what a broker takes to answer a heartbeat
_SAY_AGAIN_S = 600.0
_METADATA_S = 1.0  # also the longest that a wish to stop goes unheard

# For a name that is not UTF-8 the client sets an error and returns headers all the same, with a null pointer in them.
# A plain call that Python has specialised does not see the error, and using the pointer kills the process; this one
# does, the first time. The second time there is none.
_client_headers = methodcaller("headers")

_DEFAULTS: Mapping[str, object] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "fetch.wait.max.ms": 10,  # an idle fetch waits this out, and 500 ms by default
    "queued.max.messages.kbytes": 16_384,
}

# A state's position is the only beginning there is: another one would leave a gap without a word.
_POSITIONED: Mapping[str, object] = {"auto.offset.reset": "error", "enable.partition.eof": True}

# librdkafka goes on trying after every other error that is not fatal, and reports it for information only.
_BEYOND_REPAIR = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.INVALID_GROUP_ID,
        KafkaError.TOPIC_EXCEPTION,
    }
)


def consumer_settings(
    bootstrap_servers: str, group: str, options: Mapping[str, object] | None, *, positioned: bool
) -> dict[str, Any]:
    """Librdkafka's settings for a member of this group: our defaults, the user's options over them.

    positioned: every partition begins where it is told; the end of one is reported, a beginning that is not there an
    error.
    """
    given = {**_DEFAULTS, **(options or {}), **(_POSITIONED if positioned else {})}
    return {**given, "bootstrap.servers": bootstrap_servers, "group.id": group}


def is_cooperative(settings: Mapping[str, object]) -> bool:
    """Whether partitions come and go one by one in a group with these settings, or all at once."""
    strategy = str(settings.get("partition.assignment.strategy", ""))
    return settings.get("group.protocol") == "consumer" or "cooperative" in strategy


def trouble_log(topic: str) -> Callable[[KafkaError], None]:
    """A librdkafka `error_cb` that logs a kind of trouble now and then: librdkafka repeats it as long as it lasts."""
    said_at: dict[int, float] = {}

    def note(error: KafkaError) -> None:
        now = time.monotonic()
        if now - said_at.get(error.code(), -math.inf) >= _SAY_AGAIN_S:
            said_at[error.code()] = now
            _log.warning("broker trouble", topic=topic, error=describe_error(error))

    return note


def wait_for_topic(consumer: Consumer, topic: str, stopping: threading.Event, bootstrap_servers: str) -> None:
    """Return when the topic is there: a subscription may take minutes to notice that its topic exists by now."""
    said = ""
    while not stopping.is_set() and (problem := _missing(consumer, topic, bootstrap_servers)):
        if problem != said:
            _log.warning("waiting for the topic", topic=topic, error=problem)
        said = problem
        consumer.poll(0)  # for `error_cb`, which knows more about an absent broker
        stopping.wait(_METADATA_S)


def _missing(consumer: Consumer, topic: str, bootstrap_servers: str) -> str:
    """What keeps a topic from being read; nothing when it is there."""
    try:
        cluster = consumer.list_topics(topic, timeout=_METADATA_S)
        found = cluster.topics[topic]
        if found.error is None and found.partitions:
            return ""
        if is_embedded(cluster):
            # Embedded: topics come into being when they are named. Elsewhere that would give them the wrong policy.
            make_client(AdminClient, {"bootstrap.servers": bootstrap_servers}).list_topics(topic, timeout=_METADATA_S)
    except KafkaException as error:
        return str(error.args[0].str())
    return found.error.str() if found.error else "it has no partitions yet"


def leave(consumer: Consumer) -> None:
    """Leave the group, then close.

    A partition that is assigned or revoked inside of `close` can meet a group that is gone already; the client then
    waits for ever and, as it holds the interpreter's lock, so does the process. One that is on its way can come when
    nothing is assigned any more, or not yet: hence nothing is to come for a while.
    """
    try:
        consumer.unsubscribe()
        now = quiet_since = time.monotonic()
        deadline = now + _LEAVE_S
        while now < min(quiet_since + _QUIET_S, deadline):
            consumer.poll(_POLL_S)
            now = time.monotonic()
            if consumer.assignment():
                quiet_since = now
    finally:
        consumer.close()


def raise_if_beyond_repair(error: KafkaError) -> None:
    """Pass over what mends itself; raise `IntakeFailed` for what does not."""
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise IntakeFailed(
            f"the record that comes next is not there, because the topic was made anew or deletes faster than this "
            f"worker reads: start the worker again, it looks and says what to do ({error.str()})"
        )
    if error.fatal() or error.code() in _BEYOND_REPAIR:
        raise IntakeFailed(f"{error.name()}: {error.str()}")


def headers_of(message: Message) -> Headers | None:
    """A record's headers, to be asked for once; None where a name is not UTF-8."""
    try:
        return cast("Headers", _client_headers(message) or ())
    except SystemError:
        return None


def as_bytes(value: str | bytes | None) -> bytes | None:
    """A key or value as it came; the client's types allow for text, which Kafka does not have."""
    return value.encode() if isinstance(value, str) else value
