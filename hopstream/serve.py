"""Workers as processes: built from settings, waiting for what they need, ended by a signal."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Protocol

import structlog
import torch

from consumers.behavior_updater import behavior_updater
from consumers.engine_thread import RequestWorkerConfig
from consumers.item_writer import item_writer
from consumers.questions import SearchDefaults
from consumers.request_worker import RequestWorker
from engine.graph import GraphParams
from hopstream.generations import load_model
from hopstream.settings import Settings
from index_store import GenerationInfo, IndexStore, Server, StoreUnavailable, connect

_log = structlog.get_logger(__name__)

_RETRY_S = 0.5


class Worker(Protocol):
    """What can be served."""

    def run(self) -> None:
        """Work until `stop`."""

    def stop(self) -> None:
        """Let `run` finish what it has and return."""


def serve(settings: Settings, role: str, *, until_stdin_closes: bool) -> None:
    """Run the workers of a role (`requests`, `updates`, `all`) until SIGTERM, SIGINT or one of them fails."""
    stopping = threading.Event()
    _stop_on_signals(stopping)
    if until_stdin_closes:
        threading.Thread(target=_wait_for_stdin, args=(stopping,), daemon=True).start()
    torch.set_num_threads(settings.worker.threads)
    ready = _wait_for_generation(settings, stopping)
    if ready is not None:
        server, info = ready
        _run_together([make(settings, server, info) for make in _MAKERS[role]], stopping)


def _run_together(workers: list[Worker], stopping: threading.Event) -> None:
    """Run each worker in a thread; when one ends, all do. Raises what ended the first that failed."""
    failures: list[BaseException] = []

    def run(worker: Worker) -> None:
        try:
            worker.run()
        except BaseException as error:  # noqa: BLE001 - it is raised again below, in the thread that can end the process
            failures.append(error)
        stopping.set()

    threads = [threading.Thread(target=run, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    stopping.wait()
    for worker in workers:
        worker.stop()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _requests(settings: Settings, server: Server, info: GenerationInfo) -> Worker:
    search, worker = settings.search, settings.worker
    config = RequestWorkerConfig(
        lanes=worker.lanes,
        window=worker.window,
        default_timeout_ms=worker.default_timeout_ms,
        search=SearchDefaults(
            beam=search.beam, width=search.width, budget=search.budget, seed_fanout=search.seed_fanout
        ),
    )
    kafka = settings.kafka
    return RequestWorker(
        kafka.bootstrap_servers, server.sibling(), info, load_model(info, server), config, kafka.options
    )


def _items(settings: Settings, _server: Server, info: GenerationInfo) -> Worker:
    graph, kafka = settings.graph, settings.kafka
    params = GraphParams(candidates=graph.candidates, alpha=graph.alpha)
    server = connect(settings.redis.url, writer=True)
    return item_writer(kafka.bootstrap_servers, server, info, load_model(info, server), params, kafka.options)


def _behaviors(settings: Settings, _server: Server, info: GenerationInfo) -> Worker:
    kafka = settings.kafka
    server = connect(settings.redis.url, writer=True)
    return behavior_updater(kafka.bootstrap_servers, server, info.index, kafka.options)


_MAKERS: dict[str, tuple[Callable[[Settings, Server, GenerationInfo], Worker], ...]] = {
    "requests": (_requests,),
    "updates": (_items, _behaviors),
    "all": (_requests, _items, _behaviors),
}


def _wait_for_generation(settings: Settings, stopping: threading.Event) -> tuple[Server, GenerationInfo] | None:
    """The store and the generation that answers, as soon as there are both; None when told to stop before."""
    say = _Once()
    while not stopping.is_set():
        try:
            server = connect(settings.redis.url)
            info = IndexStore(server, settings.index.name).active()
        except StoreUnavailable as error:
            say("waiting for the store", error=str(error))
        else:
            if info is not None:
                return server, info
            say("waiting for a generation", index=settings.index.name, remedy="hopstream index create")
        stopping.wait(_RETRY_S)
    return None


class _Once:
    """Logs a state when it begins, not as long as it lasts."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, event: str, **fields: str) -> None:
        if event != self._last:
            _log.info(event, **fields)
        self._last = event


def _stop_on_signals(stopping: threading.Event) -> None:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    handler: Callable[[int, FrameType | None], None] = stop
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _wait_for_stdin(stopping: threading.Event) -> None:
    # Not through sys.stdin: the interpreter's shutdown wants the lock that a waiting read holds.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stopping.set()
