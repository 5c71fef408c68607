"""Records that nobody can read, on their way to the dead-letter topic. Only an acknowledged letter lets one pass."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import structlog

from consumers import metrics
from consumers.events import Record
from messages import DeadLetter
from messages.rules import MAX_ID_BYTES
from producers import DeadLetterProducer, Delivery, DeliveryFailed, ProducerError, Writer

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Letter:
    """A record and why it is buried: whole, or without its content, for Kafka may take no letter of that size."""

    record: Record
    reason: str
    whole: bool = True

    def instead(self, error: ProducerError) -> "Letter":
        """The letter to send after this one was refused; raises the error where none would fare better."""
        if not (self.whole and isinstance(error, DeliveryFailed) and error.too_large):
            raise error
        size = len(self.record.key or b"") + len(self.record.value or b"")
        return replace(self, whole=False, reason=f"{size} bytes left out, too many for a letter: {self.reason}")


def letter_for(record: Record, reason: str) -> Letter:
    """The letter for a record that is given up, which is said and counted here, however often it has to be sent."""
    place = {"topic": record.topic, "partition": record.ticket.partition, "offset": record.ticket.offset}
    _log.warning("dead letter", **place, reason=reason)
    metrics.DEAD_LETTERS.labels(record.topic).inc()
    return Letter(record, reason)


def send(writer: Writer, letter: Letter, on_delivered: Callable[[tuple[Letter, Delivery]], None]) -> None:
    """Queue a letter: the record's bytes and headers as they came, if it is whole. Raises as `Writer.write` does."""
    record, ticket, whole = letter.record, letter.record.ticket, letter.whole
    try:
        DeadLetterProducer(writer).bury(
            DeadLetter(record.topic, ticket.partition, ticket.offset, letter.reason),
            key=record.key if whole or len(record.key or b"") <= MAX_ID_BYTES else None,
            value=record.value if whole else None,
            headers=record.headers if whole else (),
            on_delivered=lambda delivery: on_delivered((letter, delivery)),
        )
    except DeliveryFailed as error:
        send(writer, letter.instead(error), on_delivered)


def bury_all(writer: Writer, records: Iterable[tuple[Record, str]]) -> None:
    """Write the dead letters of records, each with its reason, and wait until all are acknowledged.

    Raises `ProducerError` if one is not.
    """
    letters = [letter_for(record, reason) for record, reason in records]
    while letters:
        reports: list[tuple[Letter, Delivery]] = []
        for letter in letters:
            send(writer, letter, reports.append)
        writer.flush()
        letters = [letter.instead(delivery.error) for letter, delivery in reports if delivery.error is not None]
