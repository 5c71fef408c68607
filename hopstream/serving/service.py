"""What runs when: nothing until everything is there, then the workers of the generation that answers.

Who is told to stop does so at once while nothing runs, within seconds while workers get ready, and after what was
taken is done otherwise. Workers of another generation are made ready beside the running ones, so that the change costs
only the time in which the one crew leaves its groups and the other joins them; requests wait in Kafka meanwhile.
"""

import gc
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Protocol

import structlog

from consumers import metrics
from consumers.worker import Heartbeat
from hopstream.errors import GenerationError
from hopstream.serving.crew import Crew, in_background
from hopstream.serving.health import Health
from hopstream.serving.waits import Waits
from index_store import GenerationInfo, LogGap, StoreError, StoreUnavailable

_log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 1.0
_RETRY_S = 5.0  # after a generation that cannot be served
_LET_GO_S = 5.0  # for workers that nobody needs any more to get ready, which a large mirror may not manage

_KAFKA, _STORE, _GENERATION, _WORKERS = "Kafka", "the store", "a generation", "workers"


class Kafka(Protocol):
    """What a service asks of Kafka."""

    def problem(self) -> tuple[str, str] | None:
        """What is missing, in short and with what to do about it; None when nothing is."""


class Store(Protocol):
    """What a service asks of the store."""

    def active(self) -> GenerationInfo | None:
        """The generation that answers now. Raises `StoreError`."""


class Service:
    """Keeps a crew at work. make_crew: makes one ready to start; may take long and raise `StoreError`."""

    def __init__(self, kafka: Kafka, store: Store, make_crew: Callable[[GenerationInfo], Crew]) -> None:
        self._kafka, self._store, self._make_crew = kafka, store, make_crew
        self._waits = Waits()
        self._heart = Heartbeat("service")
        self._crew: Crew | None = None
        self._next: Future[Crew] | None = None
        self._next_try = 0.0
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._stopping = False

    def run(self) -> None:
        """Serve until `stop`. Raises what ended a worker, or what no waiting will mend."""
        try:
            while not self._stopping:
                self._heart.beat()
                self._turn()
                self._sleep()
        finally:
            self._heart.rest()
            if self._crew is not None:
                self._crew.stop()
            self._drop_next()
        if self._crew is not None:
            self._crew.check()

    def stop(self) -> None:
        """Let `run` return, after the workers have finished what they have. Safe in a signal handler."""
        self._stopping = True
        self._wake.put(None)

    def health(self) -> Health:
        """How the service is. For other threads."""
        crew = self._crew
        if crew is None:
            return Health(waiting_for=self._waits.current or ("workers to get ready",), stuck=self._stuck())
        statuses = crew.statuses()
        return Health(
            waiting_for=tuple(thing for status in statuses for thing in status.waiting_for),
            without=tuple(thing for status in statuses for thing in status.without),
            stuck=self._stuck() + tuple(loop for status in statuses for loop in status.stuck),
            generation=crew.info.name,
        )

    def _stuck(self) -> tuple[str, ...]:
        return (self._heart.name,) if self._heart.stuck else ()

    def _turn(self) -> None:
        if self._crew is not None:
            self._crew.check()
        if self._next is not None:
            if self._next.done():
                outcome, self._next = self._next, None
                self._take(outcome)
            return
        info = self._wanted()
        # All that is missing is said, not only what is found missing first.
        if self._kafka_ready() and info is not None and time.monotonic() >= self._next_try:
            self._next = in_background(lambda: self._make_crew(info))
            self._next.add_done_callback(lambda _: self._wake.put(None))

    def _sleep(self) -> None:
        with suppress(Empty):
            self._wake.get(timeout=_LOOK_EVERY_S)

    def _wanted(self) -> GenerationInfo | None:
        """The generation to change to; None where there is none, or none that is not served already."""
        try:
            info = self._store.active()
        except StoreUnavailable as error:
            metrics.STORE_AVAILABLE.set(0)
            self._waits.begin(_STORE, "it does not answer", error=str(error))
            return None
        except StoreError as error:
            self._unservable(_STORE, error)
            return None
        metrics.STORE_AVAILABLE.set(1)
        self._waits.end(_STORE)
        if info is None:
            self._waits.begin(_GENERATION, "none is active", remedy="hopstream index create")
            return None
        self._waits.end(_GENERATION)
        if self._crew is not None and info == self._crew.info:
            self._waits.end(_WORKERS)
            return None
        return info

    def _kafka_ready(self) -> bool:
        """Whether Kafka is there for workers to start; those that run see to it themselves."""
        problem = None if self._crew is not None else self._kafka.problem()
        if problem is None:
            self._waits.end(_KAFKA)
            return True
        short, remedy = problem
        self._waits.begin(_KAFKA, short, remedy=remedy)
        return False

    def _take(self, outcome: Future[Crew]) -> None:
        """Put the crew that was made ready in the place of the running one; look again where there is none."""
        try:
            crew = outcome.result()
        except StoreUnavailable as error:
            self._waits.begin(_WORKERS, "the store does not answer", error=str(error))
        except LogGap as error:
            self._waits.begin(_WORKERS, "the index was written faster than it was loaded", error=str(error))
        except GenerationError as error:
            # Its metric may come into reach yet.
            self._next_try = time.monotonic() + _RETRY_S
            self._waits.begin(_WORKERS, str(error))
        except StoreError as error:
            self._next_try = time.monotonic() + _RETRY_S
            self._unservable(_WORKERS, error)
        else:
            self._waits.end(_WORKERS)
            self._change_to(crew)

    def _change_to(self, crew: Crew) -> None:
        info, before = crew.info, self._crew
        if before is not None:
            _log.info("changing generations", old=before.info.name, new=info.name)
            self._heart.rest()
            before.stop()
        _settle_memory()  # now, while nobody is at work
        self._crew = crew
        crew.start(ended=lambda: self._wake.put(None))
        served = {"index": info.index, "generation": info.name, "metric_version": info.metric_version}
        metrics.GENERATION.info(served)
        _log.info("serving", **served)
        if before is not None:
            before.check()

    def _drop_next(self) -> None:
        """End a crew that has not begun: its threads must not be at work when the interpreter goes."""
        if self._next is not None and wait([self._next], _LET_GO_S).done and self._next.exception() is None:
            self._next.result().stop()

    def _unservable(self, name: str, error: StoreError) -> None:
        """Raise what waiting does not mend, unless there is something to go on with."""
        if self._crew is None:
            raise error
        self._waits.begin(name, str(error))


def _settle_memory() -> None:
    """Collect garbage once more, and from then on only among what comes later.

    Libraries alone are 300,000 objects: to look through them again and again stops all threads for a tenth of a second,
    and every request with them.
    """
    gc.unfreeze()  # what workers of another generation have left may be garbage by now
    gc.collect()
    gc.freeze()
