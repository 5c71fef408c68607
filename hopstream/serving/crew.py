"""The workers of one generation, each in a thread of its own."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import TypeVar

from consumers.worker import Worker, WorkerStatus
from index_store import GenerationInfo

Result = TypeVar("Result")


class Crew:
    """Workers that run and end together; `resources` are what they hold, closed when they have ended."""

    def __init__(self, info: GenerationInfo, workers: Sequence[Worker], resources: ExitStack) -> None:
        self.info = info
        self._workers, self._resources = workers, resources
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []

    def start(self, ended: Callable[[], None]) -> None:
        """Let all work. ended: called, in its thread, by a worker that has ended for whatever reason."""

        def run(worker: Worker) -> None:
            try:
                worker.run()
            except BaseException as error:  # noqa: BLE001 - `check` raises it, in the thread that can end the process
                self._failures.append(error)
            ended()

        self._threads = [threading.Thread(target=run, args=(worker,)) for worker in self._workers]
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """Raise what ended the first worker that failed."""
        if self._failures:
            raise self._failures[0]

    def stop(self) -> None:
        """Let all finish what they have, and return when they have ended. Raises nothing: ask `check`.

        A crew that was never started ends as well.
        """
        for worker in self._workers:
            worker.stop()
        for thread in self._threads:
            thread.join()
        self._resources.close()

    def statuses(self) -> list[WorkerStatus]:
        """How the workers are. For other threads."""
        return [worker.status() for worker in self._workers]


def in_background(work: Callable[[], Result]) -> Future[Result]:
    """Do something in a thread that no end of the process waits for."""
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome
