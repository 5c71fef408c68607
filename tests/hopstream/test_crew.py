"""Real workers that are made ready, and not needed any more before they have begun."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from hopstream.serving.workers import make_crew
from hopstream.settings import IndexSettings, KafkaSettings, RedisSettings, Settings
from index_store.errors import ShardDamaged
from tests.consumers.stage import Stage


@pytest.fixture
def stage(kafka: str, redis: str) -> Iterator[Stage]:
    """An empty index."""
    with closing(Stage(kafka, redis)) as made:
        yield made


def settings_of(stage: Stage) -> Settings:
    """Of workers of this index."""
    return Settings(
        index=IndexSettings(name=stage.index),
        kafka=KafkaSettings(bootstrap_servers=stage.kafka),
        redis=RedisSettings(url=stage.redis),
    )


def leases(stage: Stage) -> int:
    """How many followers the index has."""
    return int(stage.server.ask("HLEN", stage.info.keys(0).leases))


@pytest.mark.parametrize("role", ["requests", "all"])
def test_a_crew_that_was_never_started_leaves_nothing_behind(stage: Stage, role: str) -> None:
    """Its threads end, and its leases go at once: the log could not be trimmed as long as they last."""
    before = set(threading.enumerate())
    crew = make_crew(settings_of(stage), role, stage.info)
    assert {thread.name for thread in set(threading.enumerate()) - before} == {"engine", "mirror feed"}
    assert leases(stage) == 1
    crew.stop()
    assert set(threading.enumerate()) <= before
    assert leases(stage) == 0
    crew.check()


def test_a_crew_that_cannot_be_made_leaves_nothing_behind(stage: Stage) -> None:
    """It is tried again and again, and would leave a lease each time."""
    before = set(threading.enumerate())
    stage.server.ask("HSET", stage.info.keys(0).ids, "i1", "no row")
    with pytest.raises(ShardDamaged):
        make_crew(settings_of(stage), "all", stage.info)
    assert set(threading.enumerate()) <= before
    assert leases(stage) == 0
