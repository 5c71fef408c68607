"""Records that nobody can read, on their way to the dead-letter topic. Only an acknowledged letter lets one pass."""

from collections.abc import Iterable

import structlog

from consumers import metrics
from consumers.events import Record
from messages import DeadLetter
from producers import DeadLetterProducer, Delivery, OnDelivered, Writer

_log = structlog.get_logger(__name__)


def bury(writer: Writer, record: Record, reason: str, on_delivered: OnDelivered) -> None:
    """Queue the dead letter of a record: its bytes and headers as they came. Raises as `Writer.write` does."""
    ticket = record.ticket
    _log.warning("dead letter", topic=record.topic, partition=ticket.partition, offset=ticket.offset, reason=reason)
    DeadLetterProducer(writer).bury(
        DeadLetter(record.topic, ticket.partition, ticket.offset, reason),
        key=record.key,
        value=record.value,
        headers=record.headers,
        on_delivered=on_delivered,
    )
    metrics.DEAD_LETTERS.labels(record.topic).inc()


def bury_all(writer: Writer, records: Iterable[tuple[Record, str]]) -> None:
    """Write the dead letters of records, each with its reason, and wait once until all are acknowledged.

    Raises `ProducerError` if one is not.
    """
    deliveries: list[Delivery] = []
    count = 0
    for record, reason in records:
        bury(writer, record, reason, deliveries.append)
        count += 1
    if count:
        writer.flush()
    for delivery in deliveries:
        if delivery.error is not None:
            raise delivery.error
