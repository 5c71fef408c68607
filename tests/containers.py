"""Kafka and Redis as containers, by testcontainers; images are named by KAFKA_IMAGE and REDIS_IMAGE."""

import gc
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from tests.brokers import broker_settings, cluster_id, free_ports, wait_for_kafka, write_properties

KAFKA_IMAGE = os.environ.get("KAFKA_IMAGE") or "apache/kafka:4.2.1"
REDIS_IMAGE = os.environ.get("REDIS_IMAGE") or "redis:7.0.15"


@cache
def docker_problem() -> str | None:
    """Why containers cannot be run here, None if they can."""
    import docker
    from docker.errors import DockerException

    with warnings.catch_warnings():
        # Where nobody answers, docker-py leaves a socket to the garbage collector, which warns in whatever test runs.
        warnings.simplefilter("ignore", ResourceWarning)
        with suppress(DockerException):
            docker.from_env(timeout=5).close()  # has asked the daemon for its version
            return None
        gc.collect()
    return "no Docker daemon answers"


@contextmanager
def kafka_container(
    change: Callable[[dict[str, str]], dict[str, str]] = lambda settings: settings,
    ports: Mapping[int, int] | None = None,
    folder: Path | None = None,
) -> Iterator[str]:
    """Run Kafka; yields its address.

    `change` gets the broker's settings and returns those to run it with; further ports, inside → outside, are
    published, and a folder lies at its own path inside.
    """
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    settings = {**broker_settings("0.0.0.0:9092", "localhost:9093", address), "log.dirs": "/opt/kafka/data"}
    with tempfile.TemporaryDirectory(prefix="hopstream-kafka-") as ours:
        properties = Path(ours, "server.properties")
        write_properties(properties, change(settings))
        shared = [(str(path), str(path), "ro") for path in (Path(ours), folder) if path]
        begin = f"bin/kafka-storage.sh format -t {cluster_id()} -c {properties}"
        command = ["sh", "-c", f"cd /opt/kafka && {begin} && exec bin/kafka-server-start.sh {properties}"]
        # As root, who reads the folders whosever they are.
        running = run_container(
            KAFKA_IMAGE, {9092: port, **(ports or {})}, command=command, user="root", volumes=shared
        )
        with running as container:
            wrapped = container.get_wrapped_container()

            def ended() -> str | None:
                wrapped.reload()
                return None if wrapped.status in {"created", "running"} else wrapped.logs(tail=20).decode()

            wait_for_kafka(address, ended)
            yield address


@contextmanager
def redis_container() -> Iterator[str]:
    """Run Redis, keeping nothing; yields its URL."""
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    (port,) = free_ports(1)
    command = ["redis-server", "--save", "", "--appendonly", "no"]
    ready = LogMessageWaitStrategy("eady to accept connections").with_startup_timeout(30)
    with run_container(REDIS_IMAGE, {6379: port}, command=command, _wait_strategy=ready):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def run_container(image: str, ports: Mapping[int, int], **settings: Any) -> Iterator[Any]:
    """Run a container with its ports, inside → outside, published on this machine only."""
    _do_without_missing_reaper()
    from testcontainers.core.container import DockerContainer

    container = DockerContainer(image, **settings)
    for inside, outside in ports.items():  # docker-py's form, for which testcontainers has no method
        container.ports[str(inside)] = ("127.0.0.1", outside)
    with container:
        yield container


@cache
def _do_without_missing_reaper() -> None:
    """Run without the image that would clear away after a killed test run, where there is none."""
    import docker
    from docker.errors import ImageNotFound
    from testcontainers.core.config import testcontainers_config

    client = docker.from_env()
    try:
        client.images.get(testcontainers_config.ryuk_image)
    except ImageNotFound:
        testcontainers_config.ryuk_disabled = True
    finally:
        client.close()
