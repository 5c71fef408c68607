from pathlib import Path

import pytest

from tests import choice
from tests.choice import choose_kafka, choose_redis


@pytest.fixture(autouse=True)
def _no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Docker daemon, until a test says otherwise."""
    monkeypatch.setattr(choice, "docker_problem", lambda: "no Docker daemon answers")


def distribution(folder: Path) -> Path:
    """A folder that looks like Apache Kafka."""
    (folder / "bin").mkdir()
    (folder / "bin/kafka-server-start.sh").touch()
    return folder


def test_the_most_real_kafka_there_is_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address wins over a distribution, that over a container, that over the embedded broker, which says why."""
    home = {"KAFKA_HOME": str(distribution(tmp_path)), "JAVA_HOME": "/java"}
    address = {"HOPSTREAM_TEST_KAFKA": "broker:9092"}
    assert choose_kafka(address | home).what == "broker:9092 (HOPSTREAM_TEST_KAFKA)"
    assert choose_kafka(home).what == f"Apache Kafka of {tmp_path} (KAFKA_HOME)"
    embedded = choose_kafka({})
    assert not embedded.real
    assert "no Docker daemon answers" in embedded.what
    monkeypatch.setattr(choice, "docker_problem", lambda: None)
    assert choose_kafka({}).what.startswith("container of ")
    assert not choose_kafka(home | {"HOPSTREAM_TEST_KAFKA": "embedded"}).real


def test_a_kafka_home_that_holds_no_kafka_is_refused(tmp_path: Path) -> None:
    """Falling back in silence would leave its owner in the belief that it was tested on."""
    with pytest.raises(ValueError, match="KAFKA_HOME"):
        choose_kafka({"KAFKA_HOME": str(tmp_path)})


def test_the_most_real_redis_there_is_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL wins over a server on PATH, that over a container, that over the wheel's; no password is shown."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with monkeypatch.context() as nothing:
        nothing.setattr("hopstream.embedded._candidates", lambda: iter(()))
        assert choose_redis({"HOPSTREAM_TEST_REDIS": "redis://:secret@host:6379/0"}).what.startswith("host:6379/0 ")
    assert not choose_redis({}).real
    monkeypatch.setattr(choice, "docker_problem", lambda: None)
    assert choose_redis({}).what.startswith("container of ")
    assert not choose_redis({"HOPSTREAM_TEST_REDIS": "embedded"}).real
    binary = tmp_path / "redis-server"
    binary.write_text("#!/bin/sh\necho Redis server v=7.2.4 sha=0\n")
    binary.chmod(0o755)
    assert choose_redis({}).what == f"Redis 7.2.4 ({binary})"
