"""The demo on servers that are there already: in an index of its own, and in one that workers serve."""

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient

from hopstream.processes import WorkerProcess, environment_of
from hopstream.settings import IndexSettings, KafkaSettings, RedisSettings, Settings
from index_store import IndexStore, connect
from messages import Item, Topics, policies
from producers import ItemProducer, TopicAdmin, Writer
from tests.consumers.stage import wait_until
from tests.hopstream.datasets import write_shop

SHORT = ["--json", "--requests", "100", "--train-seconds", "8"]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A little data set."""
    return write_shop(tmp_path / "shop")


@pytest.fixture
def settings(real_kafka: str, redis: str) -> Iterator[Settings]:
    """An index with its topics, which go afterwards."""
    index = f"live-{uuid.uuid4().hex[:8]}"
    admin = TopicAdmin(real_kafka)
    with ExitStack() as stack:
        server = stack.enter_context(connect(redis))
        stack.callback(IndexStore(server, index).drop)
        stack.callback(admin.delete, Topics(index))
        admin.create(policies(Topics(index), partitions=2))
        yield Settings(
            index=IndexSettings(name=index),
            kafka=KafkaSettings(bootstrap_servers=real_kafka),
            redis=RedisSettings(url=redis),
        )


def hopstream(*arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [sys.executable, "-m", "hopstream", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == expect, done.stderr
    return done


def of(settings: Settings) -> list[str]:
    """The flags for these settings."""
    kafka, redis = settings.kafka.bootstrap_servers, settings.redis.url
    return ["--index", settings.index.name, "--kafka", kafka, "--redis", redis]


def report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one line of JSON that a command wrote."""
    [line] = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_given_servers_are_left_as_they_were(real_kafka: str, redis: str, shop: Path) -> None:
    """Everything is answered, and afterwards there is neither a topic nor a key of the demo's."""
    measured = report(hopstream("demo", "--kafka", real_kafka, "--redis", redis, "--data", str(shop), *SHORT))
    assert measured["answered"] == measured["requests"] == 100
    assert measured["recall_at_10"] > 0.9
    assert measured["item_freshness_ms"] > 0
    topics = AdminClient({"bootstrap.servers": real_kafka}).list_topics(timeout=10).topics
    assert not [topic for topic in topics if topic.startswith("demo")]
    with connect(redis) as server:
        assert not server.ask("KEYS", "{demo*")


def test_a_live_demo_leaves_its_catalogue_with_the_workers(settings: Settings, shop: Path, tmp_path: Path) -> None:
    """Through workers that wait for a generation; what it loaded is recommended after it, and a second run works."""
    with ExitStack() as workers:
        for role in ("updates", "requests"):
            workers.enter_context(WorkerProcess(role, environment_of(settings), tmp_path))
        for _ in range(2):
            measured = report(hopstream(*of(settings), "demo", "--live", "--data", str(shop), *SHORT))
            assert measured["answered"] == 100
        answer = report(hopstream(*of(settings), "recommend", "u1", "--json"))
        assert len(answer["items"]) == 10
        assert all(found["id"].startswith(("paint-", "python3-hopstream")) for found in answer["items"])
        assert report(hopstream(*of(settings), "index", "verify", "--against-topic", "--json"))["sound"]


def test_a_live_demo_spares_another_catalogue(settings: Settings, shop: Path, tmp_path: Path) -> None:
    """An index that holds something else keeps its generation, and the message says what to do."""
    hopstream(*of(settings), "index", "create", "--dimensions", "2")
    with connect(settings.redis.url) as server:
        store = IndexStore(server, settings.index.name)
        before = store.active()
        assert before is not None
        with (
            WorkerProcess("updates", environment_of(settings), tmp_path),
            Writer(settings.kafka.bootstrap_servers) as writer,
        ):
            ItemProducer(writer, Topics(settings.index.name)).put(
                Item("somebody-elses", vector=np.ones(2, dtype=np.float32), timestamp_ms=1), partition=0
            )
            writer.flush()
            wait_until(lambda: store.shard(before, 0).rows, "the item")
        refused = hopstream(*of(settings), "demo", "--live", "--data", str(shop), *SHORT, expect=1)
        assert "--index NAME" in refused.stderr
        assert store.active() == before
