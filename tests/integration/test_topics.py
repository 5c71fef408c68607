"""Topics as a real broker keeps them: made by their policies, found again, and compared."""

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
)

from hopstream import RecommendClient
from messages import Topics, policies
from tests.brokers import delete_topics, mock_kafka


@pytest.fixture
def index(real_kafka: str) -> Iterator[str]:
    """The name of an index whose topics go at the end."""
    name = f"t{uuid.uuid4().hex[:10]}"
    yield name
    delete_topics(real_kafka, f"{name}.")


def create(kafka: str, index: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `hopstream topics create --json`."""
    command = [sys.executable, "-m", "hopstream", "--kafka", kafka, "--index", index, "topics", "create", "--json"]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=120, check=False)


def settings_of(kafka: str, topic: str) -> Mapping[str, str]:
    """A topic's settings as the broker tells them."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    admin = AdminClient({"bootstrap.servers": kafka})
    entries = admin.describe_configs([resource])[resource].result(30)
    return {name: entry.value for name, entry in entries.items()}


def change(kafka: str, topic: str, setting: str, value: str) -> None:
    """Change one setting of a topic."""
    entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.incremental_alter_configs([resource])[resource].result(30)


def test_topics_are_made_by_their_policies_once(real_kafka: str, index: str) -> None:
    """The first call makes all of them as the policies say; the second finds them there, in order."""
    first, second = create(real_kafka, index, "--partitions", "3"), create(real_kafka, index)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    wanted = policies(Topics(index), partitions=3)
    for policy in wanted:
        told = settings_of(real_kafka, policy.topic)
        assert {name: told[name] for name in policy.settings} == policy.settings
    for done, made in ((first, True), (second, False)):
        assert json.loads(done.stdout)["topics"] == [
            {"topic": p.topic, "made": made, "partitions": p.partitions, "deviations": [], "unchecked": ""}
            for p in wanted
        ]


@pytest.mark.parametrize(
    ("topic", "setting", "value", "vital"),
    [
        ("items", "cleanup.policy", "delete", True),
        ("items", "cleanup.policy", "compact,delete", True),
        ("requests", "message.timestamp.type", "CreateTime", True),
        ("requests", "max.message.bytes", "1000", True),
        ("requests", "max.message.bytes", "9000000", None),
        ("items", "delete.retention.ms", "1000", False),
        ("behaviors", "retention.ms", "86400000", False),
    ],
)
def test_a_topic_that_differs_is_told(
    real_kafka: str, index: str, topic: str, setting: str, value: str, vital: bool | None
) -> None:
    """What breaks an index fails with the difference and a remedy, mere retention is told, a larger size is fine."""
    assert create(real_kafka, index).returncode == 0
    name = f"{index}.{topic}"
    change(real_kafka, name, setting, value)
    done = create(real_kafka, index)
    assert done.returncode == (1 if vital else 0)
    found = [deviation for state in json.loads(done.stdout)["topics"] for deviation in state["deviations"]]
    wanted = next(policy for policy in policies(Topics(index), partitions=4) if policy.topic == name).settings[setting]
    expected = {"topic": name, "setting": setting, "wanted": wanted, "found": value, "vital": vital}
    assert found == ([] if vital is None else [expected])
    if vital:
        assert f"{name}: {setting} is {value}, should be {wanted}: kafka-configs.sh" in done.stderr


def test_more_partitions_than_shards_are_refused(real_kafka: str, index: str) -> None:
    """Items in partitions beyond the shards would reach no index; more partitions of requests are welcome."""
    assert create(real_kafka, index).returncode == 0
    admin = AdminClient({"bootstrap.servers": real_kafka})
    for topic in (f"{index}.items", f"{index}.requests"):
        admin.create_partitions([NewPartitions(topic, 6)])[topic].result(30)
    done = create(real_kafka, index)
    assert done.returncode == 1
    assert f"{index}.items: partitions is 6, should be 1" in done.stderr
    assert "requests" not in done.stderr


def test_a_reply_topic_has_its_own_policy(real_kafka: str, index: str) -> None:
    """A client makes it, whatever the broker's defaults, and finds it again."""
    for _ in range(2):
        with RecommendClient(real_kafka, index, client_id="me") as client:
            told = settings_of(real_kafka, client.reply_topic)
            assert (told["cleanup.policy"], told["retention.ms"]) == ("delete", "600000")


def test_the_embedded_broker_makes_topics_when_they_are_named() -> None:
    """There are no policies there: the command says so and succeeds."""
    with mock_kafka() as kafka:
        done = create(kafka, "shop")
    assert done.returncode == 0, done.stderr
    [*states] = json.loads(done.stdout)["topics"]
    assert [state["topic"] for state in states] == [p.topic for p in policies(Topics("shop"), partitions=4)]
    assert {state["unchecked"] for state in states} == {"the embedded broker makes topics when they are named"}


def test_an_absent_kafka_is_waited_for_and_named() -> None:
    """Nobody there: exit code 1 when the patience is over, the address, no traceback."""
    done = create("127.0.0.1:1", "shop", "--wait", "0.5")
    assert done.returncode == 1
    assert "Kafka at 127.0.0.1:1 does not answer" in done.stderr
    assert "Traceback" not in done.stderr
