from collections.abc import Iterator

import pytest

from tests.brokers import mock_kafka


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """The address of a broker in a process of its own; tests share it and name their own topics."""
    with mock_kafka() as address:
        yield address
