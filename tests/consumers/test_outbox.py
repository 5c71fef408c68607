"""What is on its way to Kafka when Kafka takes nothing."""

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from consumers.engine_thread import Reply
from consumers.events import Record
from consumers.offsets import Ticket
from consumers.outbox import Outbox
from messages import Recommendations, RequestHeaders, Status, Topics
from producers import DeliveryFailed, Writer

TOPICS = Topics("t")
NOWHERE = "127.0.0.1:1"  # nobody listens on port 1


def record(offset: int) -> Record:
    """A request."""
    return Record(Ticket(0, offset, 1), 1, TOPICS.requests, None, b"", (), 1000)


def publish(outbox: Outbox, offset: int) -> None:
    """Answer a request."""
    headers = RequestHeaders(correlation_id="c", reply_to=TOPICS.replies("tests"))
    outbox.publish(Reply(record(offset), headers, Recommendations(Status.OK)))


def bury(outbox: Outbox, offset: int) -> None:
    """Give a request up."""
    outbox.bury(record(offset), "malformed")


@pytest.mark.parametrize("send", [publish, bury])
def test_a_full_queue_is_waited_for(send: Callable[[Outbox, int], None]) -> None:
    """Whatever there is to send waits longer than the writer does; only what Kafka has not taken in time is an error.

    It is said and counted once, however often it had to be tried.
    """
    options = {"queue.buffering.max.messages": 1, "message.timeout.ms": 1000}
    outbox = Outbox(Writer(NOWHERE, options, patience_s=0.1), TOPICS, lambda _: None)
    with capture_logs() as logs:
        for offset in range(2):
            send(outbox, offset)
    events = [line["event"] for line in logs]
    assert events.count("answers and dead letters wait") > 1
    assert events.count("dead letter") == (2 if send is bury else 0)
    assert outbox.in_flight == 2
    with pytest.raises(DeliveryFailed, match="MSG_TIMED_OUT"):
        outbox.settle()
    outbox.close()
