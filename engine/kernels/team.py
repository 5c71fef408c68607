"""Threads that stand by for one kernel, so that its work is shared out without Python's lock.

Threads of Python's own would have to be woken through its lock, once for each of them, which takes as long as a few
lanes take for a step; and where other threads of the process run, they would wait for it.
"""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from engine.kernels.gate import close_gate, dismiss, leave, new_gate, open_gate


class Team:
    """So many threads that call ``kernel(gate, *arguments)``: it comes in through the gate and leaves, again and again.

    It is to return when it is told to go home: once nobody holds the team any more.
    """

    def __init__(self, threads: int, kernel: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._gate, self._failures = new_gate(), list[Exception]()
        given = kernel, self._gate, arguments, self._failures
        for number in range(threads):
            threading.Thread(target=_stand_by, args=given, name=f"kernels-{number}", daemon=True).start()
        # Not when Python ends: who sleeps without its lock needs no farewell.
        weakref.finalize(self, dismiss, self._gate).atexit = False

    @contextmanager
    def called(self, helpers: int) -> Iterator[None]:
        """While this lasts, so many threads take part; behind it none does. What failed in one of them is raised."""
        open_gate(self._gate, helpers)
        try:
            yield
        finally:
            close_gate(self._gate)
        if self._failures:
            raise self._failures[0]

    @property
    def broken(self) -> bool:
        """Whether something failed in a thread, which then went home."""
        return bool(self._failures)


def _stand_by(
    kernel: Callable[..., None], gate: np.ndarray, arguments: tuple[Any, ...], failures: list[Exception]
) -> None:
    try:
        kernel(gate, *arguments)
    except Exception as error:  # noqa: BLE001 - whoever leads raises it
        failures.append(error)
        leave(gate)
