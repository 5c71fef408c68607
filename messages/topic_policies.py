"""How the topics of an index keep their records, in the words of Kafka's topic settings."""

from collections.abc import Mapping
from dataclasses import dataclass

from messages.topics import Topics

_MINUTE_MS = 60_000
_DAY_MS = 24 * 60 * _MINUTE_MS
# Kafka's default, said here because brokers may have another: every message fits in, and a producer's batch of many.
_BATCH_BYTES = 1_048_588
# A dead letter is a record as it came, which may fill a batch of its topic, and headers on top.
_LETTER_BYTES = 2 * _BATCH_BYTES

BROKER_DEFAULT = -1
"""As many partitions or copies as the broker makes when it is not told."""


@dataclass(frozen=True, slots=True)
class TopicPolicy:
    """What a topic should be.

    partitions: to make it with; another number is wrong only where they are `partitions_fixed`.
    settings: Kafka's, by name; a larger `max.message.bytes` does as well.
    """

    topic: str
    partitions: int
    settings: Mapping[str, str]
    partitions_fixed: bool = False


#: Settings without which messages are lost, refused or misread; the others only decide how long they are kept.
VITAL_SETTINGS = frozenset({"cleanup.policy", "message.timestamp.type", "max.message.bytes"})


def policies(topics: Topics, *, partitions: int, shards: int = 1) -> tuple[TopicPolicy, ...]:
    """The topics that an index lives on, `partitions` of requests and of behaviours; clients make their own."""
    # An hour is the longest time-out of a request; its age is the broker's to say, see `timeout_ms`.
    requests = {**_deleted(60 * _MINUTE_MS), "message.timestamp.type": "LogAppendTime"}
    live = (
        TopicPolicy(topics.requests, partitions, requests),
        TopicPolicy(topics.requests_high, partitions, requests),
        TopicPolicy(topics.items, shards, _compacted(7 * _DAY_MS), partitions_fixed=True),
        TopicPolicy(topics.behaviors, partitions, _deleted(30 * _DAY_MS)),
    )
    dead = (TopicPolicy(Topics.dead_letters(policy.topic), 1, _deleted(30 * _DAY_MS, _LETTER_BYTES)) for policy in live)
    return (*live, *dead)


def reply_policy(topic: str) -> TopicPolicy:
    """A reply topic: answers are read at once, or never."""
    return TopicPolicy(topic, BROKER_DEFAULT, _deleted(10 * _MINUTE_MS))


def _deleted(retention_ms: int, batch_bytes: int = _BATCH_BYTES) -> dict[str, str]:
    """Records go when they are older; a segment goes as a whole, so none may gather more than that time."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(retention_ms),
        "segment.ms": str(min(retention_ms, _DAY_MS)),
        "max.message.bytes": str(batch_bytes),
    }


def _compacted(delete_retention_ms: int) -> dict[str, str]:
    """The newest record of every key stays; a deletion can be seen for so long by whoever reads late."""
    return {
        "cleanup.policy": "compact",
        "delete.retention.ms": str(delete_retention_ms),
        "max.message.bytes": str(_BATCH_BYTES),
    }
