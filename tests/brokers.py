"""Kafka brokers for tests, and what tests do with their topics.

The embedded one is librdkafka's mock cluster: topics come into being when they are named, with 4 partitions; 5 MiB or
100,000 batches per partition are kept. The others are Apache Kafka.
"""

import base64
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic  # type: ignore[attr-defined]

_BROKER = """
import sys
from confluent_kafka import Producer
cluster = Producer({"bootstrap.servers": "none:1", "test.mock.num.brokers": 1, "log_level": 0})
(broker,) = cluster.list_topics(timeout=10).brokers.values()
print(f"{broker.host}:{broker.port}", flush=True)
sys.stdin.read()  # until whoever started us closes it or ends
"""
_START_S = 60.0
_ADMIN_S = 30.0


@contextmanager
def mock_kafka() -> Iterator[str]:
    """Run the embedded broker in a process of its own; yields its address. It ends with the block and with us."""
    command = [sys.executable, "-c", _BROKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            if not process.stdout or not (address := process.stdout.readline().strip()):
                raise RuntimeError("the mock broker did not start")
            yield address
        finally:
            # Nothing it holds matters, and its own way out takes longer.
            process.kill()


def broker_settings(listen: str, controller: str, advertised: str) -> dict[str, str]:
    """Settings of one KRaft node; the arguments are addresses, `host:port`."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{controller}",
        "listeners": f"PLAINTEXT://{listen},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{advertised}",
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        # A cluster of one keeps one copy of everything.
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "auto.create.topics.enable": "false",  # nothing of ours may rely on it
        "group.initial.rebalance.delay.ms": "0",  # tests do not wait for members that will not come
        "log.cleaner.dedupe.buffer.size": "16777216",
        "log.cleaner.backoff.ms": "100",  # a topic that is due is compacted at once
    }


@contextmanager
def local_kafka(
    home: Path, change: Callable[[dict[str, str]], dict[str, str]] = lambda settings: settings
) -> Iterator[str]:
    """Run a node of the Apache Kafka unpacked in `home`, by its own scripts; yields its address.

    `change` gets the broker's settings and returns those to run it with.
    """
    address, controller = (f"127.0.0.1:{port}" for port in free_ports(2))
    with tempfile.TemporaryDirectory(prefix="hopstream-kafka-") as folder:
        settings = change({**broker_settings(address, controller, address), "log.dirs": f"{folder}/data"})
        properties, log = Path(folder, "server.properties"), Path(folder, "server.log")
        write_properties(properties, settings)
        # The quick compiler alone: no test runs long enough for the other one to pay.
        java = {"KAFKA_HEAP_OPTS": "-Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1", "LOG_DIR": f"{folder}/logs"}
        run: dict[str, Any] = {"env": {**os.environ, **java}, "stderr": subprocess.STDOUT, "process_group": 0}
        with log.open("w") as out:
            storage = [str(home / "bin/kafka-storage.sh"), "format", "-t", cluster_id(), "-c", str(properties)]
            if subprocess.run(storage, stdout=out, check=False, **run).returncode:
                raise RuntimeError(f"{storage[0]} failed:\n{log.read_text()}")
            server = [str(home / "bin/kafka-server-start.sh"), str(properties)]
            with subprocess.Popen(server, stdout=out, **run) as process:
                try:
                    wait_for_kafka(address, lambda: _tail(log) if process.poll() is not None else None)
                    yield address
                finally:
                    process.kill()  # what it holds goes with the folder


def write_properties(path: Path, settings: Mapping[str, str]) -> None:
    """Write a broker's settings as its scripts read them."""
    path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))


def cluster_id() -> str:
    """A new one; not beginning with a hyphen, which Kafka's scripts would take for an option."""
    return base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")


def wait_for_kafka(address: str, ended: Any) -> None:
    """Return when a broker answers there. `ended` tells why it never will, None while it may."""
    host, port = address.rsplit(":", 1)
    deadline = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection((host, int(port)), 1).close()
            if _admin(address).list_topics(timeout=5).brokers:
                return
        except (OSError, KafkaException):
            pass
        if (why := ended()) is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Kafka at {address} did not start: {why}")
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nobody listens, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports


def has_controller(address: str) -> bool:
    """Whether topics can be made and asked about here; the embedded broker names one that does not exist."""
    cluster = _admin(address).list_topics(timeout=10)
    return cluster.controller_id in cluster.brokers


def makes_topics_when_named(address: str) -> bool:
    """Whether a topic comes into being here by being written to."""
    if not has_controller(address):
        return True
    admin = _admin(address)
    broker = ConfigResource(ConfigResource.Type.BROKER, str(admin.list_topics(timeout=10).controller_id))
    settings = admin.describe_configs([broker], request_timeout=_ADMIN_S)[broker].result()
    return bool(settings["auto.create.topics.enable"].value == "true")


def make_topic(address: str, topic: str, partitions: int = 4, policy: Mapping[str, str] | None = None) -> None:
    """Make a topic, which can be written and read when this returns.

    On the embedded broker both partitions and policy are its own.
    """
    admin = _admin(address, {"allow.auto.create.topics": True})
    if has_controller(address):
        new = NewTopic(topic, partitions, replication_factor=1, config=dict(policy or {}))
        admin.create_topics([new], request_timeout=_ADMIN_S)[topic].result()
    deadline = time.monotonic() + _ADMIN_S
    while True:
        found = admin.list_topics(topic, timeout=10).topics[topic]
        if found.partitions and all(part.leader >= 0 for part in found.partitions.values()):
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{topic} has no leader: {found.error}")
        time.sleep(0.02)


def delete_topics(address: str, prefix: str) -> None:
    """Delete the topics whose names begin so, where that can be done."""
    if has_controller(address):
        admin = _admin(address)
        if topics := [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(prefix)]:
            for deletion in admin.delete_topics(topics, request_timeout=_ADMIN_S).values():
                deletion.result()


def consume(address: str, topic: str, count: int, timeout_s: float = 20.0) -> list[Any]:
    """Return the first `count` messages of all partitions of a topic, in the order of arrival.

    They are confluent_kafka's `Message`, whose annotations allow much that never comes from a topic.
    """
    with reader(address, topic) as consumer:
        messages = consumer.consume(count, timeout_s)
    if len(messages) < count or any(message.error() for message in messages):
        raise RuntimeError(f"{topic}: {len(messages)} of {count} messages came: {[m.error() for m in messages]}")
    return messages


@contextmanager
def reader(address: str, topic: str) -> Iterator[Consumer]:
    """A consumer that reads all partitions of a topic from their beginning, in no group."""
    settings = {
        "bootstrap.servers": address,
        "group.id": "tests",
        "enable.auto.commit": False,
        "fetch.wait.max.ms": 10,
        "queued.max.messages.kbytes": 512,  # what a test has not read yet stays in the broker
        "fetch.queue.backoff.ms": 10,
        "log_level": 0,
    }
    consumer = Consumer(settings)
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        yield consumer
    finally:
        consumer.close()


def _admin(address: str, options: Mapping[str, Any] | None = None) -> AdminClient:
    return AdminClient({"bootstrap.servers": address, "log_level": 0, **(options or {})})


def _tail(log: Path) -> str:
    return "\n".join(log.read_text().splitlines()[-20:])
