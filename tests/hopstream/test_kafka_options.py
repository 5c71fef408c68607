"""Kafka's options, as whoever runs a command meets them."""

import json
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.brokers import mock_kafka
from tests.consumers.stage import Stage, wait_until
from tests.hopstream.datasets import write_shop
from tests.hopstream.test_cli import run
from tests.hopstream.test_serving import serving
from tests.servers import redis_server


@pytest.mark.parametrize(
    "command",
    [
        "serve all", "load items SHOP", "recommend u1", "topics create", "index info",
        "index verify", "demo --data SHOP --train-seconds 5 --kafka KAFKA --redis REDIS",
    ],
)  # fmt: skip
def test_a_mistyped_option_is_named(command: str, kafka: str, redis: str, tmp_path: Path) -> None:
    """Every command ends with exit code 1, the section and the option, and nothing of librdkafka's own."""
    words = {"SHOP": str(write_shop(tmp_path / "shop")), "KAFKA": kafka, "REDIS": redis}
    with closing(Stage(kafka, redis)) as stage:
        done = run(
            "--index", stage.index, "--redis", redis, "--kafka", kafka,
            *(words.get(word, word) for word in command.split()),
            HOPSTREAM_KAFKA__OPTIONS=json.dumps({"sasl.pasword": "hunter2"}),
        )  # fmt: skip
    assert done.returncode == 1
    assert 'error: kafka.options: No such configuration property: "sasl.pasword"' in done.stderr
    assert not {"Traceback", "KafkaError", "hunter2"} & set(done.stderr.replace("{", " ").split())


def test_a_worker_that_loses_kafka_writes_its_log_and_nothing_else() -> None:
    """Each line is an object, of producers, consumers and administrators alike, whose options are not all for each."""
    options = {"session.timeout.ms": 10_000, "fetch.wait.max.ms": 20, "linger.ms": 2}
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        assert run("--redis", redis, "--index", "shop", "index", "create", "--dimensions", "8").returncode == 0
        with mock_kafka() as kafka:
            served = stack.enter_context(serving("all", kafka, redis, "shop", options))
            wait_until(lambda: served.readiness()[0] == 200, "it to be ready")
        served.wait_for("Kafka ", "Kafka ", "Kafka ")  # one for each worker
        wait_until(lambda: any(line["event"] == "broker trouble" for line in served.log), "a word about it")
        assert [line for line in served.process.output.splitlines() if not line.startswith("{")] == []
