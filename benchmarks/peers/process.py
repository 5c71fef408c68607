"""Peers in processes of their own: their thread pools, their output and their crashes stay with them."""

import multiprocessing
import os
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Self

import numpy as np

from benchmarks.machine import bound_threads
from benchmarks.peers.peer import Peer, Unavailable, augmented_items, augmented_queries
from benchmarks.timing import Run, Stopwatch

_PATIENCE = 30.0


class PeerFailed(Exception):
    """A peer raised an error, or its process ended."""


@dataclass(frozen=True)
class Task:
    """What every peer is asked: the k best of ``vectors``, float32[N, D], for each of ``queries``, float32[Q, D]."""

    vectors: np.ndarray
    queries: np.ndarray
    k: int
    threads: int


class PeerProcess:
    """A peer built in a process of its own, to be searched from here. To be used in a `with` block."""

    def __init__(self, peer: type[Peer], task: Task) -> None:
        """Start and build; raises `Unavailable` without its library, `PeerFailed` when it cannot be built."""
        self._name = peer.library
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, peer, task), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.build_seconds: float = self._answer()
        except BaseException:
            self.close()
            raise

    def rows(self) -> np.ndarray:
        """What it found the last time that it was timed, integer [Q, k]."""
        rows: np.ndarray = self._ask("rows")
        return rows

    def stopwatch(self, setting: float) -> Run:
        """Times searches of all queries with a setting, in the peer's process."""

        def run() -> float:
            seconds: float = self._ask("seconds", setting)
            return seconds

        return run

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, *question: object) -> Any:
        try:
            self._connection.send(question)
        except OSError as error:
            raise PeerFailed(f"{self._name}: its process is gone: {error}") from error
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(_PATIENCE)
            raise PeerFailed(f"{self._name}: its process ended with code {self._process.exitcode}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(connection: Connection, peer: type[Peer], task: Task) -> None:
    """Answer questions until the other end is closed; the first answer, unasked for, is the seconds of building."""
    os.dup2(2, 1)  # what libraries print belongs on standard error
    bound_threads(task.threads)
    try:
        contestant = _Contestant(peer, task)
        connection.send(contestant.build_seconds)
        while True:
            name, *given = connection.recv()
            connection.send(contestant.rows if name == "rows" else contestant.seconds(*given))
    except EOFError:
        return
    except Unavailable as error:
        connection.send(error)
    except Exception as error:  # noqa: BLE001 whatever a library raises is a line of the table
        traceback.print_exc()
        connection.send(PeerFailed(f"{type(error).__name__}: {error}"))


class _Contestant:
    """A peer with its form of the task, and a stopwatch for each of its settings."""

    def __init__(self, peer: type[Peer], task: Task) -> None:
        self._peer, self._k = peer(task.threads), task.k
        self._queries = augmented_queries(task.queries) if peer.euclidean else task.queries
        vectors = augmented_items(task.vectors) if peer.euclidean else task.vectors
        start = time.perf_counter()
        self._peer.build(vectors)
        self.build_seconds = time.perf_counter() - start
        self.rows = np.empty((len(task.queries), 0), np.int64)
        self._stopwatches: dict[float, Stopwatch] = {}

    def seconds(self, setting: float) -> float:
        self._peer.set(setting)
        return self._stopwatches.setdefault(setting, Stopwatch(self._search))()

    def _search(self) -> None:
        self.rows = self._peer.search(self._queries, self._k)
