"""What a worker is to whoever runs it, and how it tells how it is."""

import math
import time
from dataclasses import dataclass
from typing import Protocol

STUCK_S = 30.0
"""A loop that has not turned for so long, and is not waiting for somebody else, will not turn again."""


class Heartbeat:
    """Tells from another thread whether a loop still turns."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._at = math.inf

    def beat(self) -> None:
        """Say that the loop turns."""
        self._at = time.monotonic()

    def rest(self) -> None:
        """Say that the loop waits for work, or for a server: it may take as long as it takes, until the next beat."""
        self._at = math.inf

    @property
    def stuck(self) -> bool:
        """Whether the loop neither turns nor waits."""
        return time.monotonic() - self._at > STUCK_S


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """How a worker is.

    waiting_for: what it needs before it can do its work; nothing when it does.
    without: what it does its work without, as well as it can.
    stuck: its loops that have stopped to turn.
    """

    waiting_for: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()


class Worker(Protocol):
    """What can be served."""

    def prepare(self) -> None:
        """Get everything ready that takes no work from others yet; what `run` does first, if it was not done before.

        Raises `StoreError`; after one that passes it can be called again.
        """

    def run(self) -> None:
        """Work until `stop`. Raises what ended it otherwise."""

    def stop(self) -> None:
        """Let `run` finish what it has and return. Safe in a signal handler."""

    def close(self) -> None:
        """Let go of what `prepare` made ready, where `run` was not called; after `run`, nothing is left to do."""

    def status(self) -> WorkerStatus:
        """How it is now. For other threads."""
