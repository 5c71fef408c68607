"""One broker and one store for the whole room; every test, or module, has an index of its own on them."""

from collections.abc import Callable, Iterator

import pytest

from engine.model import Model
from tests.brokers import mock_kafka
from tests.consumers.stage import Stage
from tests.servers import redis_server


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """The address of a broker."""
    with mock_kafka() as address:
        yield address


@pytest.fixture(scope="session")
def redis() -> Iterator[str]:
    """The URL of a store."""
    with redis_server() as url:
        yield url


@pytest.fixture
def new_stage(kafka: str, redis: str) -> Iterator[Callable[..., Stage]]:
    """Makes stages, each with an empty index of its own."""
    made: list[Stage] = []

    def make(model: Model | None = None) -> Stage:
        made.append(Stage(kafka, redis, model))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


@pytest.fixture
def stage(new_stage: Callable[..., Stage]) -> Stage:
    """An empty index of raw vectors."""
    return new_stage()
