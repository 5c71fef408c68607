"""Threads that stand by for one kernel, so that its work is shared out without Python's lock.

Threads of Python's own would have to be woken through its lock, once for each of them, which takes as long as a few
lanes take for a step; and where other threads of the process run, they would wait for it.
"""

import atexit
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba.core.errors import NumbaError

from engine.kernels.gate import close_gate, dismiss, leave, new_gate, open_gate

_FAREWELL_SECONDS = 10.0


class Team:
    """So many threads that call ``kernel(gate, *arguments)``: it comes in through the gate and leaves, again and again.

    It is to return when it is told to go home: once nobody holds the team any more, or the process ends.
    """

    def __init__(self, threads: int, kernel: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._gate, self._failures = new_gate(), list[Exception]()
        weakref.finalize(self, dismiss, self._gate).atexit = False  # at the end `_send_home` does it, and waits
        given = kernel, self._gate, arguments, self._failures
        for number in range(threads):
            thread = threading.Thread(target=_stand_by, args=given, name=f"kernels-{number}", daemon=True)
            thread.start()
            _standing[thread] = self._gate

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


_standing: weakref.WeakKeyDictionary[threading.Thread, np.ndarray] = weakref.WeakKeyDictionary()
"""All threads that stand by, each with its gate."""


def _stand_by(
    kernel: Callable[..., None], gate: np.ndarray, arguments: tuple[Any, ...], failures: list[Exception]
) -> None:
    try:
        kernel(gate, *arguments)
    except Exception as error:  # noqa: BLE001 - whoever leads raises it
        failures.append(error)
        if not isinstance(error, NumbaError):  # who could not even be compiled has never come in
            leave(gate)


@atexit.register
def _send_home() -> None:
    """Wait for all threads: one that comes out of compiled code when Python is half gone would abort the process."""
    standing = list(_standing.items())
    for _, gate in standing:
        dismiss(gate)
    for thread, _ in standing:
        thread.join(_FAREWELL_SECONDS)
