import json
from typing import Any

import pytest

from consumers.intake import Intake
from consumers.membership import Membership
from tests.brokers import mock_kafka
from tests.consumers.stage import QUICK, wait_until

GROUP = ("Kafka to take this worker into the group g",)
STEADY = {"state": "up", "join_state": "steady", "assignment_size": 4, "stateage": 60_000}
IDLE = {"state": "up", "join_state": "init", "assignment_size": 0, "stateage": 60_000}
AWAY = {"state": "query-coord", "join_state": "init", "assignment_size": 0, "stateage": 1000}


def heard(*groups: dict[str, Any], protocol: str = "classic") -> Membership:
    """A subscribed consumer's membership by its client's statistics, which come every six seconds."""
    membership = Membership("t.requests", "g", protocol)
    membership.subscribed()
    for number, group in enumerate(groups, 1):
        told = {"ts": number * 6_000_000, "brokers": {}}
        membership.hear(json.dumps({**told, "cgrp": group} if group else told))
    return membership


def test_the_topic_comes_first() -> None:
    """Before the subscription, and after the end, it is the topic that is waited for."""
    membership = Membership("t.requests", "g", "classic")
    assert membership.waiting_for == ("the topic t.requests",)
    membership.subscribed()
    assert membership.waiting_for == GROUP
    membership.left()
    assert membership.waiting_for == ("the topic t.requests",)


@pytest.mark.parametrize("assigned", [0, 4])
def test_a_steady_member_has_joined_with_or_without_partitions(assigned: int) -> None:
    """There can be more workers than partitions."""
    assert heard({**STEADY, "assignment_size": assigned}).waiting_for == ()


def test_a_member_of_the_newer_protocol_has_joined_when_heartbeats_went_by() -> None:
    """Without partitions it says nothing else. What came before it looked like that does not count."""
    assert heard(IDLE, IDLE, protocol="consumer").waiting_for == GROUP
    assert heard(IDLE, IDLE, IDLE, protocol="consumer").waiting_for == ()
    assert heard(IDLE, IDLE, AWAY, IDLE, IDLE, protocol="consumer").waiting_for == GROUP
    assert heard(STEADY, STEADY, STEADY, IDLE, protocol="consumer").waiting_for == GROUP


def test_a_member_of_the_classic_protocol_has_joined_only_when_it_says_so() -> None:
    """One whose topic was deleted leaves the group, and keeps the connection to its coordinator."""
    assert heard(STEADY, IDLE, IDLE, IDLE, IDLE).waiting_for == GROUP


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
@pytest.mark.parametrize(
    "group",
    [
        {},
        {"state": "up", "join_state": "wait-join", "assignment_size": 0, "stateage": 60_000},
        {"state": "query-coord", "join_state": "steady", "assignment_size": 4, "stateage": 60_000},
    ],
)
def test_who_joins_or_has_no_coordinator_is_no_member(group: dict[str, Any], protocol: str) -> None:
    """A consumer keeps its partitions for a while when its broker is away, and reads nothing."""
    assert heard(group, group, group, protocol=protocol).waiting_for == GROUP


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
def test_membership_of_a_real_client(protocol: str) -> None:
    """It joins, loses its broker, and is no member any more."""
    with mock_kafka() as address:
        options = {**QUICK, "group.protocol": protocol}
        intake = Intake(address, "t.requests", "g", lambda _: None, options=options)
        intake.start()
        wait_until(lambda: intake.membership.waiting_for == (), "the group")
    try:
        wait_until(lambda: intake.membership.waiting_for == GROUP, "the loss")
        assert intake.running
        assert not intake.heart.stuck
    finally:
        intake.stop()
        intake.join(30)
    assert intake.membership.waiting_for == ("the topic t.requests",)
