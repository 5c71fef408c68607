"""Peers against each other: how much each finds, and how fast, setting by setting."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from benchmarks.curves import Point, rate_at
from benchmarks.peers.peer import Peer, Unavailable
from benchmarks.peers.process import PeerFailed, PeerProcess, Task
from benchmarks.timing import Timing, alternate

_ENOUGH = 0.999
"""A sweep ends with the first setting of such a recall."""


@dataclass(frozen=True)
class Measured:
    """A peer's recall, and its seconds for all queries, at each setting of its sweep; and those of building it."""

    build_seconds: float
    recalls: Mapping[float, float]
    timings: Mapping[float, Timing]

    def points(self, queries: int) -> list[Point]:
        """(recall, queries/s) of every setting, by medians."""
        return [(recall, queries / self.timings[setting].median) for setting, recall in self.recalls.items()]

    def seconds_at(self, recall: float) -> Timing | None:
        """Seconds for all queries at a recall, read off the curve of each round; None where it does not reach it."""
        rounds = zip(*(self.timings[setting].seconds for setting in self.recalls), strict=True)
        curves = [
            [(found, 1 / s) for found, s in zip(self.recalls.values(), seconds, strict=True)] for seconds in rounds
        ]
        rates = [rate for curve in curves if (rate := rate_at(recall, curve)) is not None]
        return Timing(tuple(1 / rate for rate in rates)) if rates else None


def exact(task: Task) -> np.ndarray:
    """The k rows of the largest inner products, integer [Q, k], in no order."""
    return np.argpartition(-(task.queries @ task.vectors.T), task.k - 1, axis=1)[:, : task.k]


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    """Share of the wanted rows, integer [Q, k], that are among the found ones, integer [Q, any]."""
    return float((found[:, :, None] == wanted[:, None, :]).any(axis=1).mean())


def compete(
    peers: Sequence[type[Peer]], task: Task, rounds: int, progress: Callable[[str], None]
) -> dict[type[Peer], Measured | Exception]:
    """Build all peers, one by one, then let them take turns; an exception says why one was not measured.

    progress: is told what comes next.
    """
    wanted = exact(task)
    processes: dict[type[Peer], PeerProcess] = {}
    recalls: dict[type[Peer], dict[float, float]] = {}
    missing: dict[type[Peer], Exception] = {}
    with ExitStack() as stack:
        for peer in peers:
            progress(f"building {peer.library}")
            try:
                process = stack.enter_context(PeerProcess(peer, task))
                recalls[peer] = _sweep(peer, process, wanted)
            except (Unavailable, PeerFailed) as error:
                missing[peer] = error
            else:
                processes[peer] = process
        progress(f"taking turns, {rounds} rounds")
        runs = {
            (peer, setting): process.stopwatch(setting)
            for peer, process in processes.items()
            for setting in recalls[peer]
        }
        timings = alternate(runs, rounds)
    measured = {
        peer: Measured(process.build_seconds, recalls[peer], {at: timings[peer, at] for at in recalls[peer]})
        for peer, process in processes.items()
    }
    return {peer: measured.get(peer) or missing[peer] for peer in peers}


def _sweep(peer: type[Peer], process: PeerProcess, wanted: np.ndarray) -> dict[float, float]:
    """The recall of each setting, up to the first that finds about everything."""
    recalls: dict[float, float] = {}
    for setting in peer.settings:
        recalls[setting] = recall(process.rows(setting), wanted)
        if recalls[setting] >= _ENOUGH:
            break
    return recalls
