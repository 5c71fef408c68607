"""The one place that talks to confluent-kafka's producer."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from messages import Headers
from producers.clients import make_client
from producers.complaints import Complaints, describe_error
from producers.errors import DeliveryFailed, ProducerError, QueueFull, Undelivered

_DEFAULTS: Mapping[str, object] = {
    "partitioner": "murmur2_random",  # the Java clients' default: one key, one partition, whoever writes
    "enable.idempotence": True,  # a retry neither doubles nor overtakes: the newer event stays the newer one
    "message.timeout.ms": 30_000,
    # A topic that is not there is a fault of the record's, and told as one only if it comes before the time-out.
    "topic.metadata.propagation.max.ms": 5_000,
    "linger.ms": 1,
    "queue.buffering.max.kbytes": 65_536,
}
_EXPIRY_S = 2.0  # librdkafka looks for expired messages once a second, so a report can be this late
_SLICE_S = 0.1  # the longest wait inside librdkafka, which does not hear Ctrl-C


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one record of `size` bytes (key and value): written at `offset` unless there is an `error`.

    A record that was never written can have partition and offset −1.
    """

    topic: str
    partition: int
    offset: int
    size: int
    error: ProducerError | None


OnDelivered = Callable[[Delivery], None]


class Writer:
    """Writes records and checks every delivery report; usable from several threads.

    Reports are served inside `write`, `poll` and `flush`, on the thread that calls them, so somebody must keep
    calling. An `on_delivered` callback may only put what it is told aside (a queue, a counter): writing, polling
    or raising inside it is not allowed. The failure of a record without one is raised by the next `flush`.

    As a context manager it flushes at the end, or drops what is still queued if the block raised.
    """

    def __init__(
        self, bootstrap_servers: str, options: Mapping[str, object] | None = None, *, patience_s: float = 5.0
    ) -> None:
        """Connect; `options` are librdkafka's, `patience_s` is how long `write` waits for room in the queue.

        Raises `InvalidOptions`.
        """
        self._complaints = Complaints()
        settings: dict[str, Any] = {
            **_DEFAULTS,
            **(options or {}),
            "bootstrap.servers": bootstrap_servers,
            "error_cb": self._complaints,
        }
        self._producer = make_client(Producer, settings)
        self._flush_s = int(settings["message.timeout.ms"]) / 1000 + _EXPIRY_S
        self._patience_s = patience_s
        self._failure: ProducerError | None = None

    @property
    def refusal(self) -> str:
        """Why Kafka does not let this writer in, empty since a record was written or where it has not said yet."""
        return str(self._complaints) if self._complaints.hopeless else ""

    def write(
        self,
        topic: str,
        *,
        key: str | bytes | None,
        value: bytes | None,
        headers: Headers = (),
        partition: int | None = None,
        on_delivered: OnDelivered | None = None,
    ) -> int:
        """Queue one record and return its size, key and value, in bytes.

        Without `partition` the key chooses it. Raises `QueueFull` after waiting in vain for room, and
        `DeliveryFailed` when librdkafka refuses the record at once (too large, say).
        """
        size = len(key.encode() if isinstance(key, str) else key or b"") + len(value or b"")
        record: dict[str, Any] = {"key": key, "value": value, "headers": list(headers)}
        if partition is not None:
            record["partition"] = partition
        record["on_delivery"] = self._report(on_delivered or self._note, size)
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                self._producer.produce(topic, **record)
                break
            except BufferError:
                if time.monotonic() >= deadline:
                    raise QueueFull(topic, self._patience_s) from None
                self._producer.poll(_SLICE_S)
            except KafkaException as error:
                raise DeliveryFailed(topic, describe_error(error.args[0])) from None
        self._producer.poll(0)
        return size

    def poll(self, timeout_s: float = 0.0) -> int:
        """Serve delivery reports, waiting at most `timeout_s` for the first; returns how many."""
        return int(self._producer.poll(timeout_s))

    def flush(self) -> None:
        """Wait until every record is written or given up, a little over `message.timeout.ms` at most.

        Raises the first failure of a record without a callback, `Undelivered` when records are still on their way.
        """
        deadline = time.monotonic() + self._flush_s
        while (count := self._producer.flush(_SLICE_S)) and time.monotonic() < deadline:
            pass
        failure, self._failure = self._failure, None
        if failure:
            raise failure
        if count:
            raise Undelivered(count)

    def close(self) -> None:
        """Drop what is queued or on its way, of which callbacks hear as failed, and end the connection."""
        self._producer.purge()
        self._producer.flush(_SLICE_S)
        self._producer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()

    def _note(self, delivery: Delivery) -> None:
        self._failure = self._failure or delivery.error

    def _report(self, on_delivered: OnDelivered, size: int) -> Callable[[KafkaError | None, Message], None]:
        """Return confluent-kafka's kind of callback around ours."""

        def report(error: KafkaError | None, message: Message) -> None:
            if error is None:
                self._complaints.settle()
            topic, partition, offset = message.topic() or "", message.partition(), message.offset()
            on_delivered(
                Delivery(
                    topic,
                    partition=-1 if partition is None else partition,
                    offset=-1 if offset is None or error else offset,
                    size=size,
                    error=DeliveryFailed(topic, describe_error(error)) if error else None,
                )
            )

        return report
