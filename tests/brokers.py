"""A Kafka broker for tests: librdkafka's mock cluster, in a process of its own.

Topics come into being when they are named, with 4 partitions; 5 MiB or 100,000 batches per partition are kept.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, TopicPartition

_BROKER = """
import sys
from confluent_kafka import Producer
cluster = Producer({"bootstrap.servers": "none:1", "test.mock.num.brokers": 1, "log_level": 0})
(broker,) = cluster.list_topics(timeout=10).brokers.values()
print(f"{broker.host}:{broker.port}", flush=True)
sys.stdin.read()  # until whoever started us closes it or ends
"""


@contextmanager
def mock_kafka() -> Iterator[str]:
    """Run a broker; yields its bootstrap address. It ends with the block, and with this process."""
    command = [sys.executable, "-c", _BROKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            if not process.stdout or not (address := process.stdout.readline().strip()):
                raise RuntimeError("the mock broker did not start")
            yield address
        finally:
            # Nothing it holds matters, and its own way out takes longer.
            process.kill()


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
