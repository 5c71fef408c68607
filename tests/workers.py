"""A worker for tests of the client: it answers whatever a test wants answered, and how."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from confluent_kafka import Producer

from hopstream import Recommendations, RecommendClient, RecommendRequest
from messages import RequestHeaders, ScoredItem, Status, Topics, decode_request, parse_request
from producers import ResponsePublisher, Writer
from tests.brokers import reader

LONG_S = 30.0  # for what must come, on a machine however busy


def make_topic(kafka: str, topic: str) -> None:
    """Have a topic made, as the embedded broker does when a producer asks for it."""
    Producer({"bootstrap.servers": kafka, "log_level": 0}).list_topics(topic, timeout=LONG_S)


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
