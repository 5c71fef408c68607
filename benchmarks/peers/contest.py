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

PATIENCE = 5.0
"""Seconds for all queries: a sweep ends before a setting that takes longer, its first one excepted."""


@dataclass(frozen=True)
class Measured:
    """A peer's recall, and its seconds for all queries, at each setting of its sweep; and those of building it.

    too_slow: the setting that ended the sweep by its time, or None.
    """

    build_seconds: float
    recalls: Mapping[float, float]
    timings: Mapping[float, Timing]
    too_slow: float | None = None

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


@dataclass(frozen=True)
class _Sweep:
    recalls: Mapping[float, float]
    too_slow: float | None


def exact(task: Task) -> np.ndarray:
    """The k rows of the largest inner products, integer [Q, k], in no order."""
    return np.argpartition(-(task.queries @ task.vectors.T), task.k - 1, axis=1)[:, : task.k]


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    """Share of the wanted rows, integer [Q, k], that are among the found ones, integer [Q, any]."""
    return float((found[:, :, None] == wanted[:, None, :]).any(axis=1).mean())


def compete(
    peers: Sequence[type[Peer]],
    task: Task,
    rounds: int,
    progress: Callable[[str], None],
    patience: float = PATIENCE,
) -> dict[type[Peer], Measured | Exception]:
    """Build all peers, one by one, then let them take turns; an exception says why one was not measured.

    progress: is told what comes next. patience: in seconds, see `PATIENCE`.
    """
    wanted = exact(task)
    processes: dict[type[Peer], PeerProcess] = {}
    sweeps: dict[type[Peer], _Sweep] = {}
    missing: dict[type[Peer], Exception] = {}
    with ExitStack() as stack:
        for peer in peers:
            progress(f"building {peer.library}")
            try:
                process = stack.enter_context(PeerProcess(peer, task))
                sweeps[peer] = _sweep(peer, process, wanted, patience)
            except (Unavailable, PeerFailed) as error:
                missing[peer] = error
            else:
                processes[peer] = process
        progress(f"taking turns, {rounds} rounds")
        runs = {
            (peer, setting): process.stopwatch(setting)
            for peer, process in processes.items()
            for setting in sweeps[peer].recalls
        }
        timings = alternate(runs, rounds, warm_ups=0)  # the sweeps have warmed them up
    measured = {
        peer: Measured(
            processes[peer].build_seconds,
            sweep.recalls,
            {setting: timings[peer, setting] for setting in sweep.recalls},
            sweep.too_slow,
        )
        for peer, sweep in sweeps.items()
    }
    return {peer: measured.get(peer) or missing[peer] for peer in peers}


def _sweep(peer: type[Peer], process: PeerProcess, wanted: np.ndarray, patience: float) -> _Sweep:
    """Try the settings up to the first that finds about everything, or takes too long."""
    recalls: dict[float, float] = {}
    for setting in peer.settings:
        if process.stopwatch(setting)() > patience and recalls:
            return _Sweep(recalls, setting)
        recalls[setting] = recall(process.rows(), wanted)
        if recalls[setting] >= _ENOUGH:
            break
    return _Sweep(recalls, None)
