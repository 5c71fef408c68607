"""Whether a consumer is a member of its group now: the one thing that none of librdkafka's callbacks tells.

A member without partitions is never called back in one group protocol, and a member whose broker is away in none. But
the client's statistics have both.
"""

import json
import math
from collections.abc import Mapping

from consumers.metrics import PARTITIONS_HELD

SETTINGS: Mapping[str, object] = {"statistics.interval.ms": 1000}

# In the newer protocol (KIP-848) a member without partitions looks like one that has not heard from its coordinator
# yet; it must have done so when it has looked like that for as long as two heartbeats take. In the classic protocol
# whoever looks like that is no member: its topic was deleted, say.
_TWO_HEARTBEATS_US = 10_000_000


class Membership:
    """Of one consumer, whose `stats_cb` is `hear` and whose `group.protocol` is `protocol`.

    partitions: how many it has been assigned.
    """

    def __init__(self, topic: str, group: str, protocol: object) -> None:
        self._topic, self._group = topic, group
        self._newer = protocol == "consumer"
        self._idle_since = math.inf  # on librdkafka's clock, in µs
        self._subscribed = False
        self._joined = False
        self.partitions = 0

    def subscribed(self) -> None:
        """The topic is there, and the consumer has asked to join."""
        self._subscribed = True

    def hear(self, statistics: str) -> None:
        """Take in the client's statistics."""
        told = json.loads(statistics)
        group, now = told.get("cgrp", {}), told["ts"]
        connected, joining = group.get("state") == "up", group.get("join_state")
        idle = self._newer and connected and joining == "init"
        self._idle_since = min(self._idle_since, now) if idle else math.inf
        self._joined = connected and (joining == "steady" or now - self._idle_since > _TWO_HEARTBEATS_US)
        self._note(group.get("assignment_size", 0) if self._joined else 0)

    def left(self) -> None:
        """The consumer has left the group, or never was in it."""
        self._subscribed = self._joined = False
        self._note(0)

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """What has to come before the consumer reads its share of the topic; nothing when it does."""
        if not self._subscribed:
            return (f"the topic {self._topic}",)
        return () if self._joined else (f"Kafka to take this worker into the group {self._group}",)

    def _note(self, partitions: int) -> None:
        self.partitions = partitions
        PARTITIONS_HELD.labels(self._topic).set(partitions)
