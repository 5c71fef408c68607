import pytest

from messages import (
    Behavior,
    DeadLetter,
    Item,
    Recommendations,
    RecommendRequest,
    RequestHeaders,
    Status,
    Topics,
    decode_behavior,
    decode_item,
    decode_recommendations,
    decode_request,
    parse_correlation_id,
    parse_dead_letter,
    parse_request,
)
from producers import (
    BehaviorProducer,
    DeadLetterProducer,
    Delivery,
    DeliveryFailed,
    ItemProducer,
    ReplyNotAllowed,
    RequestProducer,
    ResponsePublisher,
    Writer,
)
from tests.brokers import consume


def test_requests_carry_their_headers_under_the_users_key(kafka: str) -> None:
    """A request is read back from its topic, keyed by user, or by correlation id when no user is named."""
    topics = Topics("ask")
    headers = RequestHeaders("c1", topics.replies("me"), reply_partition=2, timeout_ms=100)
    named, nameless = RecommendRequest(user="u1"), RecommendRequest(item="i1")
    with Writer(kafka) as writer:
        RequestProducer(writer, topics).send(named, headers)
        RequestProducer(writer, topics).send(nameless, headers, high=True)
    (ordinary,) = consume(kafka, topics.requests, 1)
    (high,) = consume(kafka, topics.requests_high, 1)
    assert (ordinary.key(), decode_request(ordinary.value())) == (b"u1", named)
    assert (high.key(), decode_request(high.value())) == (b"c1", nameless)
    assert parse_request(ordinary.headers()) == headers


def test_an_answer_goes_where_the_request_said(kafka: str) -> None:
    """The answer lands in the named partition of the reply topic, under the correlation id."""
    topics = Topics("answer")
    headers = RequestHeaders("c7", topics.replies("me"), reply_partition=3)
    reports: list[Delivery] = []
    answer = Recommendations(Status.REJECTED, reason="busy", retry_after_ms=50)
    with Writer(kafka) as writer:
        ResponsePublisher(writer, topics).publish(headers, answer, reports.append)
    (message,) = consume(kafka, topics.replies("me"), 1)
    assert (message.key(), message.partition(), decode_recommendations(message.value())) == (b"c7", 3, answer)
    assert parse_correlation_id(message.headers()) == "c7"
    assert [(report.partition, report.error) for report in reports] == [(3, None)]


@pytest.mark.parametrize("reply_to", ["answer.items", "other.replies.me", "answer.replies.me.dlt"])
def test_an_answer_goes_nowhere_else(kafka: str, reply_to: str) -> None:
    """A request cannot make a worker write to a topic that is not for answers."""
    with Writer(kafka) as writer, pytest.raises(ReplyNotAllowed, match="not a topic for answers"):
        ResponsePublisher(writer, Topics("answer")).publish(RequestHeaders("c", reply_to), Recommendations(Status.OK))


def test_state_is_put_and_taken_away(kafka: str) -> None:
    """Items and behaviours are keyed by item and user; a null value stands for removal."""
    topics = Topics("state")
    item, behavior = Item("i1", text="a thing", timestamp_ms=1), Behavior("u1", "i1", "buy", 2)
    with Writer(kafka) as writer:
        items, behaviors = ItemProducer(writer, topics), BehaviorProducer(writer, topics)
        items.put(item, partition=1)
        items.delete("i1", partition=1)
        behaviors.put(behavior)
        behaviors.erase("u1")
    put, deleted = consume(kafka, topics.items, 2)
    assert (put.key(), put.partition(), decode_item(put.value())) == (b"i1", 1, item)
    assert (deleted.key(), deleted.value()) == (b"i1", None)
    done, erased = consume(kafka, topics.behaviors, 2)
    assert (done.key(), decode_behavior(done.value())) == (b"u1", behavior)
    assert (erased.key(), erased.value()) == (b"u1", None)


def test_a_dead_letter_is_the_original_and_says_where_from(kafka: str) -> None:
    """Bytes, key and headers are those of the record; origin, reason and attempt stand beside them."""
    letter = DeadLetter("dead.items", 2, 77, "id: empty", attempt=3)
    with Writer(kafka) as writer:
        DeadLetterProducer(writer).bury(letter, key=None, value=b"\xc1\x00", headers=[("x", b"\xff")])
        # Acknowledged by the time it returns: nothing is left to flush.
        (message,) = consume(kafka, "dead.items.dlt", 1)
    assert (message.key(), message.value()) == (None, b"\xc1\x00")
    assert message.headers()[0] == ("x", b"\xff")
    assert parse_dead_letter(message.headers()) == letter


def test_a_dead_letter_that_was_not_written_is_not_done() -> None:
    """When the burial fails, whoever buries hears of it, by exception or by callback."""
    reports: list[Delivery] = []
    letter = DeadLetter("dead.items", 0, 0, "empty")
    writer = Writer("127.0.0.1:1", {"message.timeout.ms": 100})
    with pytest.raises(DeliveryFailed):
        DeadLetterProducer(writer).bury(letter, key=None, value=b"")
    DeadLetterProducer(writer).bury(letter, key=None, value=b"", on_delivered=reports.append)
    writer.flush()
    assert [type(report.error) for report in reports] == [DeliveryFailed]
