import signal
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from hopstream import RecommendClient, RecommendRequest, open_requests
from hopstream.errors import (
    AnswerUnreadable,
    ClientClosed,
    KafkaUnavailable,
    RequestNotSent,
)
from messages import RequestHeaders, TopicPolicy
from producers import InvalidOptions, TopicAdmin, TopicNotMade
from tests.brokers import mock_kafka
from tests.workers import LONG_S, Worker, error_of, items, make_topic, served, user


@pytest.fixture(scope="module")
def kafka() -> Iterator[str]:
    """The address of a broker; each test uses an index of its own."""
    with mock_kafka() as address:
        yield address


def test_a_time_out_says_what_to_check(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When Kafka has the request and nobody answers, the error asks for the worker."""
    written = threading.Event()
    later_s = 0.0
    note_delivery = RecommendClient._note_delivery

    def note(client: RecommendClient, *report: Any) -> None:
        note_delivery(client, *report)
        written.set()

    monkeypatch.setattr(RecommendClient, "_note_delivery", note)
    monkeypatch.setattr(open_requests, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + later_s))
    with RecommendClient(kafka, "unserved") as client:
        future = client.submit(user("u1"), timeout_s=LONG_S)
        assert written.wait(LONG_S)
        later_s = LONG_S
        assert error_of(future) == (
            "RequestTimedOut: no answer within 30 s: is a worker serving index unserved ('hopstream serve requests')?"
        )


@pytest.mark.parametrize("body", [b"", None, b"\xc1", b"\x81\xa1v\x92\x63\x00"])
def test_an_answer_that_cannot_be_read_is_an_error_at_once(kafka: str, body: bytes | None) -> None:
    """Nobody waits out a time-out for an answer that is there and broken, or of a newer schema."""

    def act(worker: Worker, headers: RequestHeaders, request: RecommendRequest) -> None:
        name = [("correlation_id", headers.correlation_id.encode())]
        worker.writer.write(headers.reply_to, key=None, value=body, headers=name, partition=0)

    with served(kafka, "broken", act) as client, pytest.raises(AnswerUnreadable, match="same version"):
        client.recommend(user("u1"), timeout_s=LONG_S)


def test_close_fails_what_is_open(kafka: str) -> None:
    """Closing ends the thread and every wait; later requests are refused, a second close is not."""
    client = RecommendClient(kafka, "closed")
    threads = threading.active_count()
    futures = [client.submit(user("u1"), LONG_S) for _ in range(100)]
    client.close()
    client.close()
    assert {error_of(future) for future in futures} == {"ClientClosed: the client is closed"}
    assert threading.active_count() == threads - 1
    with pytest.raises(ClientClosed):
        client.submit(user("u1"))


def test_close_waits_for_whoever_is_sending(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is being sent while the client is closed fails like the others, and finds the writer open."""
    client = RecommendClient(kafka, "sending")
    send = client._requests.send

    def send_while_closing(*request: Any, **options: Any) -> int:
        client._stopping.set()
        client._thread.join(0.3)  # long enough to close the writer, if it did not wait
        return send(*request, **options)

    monkeypatch.setattr(client._requests, "send", send_while_closing)
    future = client.submit(user("u1"), LONG_S)
    client.close()
    assert error_of(future) == "ClientClosed: the client is closed"


def test_ctrl_c_ends_the_wait(kafka: str) -> None:
    """An interrupt reaches whoever waits, and the client goes on working."""
    main = threading.main_thread().ident
    assert main is not None

    def act(worker: Worker, headers: RequestHeaders, request: RecommendRequest) -> None:
        if request.user == "u1":
            signal.pthread_kill(main, signal.SIGINT)
        else:
            worker.echo(headers, request)

    with served(kafka, "interrupt", act) as client:
        with pytest.raises(KeyboardInterrupt):
            client.recommend(user("u1"), LONG_S)
        assert items(client.recommend(user("u2"), LONG_S)) == ["u2"]


@pytest.mark.parametrize("timeout_s", [0, -1, 3601, float("nan"), float("inf")])
def test_a_time_out_is_positive_and_at_most_an_hour(kafka: str, timeout_s: float) -> None:
    """What the header cannot hold is refused before anything is sent."""
    with RecommendClient(kafka, "limits") as client, pytest.raises(ValueError, match="timeout_s"):
        client.submit(user("u1"), timeout_s)


def test_a_request_that_kafka_refuses_fails_its_future(kafka: str) -> None:
    """A record too large for Kafka is an error at once, and names the reason."""
    with RecommendClient(kafka, "large", options={"message.max.bytes": 1000}) as client:
        request = RecommendRequest(user="u1", exclude=tuple(f"item-{number}" for number in range(1000)))
        assert error_of(client.submit(request, LONG_S)).startswith(
            "RequestNotSent: large.requests: not written: MSG_SIZE"
        )


def test_a_request_that_kafka_never_took() -> None:
    """With the broker gone, the delivery's failure or the time-out ends the wait, whichever comes first."""
    with mock_kafka() as address:
        short = RecommendClient(address, "gone", options={"message.timeout.ms": 100})
        patient = RecommendClient(address, "gone")
    with short, patient:
        undelivered, unheard = short.submit(user("u1"), LONG_S), patient.submit(user("u1"), 0.2)
        assert error_of(unheard).startswith(
            f"RequestTimedOut: no answer within 0.2 s: Kafka at {address} has not taken"
        )
        assert isinstance(undelivered.exception(LONG_S), RequestNotSent)


def test_no_kafka_is_an_error_that_says_so() -> None:
    """Without a broker no client comes into being; the error names the address."""
    with pytest.raises(KafkaUnavailable, match=r"Kafka at 127.0.0.1:1 does not answer"):
        RecommendClient("127.0.0.1:1", "nobody", patience_s=0.1)


def test_an_unknown_kafka_option_is_named(kafka: str) -> None:
    """An option that librdkafka does not have is an error of ours with its name."""
    with pytest.raises(InvalidOptions, match=r"kafka.options: .*sasl.pasword"):
        RecommendClient(kafka, "options", options={"sasl.pasword": "x"})


def test_a_topic_that_cannot_be_made_is_an_error(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the topic and the broker's reason."""

    def refuse(_: TopicAdmin, policies: list[TopicPolicy]) -> None:
        raise TopicNotMade(policies[0].topic, "TOPIC_AUTHORIZATION_FAILED")

    monkeypatch.setattr(TopicAdmin, "create", refuse)
    problem = "unmade.replies.me does not exist and could not be made: TOPIC_AUTHORIZATION_FAILED"
    with pytest.raises(KafkaUnavailable, match=problem):
        RecommendClient(kafka, "unmade", client_id="me", patience_s=LONG_S)
    make_topic(kafka, "unmade.replies.me")
    with RecommendClient(kafka, "unmade", client_id="me", patience_s=LONG_S) as client:
        assert client.reply_topic == "unmade.replies.me"
