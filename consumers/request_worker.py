"""The request worker: many requests at once, from Kafka through one running batch and back.

Four threads and a follower. Two poll threads (`Intake`) hand records out, one of them those of high priority. The
engine thread owns the mirror and the batch: it resolves names, steps the search and applies changes between two steps.
The main thread decodes, reads histories in one pipelined read, and publishes answers.
"""

import time
from collections.abc import Mapping
from queue import Empty, SimpleQueue
from typing import Any

import structlog

from consumers.engine_thread import EngineThread, Question, Reply, RequestWorkerConfig, refusal
from consumers.events import Event, Record
from consumers.histories import HistoryReader
from consumers.intake import Intake
from consumers.mirror import MirrorFeed
from consumers.outbox import Outbox
from consumers.worker import Heartbeat, WorkerStatus
from engine.fair_queue import Priority
from engine.model import Model
from index_store import Follower, GenerationInfo, Server
from messages import (
    MalformedMessage,
    Recommendations,
    RecommendRequest,
    RequestHeaders,
    Status,
    Topics,
    UnsupportedSchema,
    decode_request,
    parse_request,
)
from producers import Writer

_log = structlog.get_logger(__name__)

_REPORTS_S = 0.002  # how often delivery reports are looked for while there are some to come
_IDLE_S = 0.05
_AT_ONCE = 128
_CLOSE_S = 10.0

Readable = tuple[Record, RequestHeaders, RecommendRequest]


class RequestWorker:
    """Answers the requests of one index until told to stop."""

    def __init__(
        self,
        bootstrap_servers: str,
        server: Server,
        info: GenerationInfo,
        model: Model,
        config: RequestWorkerConfig,
        kafka_options: Mapping[str, object] | None = None,
    ) -> None:
        """Prepare to serve. Raises `GenerationMismatch` when the generation was made with another model."""
        info.require_artefact(model.sha256)
        self._config, self._topics = config, Topics(info.index)
        self._inbox: SimpleQueue[Event | None] = SimpleQueue()
        # These do not wait behind what is in the inbox; for each of them a None there wakes who waits.
        self._replies: SimpleQueue[Reply] = SimpleQueue()
        self._high: SimpleQueue[Event] = SimpleQueue()
        group, topics = f"{info.index}.request-workers", self._topics
        self._intakes = {
            topic: Intake(bootstrap_servers, topic, readers, put, window=config.window, options=kafka_options)
            for topic, readers, put in (
                (topics.requests, group, self._inbox.put),
                (topics.requests_high, f"{group}.high", self._put_high),
            )
        }
        self._engine = EngineThread(info, model, config, self._put_reply)
        self._feed = MirrorFeed(Follower(server, info, 0), self._engine.follow)
        self._histories = HistoryReader(server, info.index, lambda: self._feed.answered_at)
        self._outbox = Outbox(Writer(bootstrap_servers, kafka_options), self._topics, self._done)
        self._heart = Heartbeat("request worker")
        self._prepared = False
        self._stopping = False
        self._closed = False

    @property
    def answered(self) -> int:
        """How many requests have been answered, whatever with."""
        return self._outbox.answered

    def prepare(self) -> None:
        """Load the mirror and begin to follow. Raises `StoreError`."""
        if not self._prepared:
            self._feed.start()
            self._engine.start()
            self._engine.check()
            self._prepared = True

    def run(self) -> None:
        """Serve until `stop`; then finish what was taken, and commit. Raises what ended it otherwise.

        That is also where Kafka has not taken an answer within `message.timeout.ms`: what was taken stays uncommitted,
        and whoever is started in its place answers it.
        """
        try:
            self.prepare()
            self._engine.show()
            for intake in self._intakes.values():
                intake.start()
            _log.info("serving requests")
            while not self._stopping:
                self._turn()
            self._drain()
        finally:
            self.close()
        _log.info("stopped", answered=self.answered)

    def stop(self) -> None:
        """Take no more requests and let `run` return when the ones taken are answered. Safe in a signal handler."""
        self._stopping = True

    def close(self) -> None:
        """End all threads and connections, and give the lease back; what `run` does last. Harmless when done before."""
        if self._closed:
            return
        self._closed = True
        self._heart.rest()
        for intake in self._intakes.values():
            intake.stop(finish=False)
        patience = time.monotonic() + _CLOSE_S
        for intake in self._intakes.values():
            intake.join(max(0.0, patience - time.monotonic()))
        self._engine.stop()
        self._feed.stop()
        self._histories.close()
        self._outbox.close()

    def status(self) -> WorkerStatus:
        """How it is now. Without the store, requests are answered from the mirror; ordinary ones without the others."""
        ordinary, high = (self._intakes[topic] for topic in (self._topics.requests, self._topics.requests_high))
        without = [f"requests of high priority, for want of {what}" for what in high.membership.waiting_for]
        hearts = self._heart, self._engine.heart, ordinary.heart, high.heart
        return WorkerStatus(
            waiting_for=ordinary.membership.waiting_for if self._prepared else ("the mirror of the index",),
            without=(*without, *(() if self._feed.available else ("the store",))),
            stuck=tuple(heart.name for heart in hearts if heart.stuck),
        )

    def _put_reply(self, reply: Reply) -> None:
        self._replies.put(reply)
        self._inbox.put(None)

    def _put_high(self, event: Event) -> None:
        self._high.put(event)
        self._inbox.put(None)

    def _done(self, record: Record) -> None:
        self._intakes[record.topic].done(record.ticket)

    def _drain(self) -> None:
        """Finish: what was taken is answered, the answers are acknowledged, and only then their offsets committed."""
        for intake in self._intakes.values():
            intake.stop()
        while any(intake.running for intake in self._intakes.values()):
            self._turn()
        self._check()

    def _turn(self) -> None:
        self._heart.beat()
        self._check()
        waiting = self._next_events()
        for reply in _taken(self._replies, self._replies.qsize()):
            self._outbox.publish(reply)
        for events in (_taken(self._high, _AT_ONCE), waiting):
            self._take([event for event in events if isinstance(event, Record)])
        self._outbox.settle()

    def _check(self) -> None:
        """Raise what ended another thread."""
        for intake in self._intakes.values():
            intake.check()
        self._engine.check()
        self._feed.check()

    def _next_events(self) -> list[Event]:
        """What has come to the inbox; waits a moment for the first, unless there is more to do."""
        events: list[Event] = []
        if self._replies.empty() and self._high.empty():
            try:
                first = self._inbox.get(timeout=_REPORTS_S if self._outbox.in_flight else _IDLE_S)
            except Empty:
                return []
            events += [] if first is None else [first]
        return events + _taken(self._inbox, _AT_ONCE)

    def _take(self, records: list[Record]) -> None:
        """Hand the requests in records to the engine, with the histories that they need."""
        asked = [readable for record in records if (readable := self._read(record)) is not None]
        histories = self._histories.read([request.user for _, _, request in asked if request.user is not None])
        for record, headers, request in asked:
            history = None if histories is None else histories.get(request.user or "", {})
            away = not self._feed.available or (history is None and request.user is not None)
            priority = Priority.HIGH if record.topic == self._topics.requests_high else Priority.NORMAL
            expiry = self._expiry(record, headers)
            question = Question(record, headers, request, history or {}, away, expiry, priority)
            if question.expires_at <= time.time():
                self._outbox.publish(refusal(question, Status.EXPIRED, "its time was up before it was read"))
            else:
                self._engine.submit(question)

    def _read(self, record: Record) -> Readable | None:
        """The request in a record; None where it is answered, or buried since nobody can be told."""
        try:
            record.require_headers()
            headers = parse_request(record.headers)
        except MalformedMessage as error:
            self._outbox.bury(record, str(error))
            return None
        if not self._topics.is_replies(headers.reply_to):
            self._outbox.bury(record, f"reply_to: {headers.reply_to} is no topic for answers")
            return None
        try:
            return record, headers, decode_request(record.value or b"")
        except UnsupportedSchema as error:
            refused = Recommendations(Status.UNSUPPORTED, reason=str(error))
        except MalformedMessage as error:
            refused = Recommendations(Status.MALFORMED, reason=str(error))
        self._outbox.publish(Reply(record, headers, refused))
        return None

    def _expiry(self, record: Record, headers: RequestHeaders) -> float:
        """When a request's time is up, in seconds since the epoch: counted from the broker's timestamp.

        From now where the broker tells none, or one of the future, which only a wrong clock can be the cause of.
        """
        now_ms = time.time() * 1000
        asked_ms = min(record.timestamp_ms, now_ms) if record.timestamp_ms >= 0 else now_ms
        return (asked_ms + (headers.timeout_ms or self._config.default_timeout_ms)) / 1000


def _taken(queue: SimpleQueue[Any], most: int) -> list[Any]:
    """What is in a queue, so many at most; None is nothing."""
    taken: list[Any] = []
    try:
        while len(taken) < most:
            if (thing := queue.get_nowait()) is not None:
                taken.append(thing)
    except Empty:
        pass
    return taken
