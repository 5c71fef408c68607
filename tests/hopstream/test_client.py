import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Producer

from hopstream import Recommendations, RecommendClient, RecommendRequest, open_requests, reply_topic
from hopstream.client import Ignored
from hopstream.errors import (
    AnswerUnreadable,
    ClientClosed,
    ClientError,
    KafkaUnavailable,
    RequestNotSent,
    RequestTimedOut,
)
from hopstream.open_requests import OpenRequests
from messages import RequestHeaders, ScoredItem, Status, Topics, decode_request, parse_request
from producers import ResponsePublisher, Writer
from tests.brokers import mock_kafka, reader

QUIET = {"log_level": 0}
LONG_S = 30.0  # for what must come, on a machine however busy


@pytest.fixture(scope="module")
def kafka() -> Iterator[str]:
    """The address of a broker; each test uses an index of its own."""
    with mock_kafka() as address:
        yield address


def make_topic(kafka: str, topic: str) -> None:
    """Have a topic made, as the embedded broker does when a producer asks for it."""
    Producer({"bootstrap.servers": kafka}).list_topics(topic, timeout=LONG_S)


class Worker:
    """Hands every request of an index to `act`, on a thread of its own, which may answer it, or any other, or not."""

    def __init__(
        self, kafka: str, index: str, act: Callable[["Worker", RequestHeaders, RecommendRequest], None]
    ) -> None:
        self.writer = Writer(kafka)
        self._publisher = ResponsePublisher(self.writer, Topics(index))
        make_topic(kafka, Topics(index).requests)
        self._requests = reader(kafka, Topics(index).requests)
        self._act = act
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def echo(self, headers: RequestHeaders, request: RecommendRequest) -> None:
        """Answer with one item, named like the user who asks."""
        self._publisher.publish(headers, Recommendations(Status.OK, items=(ScoredItem(request.user or "nobody", 1.0),)))

    def _run(self) -> None:
        with self._requests as consumer:
            while not self._stop.is_set():
                if message := consumer.poll(0.05):
                    self._act(self, parse_request(message.headers()), decode_request(message.value()))
                    self.writer.poll()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.writer.flush()


def user(name: str) -> RecommendRequest:
    """Return a request of a user."""
    return RecommendRequest(user=name)


def items(recommendations: Recommendations) -> list[str]:
    """Return the items' names."""
    return [item.item for item in recommendations.items]


def error_of(future: Future[Recommendations]) -> str:
    """Return the kind and text of the error a future ends with."""
    error = future.exception(LONG_S)
    return f"{type(error).__name__}: {error}"


@contextmanager
def served(
    kafka: str, index: str, act: Callable[[Worker, RequestHeaders, RecommendRequest], None] = Worker.echo
) -> Iterator[RecommendClient]:
    """Run a worker and a client of one index."""
    with Worker(kafka, index, act), RecommendClient(kafka, index) as client:
        yield client


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
    """After its time-out an answer changes nothing; the error said where to look."""
    held: list[RequestHeaders] = []

    def act(worker: Worker, headers: RequestHeaders, request: RecommendRequest) -> None:
        if not held:
            held.append(headers)
            return
        # On one partition, so that the late answer is read before the one that the test waits for.
        worker.echo(replace(held[0], reply_partition=headers.reply_partition), request)
        worker.echo(headers, request)

    with served(kafka, "late", act) as client:
        with pytest.raises(RequestTimedOut, match=r"within 0.3 s: is a worker serving index late \("):
            client.recommend(user("u1"), timeout_s=0.3)
        assert items(client.recommend(user("u2"), timeout_s=LONG_S)) == ["u2"]
        assert client.ignored == Ignored(late=1)


def test_strange_answers_are_ignored_and_counted(kafka: str) -> None:
    """A second copy, an answer to nobody's request and one that names none do not disturb the others."""

    def act(worker: Worker, headers: RequestHeaders, request: RecommendRequest) -> None:
        there = {"key": None, "value": b"", "partition": headers.reply_partition}
        worker.writer.write(headers.reply_to, **there)
        worker.writer.write(headers.reply_to, headers=[("correlation_id", b"\xff")], **there)
        worker.echo(replace(headers, correlation_id="somebody-0"), request)
        worker.echo(headers, request)
        worker.echo(headers, request)

    with served(kafka, "strange", act) as client:
        for _ in range(5):  # the fifth stands behind all that the first one brought, its second copy too
            assert items(client.recommend(user("u1"), timeout_s=LONG_S)) == ["u1"]
        ignored = client.ignored
    assert (ignored.unknown, ignored.malformed) == (5, 10)
    assert 1 <= ignored.late <= 5


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


def test_a_client_hears_nothing_of_an_earlier_one(kafka: str) -> None:
    """What lies on the reply topic from before is not read, on any partition."""
    with Worker(kafka, "again", Worker.echo):
        for _ in range(2):
            with RecommendClient(kafka, "again", client_id="same") as client:
                for _ in range(4):
                    client.recommend(user("u1"), LONG_S)
                assert client.ignored == Ignored()


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


@pytest.mark.parametrize("timeout_s", [0, -1, 3601, float("nan"), float("inf")])
def test_a_time_out_is_positive_and_at_most_an_hour(kafka: str, timeout_s: float) -> None:
    """What the header cannot hold is refused before anything is sent."""
    with RecommendClient(kafka, "limits") as client, pytest.raises(ValueError, match="timeout_s"):
        client.submit(user("u1"), timeout_s)


def test_a_request_that_kafka_refuses_fails_its_future(kafka: str) -> None:
    """A record too large for Kafka is an error at once, and names the reason."""
    with RecommendClient(kafka, "large", options={"message.max.bytes": 1000, **QUIET}) as client:
        request = RecommendRequest(user="u1", exclude=tuple(f"item-{number}" for number in range(1000)))
        assert error_of(client.submit(request, LONG_S)).startswith(
            "RequestNotSent: large.requests: not written: MSG_SIZE"
        )


def test_a_request_that_kafka_never_took() -> None:
    """With the broker gone, the delivery's failure or the time-out ends the wait, whichever comes first."""
    with mock_kafka() as address:
        short = RecommendClient(address, "gone", options={"message.timeout.ms": 100, **QUIET})
        patient = RecommendClient(address, "gone", options=QUIET)
    with short, patient:
        undelivered, unheard = short.submit(user("u1"), LONG_S), patient.submit(user("u1"), 0.2)
        assert error_of(unheard).startswith(
            f"RequestTimedOut: no answer within 0.2 s: Kafka at {address} has not taken"
        )
        assert isinstance(undelivered.exception(LONG_S), RequestNotSent)


def test_no_kafka_is_an_error_that_says_so() -> None:
    """Without a broker no client comes into being; the error names the address."""
    with pytest.raises(KafkaUnavailable, match=r"Kafka at 127.0.0.1:1 does not answer"):
        RecommendClient("127.0.0.1:1", "nobody", options=QUIET, patience_s=0.1)


def test_an_unknown_kafka_option_is_named(kafka: str) -> None:
    """An option that librdkafka does not have is an error of ours with its name."""
    with pytest.raises(KafkaUnavailable, match=r"kafka.options: .*sasl.pasword"):
        RecommendClient(kafka, "options", options={"sasl.pasword": "x"})


def test_a_missing_topic_is_made(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where asking for a topic does not make it, the client has it created, for minutes-old records only."""
    made: list[Any] = []

    def create_topics(topics: list[Any], **_: float) -> dict[str, Future[None]]:
        made.extend(topics)
        make_topic(kafka, topics[0].topic)
        done: Future[None] = Future()
        done.set_result(None)
        return {topics[0].topic: done}

    # The embedded broker cannot create topics: asking it as a producer does stands for that.
    monkeypatch.setattr(reply_topic, "AdminClient", lambda _: SimpleNamespace(create_topics=create_topics))
    with RecommendClient(kafka, "made", client_id="me", options={"allow.auto.create.topics": False, **QUIET}) as client:
        assert [topic.topic for topic in made] == [client.reply_topic] == ["made.replies.me"]
    assert made[0].config == {"cleanup.policy": "delete", "retention.ms": "600000"}


def test_a_topic_that_cannot_be_made_is_an_error(kafka: str) -> None:
    """The error names the topic and the broker's reason."""
    options = {"allow.auto.create.topics": False, **QUIET}
    with pytest.raises(KafkaUnavailable, match=r"unmade.replies.me does not exist and could not be made"):
        RecommendClient(kafka, "unmade", client_id="me", options=options, patience_s=0.1)


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
