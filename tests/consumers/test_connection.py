import threading

import pytest
from confluent_kafka import Consumer, KafkaError
from structlog.testing import capture_logs

from consumers import connection
from consumers.connection import consumer_settings, trouble_log, wait_for_topic
from producers import make_client
from tests.consumers.stage import Stage


class Attempts(threading.Event):
    """An event that sets itself when it has been waited for so many times."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.left = count

    def wait(self, timeout: float | None = None) -> bool:
        """Do not wait."""
        self.left -= 1
        if self.left == 0:
            self.set()
        return self.is_set()


def consumer(address: str) -> Consumer:
    """A consumer as an intake makes it."""
    return make_client(Consumer, consumer_settings(address, "g", None, positioned=True))


def test_what_is_waited_for_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the broker is asked, the log holds one line for as long as the problem is the same."""
    monkeypatch.setattr(connection, "_METADATA_S", 0.05)
    stopping, waiting = Attempts(4), consumer("localhost:1")
    with capture_logs() as logs:
        wait_for_topic(waiting, "t.items", stopping, "localhost:1")
    waiting.close()
    assert stopping.left == 0
    assert [line["event"] for line in logs] == ["waiting for the topic"]


def test_the_embedded_broker_makes_the_topic_that_is_waited_for(stage: Stage) -> None:
    """It does so in no other way than by being asked for it."""
    waiting = consumer(stage.kafka)
    wait_for_topic(waiting, stage.topics.items, threading.Event(), stage.kafka)
    waiting.close()
    assert stage.topics.items in stage.producer.list_topics(timeout=10).topics


def test_trouble_is_said_once_with_the_settings_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Librdkafka repeats a refused password several times a second, and calls it a lost connection elsewhere.

    A later outage is said again.
    """
    note = trouble_log("t.items")
    with capture_logs() as logs:
        for _ in range(3):
            note(KafkaError(KafkaError._AUTHENTICATION, "refused"))
            note(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    assert len(logs) == 2
    assert "sasl.password" in logs[0]["error"]
    monkeypatch.setattr(connection, "_SAY_AGAIN_S", 0.0)
    with capture_logs() as later:
        note(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    assert len(later) == 1
