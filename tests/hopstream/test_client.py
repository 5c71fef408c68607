import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from hopstream import Recommendations, RecommendClient, RecommendRequest, open_requests
from hopstream.client import Ignored
from hopstream.errors import (
    ClientClosed,
    ClientError,
)
from hopstream.open_requests import OpenRequests
from messages import RequestHeaders, Topics, decode_request
from tests.brokers import consume, mock_kafka
from tests.raw_records import write_with_header
from tests.workers import LONG_S, Worker, error_of, items, make_topic, served, user


@pytest.fixture(scope="module")
def kafka() -> Iterator[str]:
    """The address of a broker; each test uses an index of its own."""
    with mock_kafka() as address:
        yield address


def test_an_answer_comes_back(kafka: str) -> None:
    """Each way of asking gives what the worker said; nothing is ignored on the way."""
    asked: list[RecommendRequest] = []

    def act(worker: Worker, headers: RequestHeaders, request: RecommendRequest) -> None:
        asked.append(request)
        worker.echo(headers, request)

    with served(kafka, "ways", act) as client:
        assert items(client.recommend(user("u1"), timeout_s=LONG_S)) == ["u1"]
        assert items(client.for_user("u2", k=3, timeout_s=LONG_S)) == ["u2"]
        assert items(client.for_item("i1", timeout_s=LONG_S)) == ["nobody"]
        assert items(client.for_history(["i2", "i1"], timeout_s=LONG_S)) == ["nobody"]
        assert client.ignored == Ignored()
    assert [entry.item for entry in asked.pop().history] == ["i2", "i1"]
    assert [(request.user, request.item, request.k) for request in asked] == [
        ("u1", None, 10),
        ("u2", None, 3),
        (None, "i1", 10),
    ]


def test_a_request_says_where_and_until_when(kafka: str) -> None:
    """Headers name this client's topic, a partition that it reads, and the time-out, rounded up to milliseconds."""
    seen: list[RequestHeaders] = []

    def act(worker: Worker, headers: RequestHeaders, request: RecommendRequest) -> None:
        seen.append(headers)
        worker.echo(headers, request)

    with Worker(kafka, "headers", act), RecommendClient(kafka, "headers", client_id="me") as client:
        for _ in range(5):
            client.recommend(user("u"), timeout_s=29.9991)
    assert {headers.reply_to for headers in seen} == {"headers.replies.me"}
    assert {headers.timeout_ms for headers in seen} == {30_000}
    assert [headers.reply_partition for headers in seen] == [0, 1, 2, 3, 0]
    assert len({headers.correlation_id for headers in seen}) == 5


def test_a_request_of_high_priority_has_its_own_topic(kafka: str) -> None:
    """What else is sent stays where it was."""
    topics = Topics("priorities")
    for topic in (topics.requests, topics.requests_high):
        make_topic(kafka, topic)
    with RecommendClient(kafka, topics.index) as client:
        client.submit(user("first"), high=True)
        client.submit(user("other"))
        for topic, name in ((topics.requests_high, "first"), (topics.requests, "other")):
            [message] = consume(kafka, topic, 1)
            assert decode_request(message.value()) == user(name)


def test_a_thousand_at_once_each_get_their_own(kafka: str) -> None:
    """Requests of several threads, answered in the reverse order when all have come, find their futures."""
    waiting: list[tuple[RequestHeaders, RecommendRequest]] = []

    def act(worker: Worker, headers: RequestHeaders, request: RecommendRequest) -> None:
        waiting.append((headers, request))
        if len(waiting) == 1000:
            for late in reversed(waiting):
                worker.echo(*late)

    names = [f"u{number}" for number in range(1000)]
    with served(kafka, "thousand", act) as client, ThreadPoolExecutor(4) as threads:
        futures = list(threads.map(lambda name: client.submit(user(name), LONG_S), names))
        assert [items(future.result()) for future in futures] == [[name] for name in names]
        assert client.ignored == Ignored()


def test_a_late_answer_is_ignored_and_counted(kafka: str) -> None:
    """After its time-out an answer changes nothing, and the next request finds its own."""
    held: Future[RequestHeaders] = Future()

    def act(worker: Worker, headers: RequestHeaders, request: RecommendRequest) -> None:
        if request.user == "u1":
            held.set_result(headers)
            return
        # On one partition, so that the late answer is read before the one that the test waits for.
        worker.echo(replace(held.result(), reply_partition=headers.reply_partition), request)
        worker.echo(headers, request)

    with served(kafka, "late", act) as client:
        future = client.submit(user("u1"), timeout_s=0.1)
        held.result(LONG_S)
        assert error_of(future).startswith("RequestTimedOut: no answer within 0.1 s: ")
        assert items(client.recommend(user("u2"), timeout_s=LONG_S)) == ["u2"]
        assert client.ignored == Ignored(late=1)


def test_strange_answers_are_ignored_and_counted(kafka: str) -> None:
    """A second copy, an answer to nobody's request and those that name none do not disturb the others."""

    def act(worker: Worker, headers: RequestHeaders, request: RecommendRequest) -> None:
        there = {"key": None, "value": b"", "partition": headers.reply_partition}
        worker.writer.write(headers.reply_to, **there)
        worker.writer.write(headers.reply_to, headers=[("correlation_id", b"\xff")], **there)
        write_with_header(kafka, headers.reply_to, b"", b"", b"\xff", partition=headers.reply_partition or 0)
        worker.echo(replace(headers, correlation_id="somebody-0"), request)
        worker.echo(headers, request)
        worker.echo(headers, request)

    with served(kafka, "strange", act) as client:
        for _ in range(5):  # the fifth stands behind all that the first one brought, its second copy too
            assert items(client.recommend(user("u1"), timeout_s=LONG_S)) == ["u1"]
        ignored = client.ignored
    assert (ignored.unknown, ignored.malformed) == (5, 15)
    assert 1 <= ignored.late <= 5


def test_a_client_hears_nothing_of_an_earlier_one(kafka: str) -> None:
    """What lies on the reply topic from before is not read, on any partition."""
    with Worker(kafka, "again", Worker.echo):
        for _ in range(2):
            with RecommendClient(kafka, "again", client_id="same") as client:
                for _ in range(4):
                    client.recommend(user("u1"), LONG_S)
                assert client.ignored == Ignored()


def test_callbacks_may_ask_again_but_not_wait(kafka: str) -> None:
    """A future's callback can submit, and cannot bring the client to a halt by waiting."""
    second: Future[Future[Recommendations]] = Future()
    refused: Future[str] = Future()

    def ask_again(_: Future[Recommendations]) -> None:
        second.set_result(client.submit(user("u2"), LONG_S))
        try:
            client.recommend(user("u3"), LONG_S)
        except ClientError as error:
            refused.set_result(str(error))

    with served(kafka, "callback") as client:
        client.submit(user("u1"), LONG_S).add_done_callback(ask_again)
        assert "use submit()" in refused.result(LONG_S)
        assert items(second.result(LONG_S).result(LONG_S)) == ["u2"]


def test_a_cancelled_request_disturbs_nobody(kafka: str) -> None:
    """An answer to a future that was cancelled is dropped, and the next one finds its own."""

    def act(worker: Worker, headers: RequestHeaders, request: RecommendRequest) -> None:
        if request.user == "u1":
            assert first.cancel()
        worker.echo(headers, request)

    with RecommendClient(kafka, "cancel") as client:
        first = client.submit(user("u1"), LONG_S)
        with Worker(kafka, "cancel", act):
            futures = [client.submit(user("u2"), LONG_S) for _ in range(8)]
            assert [items(future.result()) for future in futures] == [["u2"]] * 8
        assert first.cancelled()


def test_answered_requests_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines of answered requests are forgotten long before they pass; those of open ones are kept."""
    monkeypatch.setattr(open_requests, "_SPARE", 10)
    requests = OpenRequests()
    due = requests.add(0.0)
    kept = requests.add(60.0)
    for _ in range(1000):
        requests.take(requests.add(3600.0).correlation_id)
    assert len(requests._deadlines) <= 15
    assert requests.take_expired() == [due]
    assert 0 < requests.seconds_left(at_most=100.0) <= 60
    assert requests.close(ClientClosed()) == [kept]


def test_importing_hopstream_is_light() -> None:
    """The package as such brings neither torch nor numpy; the client brings no torch."""
    program = """
import sys, hopstream
assert not {"numpy", "torch", "confluent_kafka"} & set(sys.modules)
hopstream.RecommendClient, hopstream.Item
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
