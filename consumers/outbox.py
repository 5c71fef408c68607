"""Answers and dead letters on their way to Kafka: a request is done when what came of it is acknowledged."""

import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

import structlog

from consumers import metrics
from consumers.engine_thread import Reply
from consumers.events import Record
from consumers.graveyard import Letter, letter_for, send
from messages import Recommendations, Status, Topics
from producers import Delivery, DeliveryFailed, OnDelivered, ProducerError, QueueFull, ResponsePublisher, Writer

_log = structlog.get_logger(__name__)

# librdkafka's words for what is wrong with one record, and not with Kafka or with this worker.
_ITS_OWN_FAULT = frozenset(
    {
        "_UNKNOWN_PARTITION",
        "_UNKNOWN_TOPIC",
        "UNKNOWN_TOPIC_OR_PART",
        "TOPIC_EXCEPTION",
        "TOPIC_AUTHORIZATION_FAILED",
        "MSG_SIZE_TOO_LARGE",
    }
)


class Outbox:
    """Publishes for one thread; ``done`` hears of every record whose answer, or dead letter, Kafka has."""

    def __init__(self, writer: Writer, topics: Topics, done: Callable[[Record], None]) -> None:
        self._writer, self._done = writer, done
        self._publisher = ResponsePublisher(writer, topics)
        self._topics = topics
        self._reports: SimpleQueue[tuple[Record, Recommendations | Letter, Delivery]] = SimpleQueue()
        self.in_flight = 0
        self.answered = 0

    def publish(self, reply: Reply) -> None:
        """Send an answer; where it cannot be told, the request becomes a dead letter. Raises as `settle` does."""
        report = self._report(reply.record, reply.recommendations)
        try:
            self._queue(lambda: self._publisher.publish(reply.headers, reply.recommendations, report))
        except ProducerError as error:
            self._unanswerable(reply.record, error)

    def bury(self, record: Record, reason: str) -> None:
        """Send a dead letter. Raises `ProducerError`."""
        self._send(letter_for(record, reason))

    def settle(self) -> None:
        """Take in the delivery reports that have come.

        Raises `ProducerError` for a record that was not written though nothing is wrong with it.
        """
        self._writer.poll(0)
        while True:
            try:
                record, sent, delivery = self._reports.get_nowait()
            except Empty:
                return
            self.in_flight -= 1
            if isinstance(sent, Letter):
                if delivery.error is None:
                    self._done(record)
                else:
                    self._send(sent.instead(delivery.error))
            elif delivery.error is None:
                self._answered(record, sent)
            else:
                self._unanswerable(record, delivery.error)

    def close(self) -> None:
        """End the connection; what is still on its way is dropped, and its requests stay open."""
        self._writer.close()

    def _answered(self, record: Record, answer: Recommendations) -> None:
        """Count an answer; a malformed request is a dead letter as well, now that whoever asked knows."""
        self.answered += 1
        _measure(record, answer, "high" if record.topic == self._topics.requests_high else "normal")
        if answer.status is Status.MALFORMED:
            self.bury(record, answer.reason or "malformed")
        else:
            self._done(record)

    def _unanswerable(self, record: Record, error: ProducerError) -> None:
        """Bury a request whose answer Kafka refuses; raise when it would refuse any other as well."""
        if isinstance(error, DeliveryFailed) and error.reason.partition(":")[0] not in _ITS_OWN_FAULT:
            raise error
        self.bury(record, f"no answer possible: {error}")

    def _send(self, letter: Letter) -> None:
        self._queue(lambda: send(self._writer, letter, lambda sent: self._reports.put((letter.record, *sent))))

    def _queue(self, write: Callable[[], object]) -> None:
        """Write, for as long as it takes until there is room."""
        while True:
            try:
                write()
            except QueueFull as error:
                # Take in no requests either, until Kafka takes records again or the client gives one of them up.
                _log.warning("answers and dead letters wait", error=str(error))
            else:
                self.in_flight += 1
                return

    def _report(self, record: Record, answer: Recommendations) -> OnDelivered:
        return lambda delivery: self._reports.put((record, answer, delivery))


def _measure(record: Record, answer: Recommendations, priority: str) -> None:
    metrics.REQUESTS.labels(priority, answer.status).inc()
    if answer.degraded:
        metrics.DEGRADED.inc()
    if record.timestamp_ms >= 0:
        metrics.REQUEST_SECONDS.labels(priority).observe(max(0.0, time.time() - record.timestamp_ms / 1000))
