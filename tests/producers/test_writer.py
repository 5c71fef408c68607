import time

import pytest
from confluent_kafka import KafkaError

from producers import Complaints, Delivery, DeliveryFailed, QueueFull, Writer
from tests.brokers import consume

NOWHERE = "127.0.0.1:1"  # nobody listens on port 1


def test_a_record_arrives_as_it_was_written(kafka: str) -> None:
    """Key, value, headers and a null value survive, and the report says where the record lies."""
    reports: list[Delivery] = []
    headers = [("a", b"1"), ("b", None)]
    with Writer(kafka) as writer:
        size = writer.write("w.one", key="ключ", value=b"body", headers=headers, on_delivered=reports.append)
        writer.write("w.one", key="ключ", value=None, on_delivered=reports.append)
    first, second = consume(kafka, "w.one", 2)
    assert (first.key(), first.value(), first.headers()) == ("ключ".encode(), b"body", headers)
    assert second.value() is None
    assert reports[0] == Delivery("w.one", first.partition(), 0, size, None)
    assert size == len("ключ".encode()) + 4
    assert reports[1].offset == 1


@pytest.mark.parametrize(
    ("key", "murmur2"), [("21", -973932308), ("foobar", -790332482), ("a-little-bit-long-string", -985981536)]
)
def test_a_key_goes_where_java_would_put_it(kafka: str, key: str, murmur2: int) -> None:
    """The partition of a key is that of the Java clients (hashes from Kafka's own tests)."""
    reports: list[Delivery] = []
    with Writer(kafka) as writer:
        writer.write("w.keys", key=key, value=b"", on_delivered=reports.append)
    assert [report.partition for report in reports] == [(murmur2 & 0x7FFFFFFF) % 4]


def test_a_named_partition_wins_over_the_key(kafka: str) -> None:
    """A record goes to the partition that was asked for; one that does not exist is reported as a failure."""
    reports: list[Delivery] = []
    with Writer(kafka) as writer:
        for partition in (0, 1, 2, 3, 9):
            writer.write("w.named", key="same", value=b"", partition=partition, on_delivered=reports.append)
    assert sorted(report.partition for report in reports if report.error is None) == [0, 1, 2, 3]
    (failed,) = (report for report in reports if report.error)
    assert failed.partition == 9
    assert "UNKNOWN_PARTITION" in str(failed.error)


def test_a_failure_that_nobody_watches_is_raised_by_flush(kafka: str) -> None:
    """Without a callback a failed record is not forgotten, and it is told once."""
    writer = Writer(kafka)
    writer.write("w.lost", key=None, value=b"", partition=9)
    with pytest.raises(DeliveryFailed, match=r"w\.lost: not written: .*UNKNOWN_PARTITION"):
        writer.flush()
    writer.flush()


def test_a_record_that_is_too_large_is_refused_at_once(kafka: str) -> None:
    """What Kafka would never take raises where it is written."""
    with Writer(kafka) as writer, pytest.raises(DeliveryFailed, match="MSG_SIZE_TOO_LARGE"):
        writer.write("w.large", key=None, value=bytes(2_000_000))


def test_a_full_queue_is_waited_for(kafka: str) -> None:
    """A queue of 10 lets 500 records through: writing waits for room."""
    reports: list[Delivery] = []
    with Writer(kafka, {"queue.buffering.max.messages": 10, "linger.ms": 0}) as writer:
        for number in range(500):
            writer.write("w.narrow", key=str(number), value=b"", on_delivered=reports.append)
    assert len(reports) == 500
    assert not any(report.error for report in reports)


def test_a_queue_that_stays_full_is_an_error_that_says_so() -> None:
    """With nobody to take records, writing gives up after the patience it was given."""
    writer = Writer(NOWHERE, {"queue.buffering.max.messages": 1}, patience_s=0.2)
    writer.write("w.full", key=None, value=b"")
    with pytest.raises(QueueFull, match=r"w\.full: the local queue was still full after 0\.2 s"):
        writer.write("w.full", key=None, value=b"")
    writer.close()


def test_flush_ends_when_the_records_have_expired() -> None:
    """An unreachable broker costs a flush `message.timeout.ms` and a little, and then a failure."""
    writer = Writer(NOWHERE, {"message.timeout.ms": 100})
    writer.write("w.expired", key=None, value=b"")
    began = time.monotonic()
    with pytest.raises(DeliveryFailed, match="MSG_TIMED_OUT"):
        writer.flush()
    assert time.monotonic() - began < 5


def test_a_block_that_fails_does_not_wait() -> None:
    """When the block raises, what is queued is dropped, told to its callbacks, and the error goes on."""
    reports: list[Delivery] = []
    began = time.monotonic()

    def interrupted() -> None:
        with Writer(NOWHERE) as writer:
            writer.write("w.dropped", key=None, value=b"", on_delivered=reports.append)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - began < 5
    assert [str(report.error) for report in reports] == ["w.dropped: not written: _PURGE_QUEUE: Local: Purged in queue"]


def test_a_refusal_is_over_when_a_record_is_written(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka can take a password for wrong while it starts, and a writer lives long after that."""
    made: list[Complaints] = []
    monkeypatch.setattr("producers.writer.Complaints", lambda: made.append(Complaints()) or made[-1])
    with Writer(kafka) as writer:
        made[0](KafkaError(KafkaError._AUTHENTICATION, "refused"))
        assert "refused" in writer.refusal
        writer.write("w.refused", key=None, value=b"", partition=9, on_delivered=lambda _: None)
        writer.flush()
        assert "refused" in writer.refusal
        writer.write("w.refused", key=None, value=b"")
        writer.flush()
        assert writer.refusal == ""
