"""Ask for recommendations over Kafka and hear the answer.

with RecommendClient("127.0.0.1:9092", "default") as client:
    client.for_user("u1").items                         # one, waiting for it
    futures = [client.submit(request) for request in requests]  # many at once
"""

import math
import threading
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException, Message

from consumers.connection import headers_of
from hopstream.errors import (
    AnswerUnreadable,
    ClientClosed,
    ClientError,
    KafkaUnavailable,
    RequestNotSent,
    RequestTimedOut,
)
from hopstream.open_requests import OpenRequest, OpenRequests
from hopstream.reply_topic import ReplyTopic
from messages import (
    HistoryEntry,
    MalformedMessage,
    MessageError,
    Recommendations,
    RecommendRequest,
    RequestHeaders,
    Topics,
    decode_recommendations,
    parse_correlation_id,
)
from producers import Delivery, InvalidOptions, ProducerError, RequestProducer, Writer

__all__ = ["Ignored", "RecommendClient"]

_IDLE_S = 0.05  # the longest wait for an answer before reports and deadlines are looked at
_MAX_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Ignored:
    """Answers that nobody waited for.

    late: to requests of this client, after their time-out or for the second time. unknown: to nobody's request.
    malformed: that do not say to which.
    """

    late: int = 0
    unknown: int = 0
    malformed: int = 0


class RecommendClient:
    """Sends requests to the workers of one index and awaits their answers; usable from many threads.

    It hears answers on a topic of its own, `<index>.replies.<client_id>`, and knows its position there before the
    first request leaves. A random `client_id` is chosen where none is given; on a lasting Kafka give one, or every
    run leaves an (empty) topic behind. `options` are librdkafka's, such as `Settings.kafka.options`.

    Raises `KafkaUnavailable` when there is nobody to talk to within `patience_s` seconds, `InvalidOptions` for options
    that librdkafka does not take, and `MalformedMessage` for an `index` or `client_id` that no topic's name can hold.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        index: str,
        *,
        client_id: str | None = None,
        options: Mapping[str, object] | None = None,
        patience_s: float = 10.0,
    ) -> None:
        self._topics = Topics(index)
        self._bootstrap_servers = bootstrap_servers
        reply_topic = self._topics.replies(client_id or uuid.uuid4().hex[:12])
        self._replies = ReplyTopic(bootstrap_servers, reply_topic, options, patience_s)
        try:
            self._writer = Writer(bootstrap_servers, options)
        except InvalidOptions:
            self._replies.close()
            raise
        self._requests = RequestProducer(self._writer, self._topics)
        self._open = OpenRequests()
        self._sending = threading.Lock()  # nobody may be inside the writer while it is closed
        self._undelivered: SimpleQueue[tuple[OpenRequest, ProducerError]] = SimpleQueue()
        self._ignored = Ignored()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"replies {reply_topic}", daemon=True)
        self._thread.start()

    @property
    def reply_topic(self) -> str:
        """Where the answers come."""
        return self._replies.topic

    @property
    def ignored(self) -> Ignored:
        """How many answers nobody waited for."""
        return self._ignored

    def recommend(self, request: RecommendRequest, timeout_s: float = 10.0, *, high: bool = False) -> Recommendations:
        """Send a request, ``high`` before ordinary ones, and wait for the answer, which may be a refusal: its `status`.

        Raises `RequestTimedOut`, `RequestNotSent`, `AnswerUnreadable`, `ClientClosed`. Not for callbacks of futures:
        they run on the thread that would bring the answer.
        """
        if threading.current_thread() is self._thread:
            raise ClientError("recommend() would wait for its own thread: use submit() in callbacks of futures")
        future = self.submit(request, timeout_s, high=high)
        try:
            return future.result()
        finally:
            future.cancel()  # after Ctrl-C nobody waits any more; otherwise this does nothing

    def submit(
        self, request: RecommendRequest, timeout_s: float = 10.0, *, high: bool = False
    ) -> Future[Recommendations]:
        """Send a request and return at once with what will hold the answer, or the error `recommend` would raise.

        Those that are ``high`` pass the ordinary ones that wait; where many of both do, they get eight times the work.
        Raises `ClientClosed` on a closed client, ValueError for a time-out not within 0 and 3,600 seconds. Waits,
        some seconds at most, while more requests are on their way to Kafka than there is memory for.
        """
        if not 0 < timeout_s <= _MAX_TIMEOUT_S:
            raise ValueError(f"timeout_s: {timeout_s:g} is not within 0 and {_MAX_TIMEOUT_S:g} seconds")
        with self._sending:
            opened = self._open.add(timeout_s)
            try:
                noted = partial(self._note_delivery, opened)
                self._requests.send(request, self._headers(opened), high=high, on_delivered=noted)
            except ProducerError as error:
                self._undelivered.put((opened, error))
        return opened.future

    def for_user(self, user: str, k: int = 10, timeout_s: float = 10.0) -> Recommendations:
        """Recommend by what is known of a user."""
        return self.recommend(RecommendRequest(user=user, k=k), timeout_s)

    def for_item(self, item: str, k: int = 10, timeout_s: float = 10.0) -> Recommendations:
        """Recommend what goes with an item."""
        return self.recommend(RecommendRequest(item=item, k=k), timeout_s)

    def for_history(self, items: Sequence[str], k: int = 10, timeout_s: float = 10.0) -> Recommendations:
        """Recommend to somebody who chose these items, newest first."""
        return self.recommend(RecommendRequest(history=tuple(map(HistoryEntry, items)), k=k), timeout_s)

    def close(self) -> None:
        """Stop: what is still open fails with `ClientClosed`. Again, it does nothing."""
        self._stopping.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _headers(self, opened: OpenRequest) -> RequestHeaders:
        partitions = self._replies.partitions
        return RequestHeaders(
            opened.correlation_id,
            self._replies.topic,
            reply_partition=partitions[opened.number % len(partitions)],
            timeout_ms=math.ceil(opened.timeout_s * 1000),
        )

    def _note_delivery(self, opened: OpenRequest, delivery: Delivery) -> None:
        # Only a note: failing the future here would run its callbacks, and they may write.
        if delivery.error:
            self._undelivered.put((opened, delivery.error))
        else:
            opened.written = True

    # ---- What follows runs on the client's own thread ----

    def _run(self) -> None:
        end: ClientError = ClientClosed("the client is closed")
        try:
            while not self._stopping.is_set():
                self._turn()
        except KafkaException as error:
            end = KafkaUnavailable(f"reading {self._replies.topic} failed: {error.args[0].str()}")
        finally:
            # However it came to this, nobody is left waiting, and from here on nobody sends.
            with self._sending:
                left = self._open.close(end)
            for opened in left:
                opened.fail(end)
            self._replies.close()
            self._writer.close()

    def _turn(self) -> None:
        for message in self._replies.poll(self._open.seconds_left(at_most=_IDLE_S)):
            self._receive(message)
        self._writer.poll()
        self._fail_undelivered()
        for opened in self._open.take_expired():
            opened.fail(RequestTimedOut(f"no answer within {opened.timeout_s:g} s: {self._what_to_check(opened)}"))

    def _receive(self, message: Message) -> None:
        try:
            correlation_id = parse_correlation_id(headers_of(message))
        except MalformedMessage:
            self._ignored = replace(self._ignored, malformed=self._ignored.malformed + 1)
            return
        opened = self._open.take(correlation_id)
        if opened is None:
            self._ignore(correlation_id)
            return
        try:
            recommendations = decode_recommendations(message.value() or b"")
        except MessageError as error:
            opened.fail(AnswerUnreadable(f"{error}: are the workers of the same version as this client?"))
        else:
            opened.answer(recommendations)

    def _ignore(self, correlation_id: str) -> None:
        if self._open.is_ours(correlation_id):
            self._ignored = replace(self._ignored, late=self._ignored.late + 1)
        else:
            self._ignored = replace(self._ignored, unknown=self._ignored.unknown + 1)

    def _fail_undelivered(self) -> None:
        while True:
            try:
                opened, error = self._undelivered.get_nowait()
            except Empty:
                return
            if self._open.take(opened.correlation_id):
                opened.fail(RequestNotSent(str(error)))

    def _what_to_check(self, opened: OpenRequest) -> str:
        if opened.written:
            check = f"is a worker serving index {self._topics.index} ('hopstream serve requests')?"
        else:
            check = f"Kafka at {self._bootstrap_servers} has not taken the request yet: is it running?"
        return f"{check} Kafka last said: {self._replies.trouble}" if self._replies.trouble else check
