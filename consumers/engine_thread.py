"""The engine thread: owns the mirror and the running batch, talks through queues only."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import structlog

from consumers.mirror import Mirror
from consumers.offsets import Ticket
from consumers.questions import SearchDefaults, make_query
from engine.errors import InvalidQuery, QueueFull
from engine.model import Model
from engine.query import Answer
from engine.scheduler import Scheduler
from engine.search import ParallelSearch
from index_store import Change, GenerationInfo, History, Snapshot
from messages import Recommendations, RecommendRequest, RequestHeaders, ScoredItem, Status

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RequestWorkerConfig:
    """How a request worker works.

    max_waiting: metric evaluations that may wait for a lane before requests are rejected.
    """

    lanes: int = 64
    max_waiting: int = 20_000_000
    default_timeout_ms: int = 10_000
    window: int = 8_192
    search: SearchDefaults = field(default_factory=SearchDefaults)


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A request on its way to the engine. expires_at: seconds since the epoch."""

    ticket: Ticket
    headers: RequestHeaders
    request: RecommendRequest
    history: History
    degraded: bool
    expires_at: float


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """An answer on its way out."""

    ticket: Ticket
    headers: RequestHeaders
    recommendations: Recommendations


class EngineThread:
    """Answers questions: resolves names, steps the search, applies changes between two steps."""

    def __init__(
        self, info: GenerationInfo, model: Model, config: RequestWorkerConfig, reply: Callable[[Reply], None]
    ) -> None:
        self._model, self._config, self._reply = model, config, reply
        self._mirror = Mirror(info, model)
        self._scheduler: Scheduler[Ticket] = self._fresh_scheduler()
        self._questions: dict[Ticket, Question] = {}
        self._inbox: SimpleQueue[Question | Snapshot | Change | None] = SimpleQueue()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def busy(self) -> bool:
        """Whether questions are in work."""
        return bool(self._questions)

    def start(self) -> None:
        """Take the snapshot that waits and begin to answer."""
        self._thread.start()

    def submit(self, question: Question) -> None:
        """Let a question be answered."""
        self._inbox.put(question)

    def follow(self, change: Snapshot | Change) -> None:
        """Let the mirror take over a change, between two steps."""
        self._inbox.put(change)

    def stop(self) -> None:
        """End the thread; questions still in work stay unanswered and uncommitted."""
        self._inbox.put(None)
        self._thread.join()

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while self._take_inbox():
                for ticket, answer in self._scheduler.step():
                    question = self._questions.pop(ticket)
                    self._reply(self._answered(question, answer))
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker must end with its offsets uncommitted
            _log.error("engine failed", error=str(error), kind=type(error).__name__)
            self._failure = error

    def _take_inbox(self) -> bool:
        """Take what waits, and wait when there is nothing to do; False to end."""
        wait = self._scheduler.idle
        while True:
            try:
                message = self._inbox.get(block=wait)
            except Empty:
                return True
            wait = False
            if message is None:
                return False
            if isinstance(message, Question):
                self._ask(message)
            else:
                self._take_over(message)

    def _take_over(self, message: Snapshot | Change) -> None:
        if isinstance(message, Change):
            self._mirror.apply(message)
            return
        # Rows of a snapshot have nothing to do with the rows that running lanes hold: those start again.
        self._mirror.load(message)
        self._scheduler = self._fresh_scheduler()
        unanswered, self._questions = self._questions, {}
        for question in unanswered.values():
            self._ask(question)

    def _fresh_scheduler(self) -> Scheduler[Ticket]:
        return Scheduler(ParallelSearch(self._mirror.index, self._config.lanes), self._config.max_waiting)

    def _ask(self, question: Question) -> None:
        left_s = question.expires_at - time.time()
        if left_s <= 0:
            self._reply(refusal(question, Status.EXPIRED, "its time was up before a lane was free"))
            return
        try:
            query = make_query(
                question.request, question.history, self._mirror, self._model, self._config.search,
                time.monotonic() + left_s,
            )  # fmt: skip
            self._scheduler.submit(question.ticket, query)
        except InvalidQuery as error:
            self._reply(refusal(question, Status.MALFORMED, str(error)))
        except QueueFull as error:
            self._reply(refusal(question, Status.REJECTED, str(error), retry_after_ms=1000))
        else:
            self._questions[question.ticket] = question

    def _answered(self, question: Question, answer: Answer) -> Reply:
        items = tuple(
            ScoredItem(item, float(score))
            for item, score in zip(self._mirror.items(answer.rows), answer.scores, strict=True)
        )
        recommendations = Recommendations(
            Status.OK,
            items=items,
            reason=self._reason(question),
            metric_version=self._model.version,
            index_version=self._mirror.version,
            evaluations=answer.evaluations,
            degraded=question.degraded,
        )
        return Reply(question.ticket, question.headers, recommendations)

    def _reason(self, question: Question) -> str | None:
        if not self._mirror.row_of:
            return "empty_index"
        if question.request.item is not None and question.request.item not in self._mirror.row_of:
            return "unknown_item"
        return None


def refusal(question: Question, status: Status, reason: str, retry_after_ms: int | None = None) -> Reply:
    """The answer to a question that is not worked on."""
    answer = Recommendations(status, reason=reason, retry_after_ms=retry_after_ms, degraded=question.degraded)
    return Reply(question.ticket, question.headers, answer)
