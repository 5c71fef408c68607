"""The request worker: many requests at once, from Kafka through one running batch and back.

Three threads. The poll thread (`Intake`) hands records out. The engine thread owns the mirror and the batch: it
resolves names, steps the search and applies changes between two steps. The main thread decodes, reads histories in one
pipelined read, and publishes answers.
"""

import threading
import time
from collections.abc import Mapping
from queue import Empty, SimpleQueue

import structlog

from consumers.engine_thread import EngineThread, Question, Reply, RequestWorkerConfig, refusal
from consumers.intake import Event, Intake, Record
from consumers.mirror import MirrorFeed
from consumers.offsets import Ticket
from engine.model import Model
from index_store import Follower, GenerationInfo, History, HistoryStore, Server, StoreError
from messages import (
    DeadLetter,
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
from producers import DeadLetterProducer, Delivery, OnDelivered, ProducerError, ResponsePublisher, Writer

_log = structlog.get_logger(__name__)

_TURN_S = 0.002
_IDLE_S = 0.05
_READ_AT_ONCE = 512


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
        topics = Topics(info.index)
        info.require_artefact(model.sha256)
        self._config = config
        self._records: SimpleQueue[Event] = SimpleQueue()
        self._replies: SimpleQueue[Reply] = SimpleQueue()
        self._delivered: SimpleQueue[tuple[Ticket, Delivery]] = SimpleQueue()
        self._histories = HistoryStore(server, info.index)
        self._writer = Writer(bootstrap_servers, kafka_options)
        self._publisher = ResponsePublisher(self._writer, topics)
        self._graveyard = DeadLetterProducer(self._writer)
        self._intake = Intake(
            bootstrap_servers, topics.requests, f"{info.index}.request-workers", self._records.put,
            window=config.window, options=kafka_options,
        )  # fmt: skip
        self._engine = EngineThread(info, model, config, self._replies.put)
        self._feed = MirrorFeed(Follower(server.sibling(), info, 0), self._engine.follow)
        self._stopping = threading.Event()
        self.answered = 0

    def run(self) -> None:
        """Serve until `stop`; then finish what was taken, and commit. Raises what ended it otherwise."""
        self._feed.start()
        self._engine.start()
        self._intake.start()
        _log.info("serving requests")
        try:
            while not self._stopping.is_set():
                self._turn()
            self._drain()
        finally:
            self._intake.stop()
            self._engine.stop()
            self._feed.stop()
            self._writer.flush()
        _log.info("stopped", answered=self.answered)

    def stop(self) -> None:
        """Take no more requests and let `run` return when the ones taken are answered. Safe in a signal handler."""
        self._stopping.set()

    def _turn(self) -> None:
        self._intake.check()
        self._engine.check()
        records = self._next_records()
        if records:
            self._submit(records)
        self._publish()

    def _drain(self) -> None:
        self._intake.stop()
        while self._intake.running:
            self._turn()
        self._intake.join(0)

    def _next_records(self) -> list[Record]:
        """What has come, without waiting while answers are on their way."""
        records: list[Record] = []
        wait = _TURN_S if self._engine.busy or not self._replies.empty() else _IDLE_S
        try:
            event = self._records.get(timeout=wait if self._replies.empty() else 0)
            while True:
                if isinstance(event, Record):
                    records.append(event)
                if len(records) == _READ_AT_ONCE:
                    break
                event = self._records.get_nowait()
        except Empty:
            pass
        return records

    # -- in ----------------------------------------------------------------------------------------------------------

    def _submit(self, records: list[Record]) -> None:
        asked = [asked for record in records if (asked := self._decoded(record)) is not None]
        users = [request.user for _, _, request in asked if request.user is not None]
        histories, degraded = self._read_histories(users)
        for record, headers, request in asked:
            timeout_ms = headers.timeout_ms or self._config.default_timeout_ms
            question = Question(
                record.ticket,
                headers,
                request,
                histories.get(request.user or "", {}),
                degraded or not self._feed.available,
                (record.timestamp_ms + timeout_ms) / 1000,
            )
            if time.time() >= question.expires_at:
                self._replies.put(refusal(question, Status.EXPIRED, "its time was up before it was read"))
            else:
                self._engine.submit(question)

    def _decoded(self, record: Record) -> tuple[Record, RequestHeaders, RecommendRequest] | None:
        """The request in a record; one that cannot be answered at all becomes a dead letter."""
        try:
            headers = parse_request(record.headers)
        except MalformedMessage as error:
            self._bury(record, str(error))
            return None
        try:
            return record, headers, decode_request(record.value or b"")
        except UnsupportedSchema as error:
            refused = Recommendations(Status.UNSUPPORTED, reason=str(error))
        except MalformedMessage as error:
            refused = Recommendations(Status.MALFORMED, reason=str(error))
        self._replies.put(Reply(record.ticket, headers, refused))
        return None

    def _read_histories(self, users: list[str]) -> tuple[Mapping[str, History], bool]:
        try:
            return (self._histories.read(users) if users else {}), False
        except StoreError as error:
            _log.warning("histories away, answering without", error=str(error))
            return {}, True

    # -- out ---------------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        while True:
            try:
                reply = self._replies.get_nowait()
            except Empty:
                break
            try:
                self._publisher.publish(reply.headers, reply.recommendations, self._on_delivered(reply.ticket))
            except ProducerError as error:
                # Nobody can be told: a reply topic outside of the allow-list, or one that Kafka refuses.
                _log.warning("answer refused", error=str(error))
                self._intake.done(reply.ticket)
        self._writer.poll(0)
        self._take_deliveries()

    def _bury(self, record: Record, reason: str) -> None:
        letter = DeadLetter(record.topic, record.ticket.partition, record.ticket.offset, reason)
        self._graveyard.bury(
            letter, key=record.key, value=record.value, headers=record.headers,
            on_delivered=self._on_delivered(record.ticket),
        )  # fmt: skip

    def _on_delivered(self, ticket: Ticket) -> OnDelivered:
        return lambda delivery: self._delivered.put((ticket, delivery))

    def _take_deliveries(self) -> None:
        while True:
            try:
                ticket, delivery = self._delivered.get_nowait()
            except Empty:
                return
            if delivery.error is not None:
                raise delivery.error
            self.answered += 1
            self._intake.done(ticket)
