"""The requests of a client that wait for their answers: found by correlation id, given up in the order of deadlines."""

import heapq
import itertools
import threading
import time
import uuid
from concurrent.futures import Future
from dataclasses import dataclass, field

from hopstream.errors import ClientError
from messages import Recommendations

__all__ = ["OpenRequest", "OpenRequests"]

_SPARE = 1024  # answered requests that may lie among the deadlines, beside as many as there are open ones


@dataclass(slots=True, eq=False)
class OpenRequest:
    """A request without an answer yet.

    number: of the request, counted from 0. timeout_s, deadline: in seconds, the latter of the monotonic clock.
    written: whether Kafka is known to have it.
    """

    number: int
    correlation_id: str
    timeout_s: float
    deadline: float
    written: bool = False
    future: Future[Recommendations] = field(default_factory=Future)

    def answer(self, recommendations: Recommendations) -> None:
        """Give the answer to whoever waits, unless they have stopped waiting. Once, and not after `fail`."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(recommendations)

    def fail(self, error: ClientError) -> None:
        """Raise `error` where the answer is waited for. Once, and not after `answer`."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class OpenRequests:
    """All open requests of one client; usable from several threads.

    Whoever takes a request out answers it or fails it, and nobody else can: each leaves exactly once.
    """

    def __init__(self) -> None:
        self._prefix = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._open: dict[str, OpenRequest] = {}
        self._deadlines: list[tuple[float, str]] = []
        self._refusal: ClientError | None = None

    def add(self, timeout_s: float) -> OpenRequest:
        """Open a request. Raises what `close` was told, after it."""
        number = next(self._numbers)
        correlation_id = f"{self._prefix}-{number}"
        request = OpenRequest(number, correlation_id, timeout_s, time.monotonic() + timeout_s)
        with self._lock:
            if self._refusal:
                raise self._refusal
            self._open[correlation_id] = request
            heapq.heappush(self._deadlines, (request.deadline, correlation_id))
            if len(self._deadlines) > 2 * len(self._open) + _SPARE:
                self._deadlines = [(left.deadline, left.correlation_id) for left in self._open.values()]
                heapq.heapify(self._deadlines)
        return request

    def is_ours(self, correlation_id: str) -> bool:
        """Say whether a request of this client had, or has, this id."""
        return correlation_id.startswith(f"{self._prefix}-")

    def take(self, correlation_id: str) -> OpenRequest | None:
        """Take the request with this id out, if it is still open."""
        with self._lock:
            return self._open.pop(correlation_id, None)

    def take_expired(self) -> list[OpenRequest]:
        """Take out every request whose time is up."""
        expired = []
        now = time.monotonic()
        with self._lock:
            while self._deadlines and self._deadlines[0][0] <= now:
                if request := self._open.pop(heapq.heappop(self._deadlines)[1], None):
                    expired.append(request)
        return expired

    def seconds_left(self, at_most: float) -> float:
        """Return the seconds until the next deadline, answered requests' included; 0 when it has passed."""
        with self._lock:
            if not self._deadlines:
                return at_most
            return min(at_most, max(0.0, self._deadlines[0][0] - time.monotonic()))

    def close(self, refusal: ClientError) -> list[OpenRequest]:
        """Take everything out; later requests are refused with `refusal`."""
        with self._lock:
            self._refusal = refusal
            left = list(self._open.values())
            self._open.clear()
            self._deadlines.clear()
        return left

    def __len__(self) -> int:
        return len(self._open)
