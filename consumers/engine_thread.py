"""The engine thread: owns the mirror and the running batch, talks through queues only."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import numpy as np
import structlog

from consumers import metrics
from consumers.events import Record, RecordId
from consumers.mirror import Mirror
from consumers.questions import SearchDefaults, make_query
from consumers.worker import Heartbeat
from engine.errors import InvalidQuery, QueueFull
from engine.fair_queue import Priority
from engine.model import Model
from engine.query import Answer, Query
from engine.scheduler import Scheduler
from engine.search import ParallelSearch
from engine.warm_up import warm_up
from index_store import Change, GenerationInfo, History, Snapshot
from messages import MalformedMessage, Recommendations, RecommendRequest, RequestHeaders, ScoredItem, Status

_log = structlog.get_logger(__name__)

_TOO_LATE = "its time was up before a lane was free"
_RETRY_AFTER_MS = 1_000
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class RequestWorkerConfig:
    """How a request worker works.

    max_waiting: metric evaluations, of each priority, that may wait for a lane before requests are rejected. device: of
    torch, where the mirror lies and is searched.
    """

    lanes: int = 64
    device: str = "cpu"
    max_waiting: int = 20_000_000
    default_timeout_ms: int = 10_000
    window: int = 8_192
    search: SearchDefaults = field(default_factory=SearchDefaults)


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A request on its way to the engine. expires_at: seconds since the epoch."""

    record: Record
    headers: RequestHeaders
    request: RecommendRequest
    history: History
    degraded: bool
    expires_at: float
    priority: Priority = Priority.NORMAL


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """An answer on its way out."""

    record: Record
    headers: RequestHeaders
    recommendations: Recommendations


@dataclass(frozen=True, slots=True, eq=False)
class _InWork:
    """A question with the query that was made of it when the mirror stood at ``seq``; since: on the monotonic clock."""

    question: Question
    query: Query
    seq: int
    since: float


class EngineThread:
    """Answers questions: resolves names, steps the search, applies changes between two steps.

    reply: called in this thread; it may only put the answer aside.
    """

    def __init__(
        self, info: GenerationInfo, model: Model, config: RequestWorkerConfig, reply: Callable[[Reply], None]
    ) -> None:
        self._model, self._config, self._reply = model, config, reply
        self._mirror = Mirror(info, model, config.device)
        self._scheduler: Scheduler[RecordId] = self._fresh_scheduler()
        self._in_work: dict[RecordId, _InWork] = {}
        self._questions: SimpleQueue[Question | None] = SimpleQueue()
        # These do not wait behind questions; for each of them a None among those wakes who waits there.
        self._changes: deque[Snapshot | Change] = deque()
        self._high: deque[Question] = deque()
        self._stopping = False
        self._loaded = threading.Event()
        self._failure: Exception | None = None
        self.heart = Heartbeat("engine")
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to answer; returns when the snapshot that waits is loaded, or cannot be, as `check` tells."""
        self._thread.start()
        self._loaded.wait()

    def show(self) -> None:
        """Let the process's metrics tell of this mirror, and no longer of another engine's."""
        metrics.MIRROR_ITEMS.set_function(lambda: len(self._mirror.row_of))
        metrics.MIRROR_ROWS.set_function(lambda: self._mirror.index.rows)
        metrics.MIRROR_SEQ.set_function(lambda: self._mirror.seq)

    def submit(self, question: Question) -> None:
        """Let a question be answered."""
        if question.priority is Priority.HIGH:
            self._high.append(question)
            self._questions.put(None)
        else:
            self._questions.put(question)

    def follow(self, change: Snapshot | Change) -> None:
        """Let the mirror take over a change, between two steps."""
        self._changes.append(change)
        self._questions.put(None)

    def stop(self) -> None:
        """End the thread; questions still in work stay unanswered. Harmless if it was never started."""
        self._stopping = True
        self._questions.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            warm_up(self._model.metric, self._config.device)
            while self._take_in():
                if not self._scheduler.idle:
                    self._step()
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker must end with its offsets uncommitted
            _log.error("engine failed", error=str(error), kind=type(error).__name__)
            self._failure = error
        finally:
            self.heart.rest()
            self._loaded.set()

    def _step(self) -> None:
        self.heart.beat()
        for name, answer in self._scheduler.step():
            self._reply(self._answered(self._in_work.pop(name), answer))
        running, _ = self._scheduler.load
        metrics.STEPS.inc()
        metrics.LANES_BUSY.set(running)
        metrics.WAITING_EVALUATIONS.set(self._scheduler.waiting_evaluations)

    def _take_in(self) -> bool:
        """Take in what has come, and wait when there is nothing to do; False to end.

        Of questions no more than delays a step by little, or fills all lanes.
        """
        wait, asked = self._scheduler.idle, 0
        if wait:
            self.heart.rest()
        while asked < max(_AT_ONCE, self._config.lanes):
            try:
                question = self._questions.get(block=wait)
            except Empty:
                break
            wait = False
            while self._changes:
                self._take_over(self._changes.popleft())
            if self._stopping:
                return False
            for each in (self._high.popleft() if self._high else None, question):
                if each is not None:
                    self._ask(each)
                    asked += 1
        return True

    def _take_over(self, message: Snapshot | Change) -> None:
        if isinstance(message, Change):
            self._mirror.apply(message)
            _measure_lag(message)
        else:
            self._start_again(message)
            self._loaded.set()

    def _start_again(self, snapshot: Snapshot) -> None:
        """Rows of a snapshot have nothing to do with the rows that running lanes hold: those start again."""
        self._mirror.load(snapshot)
        self._scheduler = self._fresh_scheduler()
        unanswered, self._in_work = self._in_work, {}
        for in_work in unanswered.values():
            self._ask(in_work.question)

    def _fresh_scheduler(self) -> Scheduler[RecordId]:
        return Scheduler(ParallelSearch(self._mirror.index, self._config.lanes), self._config.max_waiting)

    def _ask(self, question: Question) -> None:
        left_s = question.expires_at - time.time()
        if left_s <= 0:
            self._reply(refusal(question, Status.EXPIRED, _TOO_LATE))
            return
        try:
            query = self._query(question, time.monotonic() + left_s)
            self._scheduler.submit(question.record.id, query, question.priority)
        except InvalidQuery as error:
            self._reply(refusal(question, Status.MALFORMED, str(error)))
        except QueueFull as error:
            self._reply(refusal(question, Status.REJECTED, str(error), retry_after_ms=_RETRY_AFTER_MS))
        else:
            self._in_work[question.record.id] = _InWork(question, query, self._mirror.seq, time.monotonic())

    def _query(self, question: Question, deadline: float | None) -> Query:
        return make_query(question.request, question.history, self._mirror, self._model, self._config.search, deadline)

    def _answered(self, in_work: _InWork, answer: Answer) -> Reply:
        question = in_work.question
        if answer.steps == 0:
            return refusal(question, Status.EXPIRED, _TOO_LATE)
        metrics.SEARCH_SECONDS.observe(time.monotonic() - in_work.since)
        metrics.EVALUATIONS.inc(answer.evaluations)
        wanted = self._still_wanted(in_work, answer.rows)
        ids = self._mirror.items(answer.rows[wanted])
        try:
            recommendations = Recommendations(
                Status.OK,
                items=tuple(map(ScoredItem, ids, answer.scores[wanted].tolist())),
                reason=self._reason(question),
                metric_version=self._model.version,
                index_version=self._mirror.version,
                evaluations=answer.evaluations,
                degraded=question.degraded,
            )
        except MalformedMessage as error:  # scores that overflow, for vectors beyond all reason
            return refusal(question, Status.FAILED, str(error))
        return Reply(question.record, question.headers, recommendations)

    def _still_wanted(self, in_work: _InWork, rows: np.ndarray) -> np.ndarray:
        """bool[n]: which of the rows int64[n] the request wants.

        All, unless the index has changed meanwhile: a row chosen by its number may hold another item by now.
        """
        if in_work.seq == self._mirror.seq:
            return np.ones(len(rows), dtype=bool)
        query = self._query(in_work.question, None)
        allowed = ~np.isin(rows, query.excluded)
        return allowed if query.mask is None else allowed & query.mask[rows]

    def _reason(self, question: Question) -> str | None:
        if not self._mirror.row_of:
            return "empty_index"
        if question.request.item is not None and question.request.item not in self._mirror.row_of:
            return "unknown_item"
        return None


def refusal(question: Question, status: Status, reason: str, retry_after_ms: int | None = None) -> Reply:
    """The answer to a question that is not worked on."""
    answer = Recommendations(status, reason=reason, retry_after_ms=retry_after_ms, degraded=question.degraded)
    return Reply(question.record, question.headers, answer)


def _measure_lag(taken: Change) -> None:
    if taken.checkpoint is not None and (taken.ids_set or taken.ids_deleted):  # not for links that come behind
        metrics.CHANGE_LAG_SECONDS.observe(max(0.0, time.time() - taken.checkpoint.timestamp_ms / 1000))
