import json
from typing import Any

import pytest

from consumers.intake import Intake
from consumers.membership import Membership
from tests.brokers import mock_kafka
from tests.consumers.stage import QUICK, wait_until

GROUP = ("Kafka to take this worker into the group g",)


def heard(**group: Any) -> Membership:
    """A subscribed consumer's membership by its client's statistics."""
    membership = Membership("t.requests", "g")
    membership.subscribed()
    membership.hear(json.dumps({"brokers": {}, "cgrp": group} if group else {"brokers": {}}))
    return membership


def test_the_topic_comes_first() -> None:
    """Before the subscription, and after the end, it is the topic that is waited for."""
    membership = Membership("t.requests", "g")
    assert membership.waiting_for == ("the topic t.requests",)
    membership.subscribed()
    assert membership.waiting_for == GROUP
    membership.left()
    assert membership.waiting_for == ("the topic t.requests",)


@pytest.mark.parametrize("assigned", [0, 4])
def test_a_steady_member_has_joined_with_or_without_partitions(assigned: int) -> None:
    """There can be more workers than partitions."""
    assert heard(state="up", join_state="steady", assignment_size=assigned, stateage=3).waiting_for == ()


def test_a_member_of_the_newer_protocol_has_joined_when_heartbeats_went_by() -> None:
    """Without partitions it says nothing else."""
    assert heard(state="up", join_state="init", assignment_size=0, stateage=10_001).waiting_for == ()


@pytest.mark.parametrize(
    "group",
    [
        {},
        {"state": "up", "join_state": "init", "assignment_size": 0, "stateage": 100},
        {"state": "up", "join_state": "wait-join", "assignment_size": 0, "stateage": 60_000},
        {"state": "query-coord", "join_state": "steady", "assignment_size": 4, "stateage": 60_000},
    ],
)
def test_who_joins_or_has_no_coordinator_is_no_member(group: dict[str, Any]) -> None:
    """A consumer keeps its partitions for a while when its broker is away, and reads nothing."""
    assert heard(**group).waiting_for == GROUP


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
