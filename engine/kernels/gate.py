"""A gate between a thread that leads and those that stand by, all in compiled code, without Python's lock.

Who leads opens the gate, does its share and closes it; when it is closed, nobody is inside. Whoever waits sleeps on
POSIX's condition variables: to wake a thread there takes a fifth of what it takes to wake one of Python's.
"""

from typing import Any

import numpy as np
from numba import njit, types

from engine.kernels import UNCOUNTED
from engine.kernels.instructions import fetch_add, load

_LINE = 8
"""Numbers in a line of the cache."""

_INSIDE, _OPENED, _DISMISSED, _WANTED = 0, _LINE, _LINE + 1, _LINE + 2
"""Places in a gate: how many threads are inside, how often it was opened, whether nobody is to wait any more, and how
many are let in."""

_LOCK, _CALLED, _LEFT, _SIZE = 2 * _LINE, 4 * _LINE, 6 * _LINE, 8 * _LINE
"""Where objects of POSIX begin: a lock, the call to come in, the word that the last has left. Each has 128 bytes, twice
what any system known to us needs."""

_OPEN = 1 << 32
"""What an open gate holds more at `_INSIDE`."""

_LOOKS = 1_000
"""How often who waits looks whether there is something to do, and gives way to others, before it sleeps: about half a
millisecond. A core that slept is slow at first, for longer than it takes to wake it."""


def _posix(name: str, arguments: int) -> Any:
    return types.ExternalFunction(name, types.int32(*[types.intp] * arguments))


_give_way = _posix("sched_yield", 0)
_init_lock, _lock, _unlock = (
    _posix("pthread_mutex_init", 2),
    _posix("pthread_mutex_lock", 1),
    _posix("pthread_mutex_unlock", 1),
)
_init_condition, _wait = _posix("pthread_cond_init", 2), _posix("pthread_cond_wait", 2)
_signal, _broadcast = _posix("pthread_cond_signal", 1), _posix("pthread_cond_broadcast", 1)


@njit(nogil=True, cache=True, inline="always")
def _at(gate, place):
    return gate.ctypes.data + gate.itemsize * place


def new_gate() -> np.ndarray:
    """A closed gate, int64[…], that nobody has opened yet. It is to outlive all who stand by."""
    places = np.zeros(_SIZE + _LINE, np.int64)
    first = -(places.ctypes.data // places.itemsize) % _LINE
    gate = places[first : first + _SIZE]
    _set_up(gate)
    return gate


@njit(**UNCOUNTED)
def open_gate(gate, helpers):
    """Let so many of those who stand by come in, and wake them."""
    gate[_WANTED] = helpers
    fetch_add(_at(gate, _INSIDE), _OPEN)
    _lock(_at(gate, _LOCK))
    gate[_OPENED] += 1
    _unlock(_at(gate, _LOCK))
    for _ in range(helpers):
        _signal(_at(gate, _CALLED))


@njit(**UNCOUNTED)
def close_gate(gate):
    """Let nobody in any more, and wait until everybody is out."""
    fetch_add(_at(gate, _INSIDE), -_OPEN)
    for _ in range(_LOOKS):
        if load(_at(gate, _INSIDE)) == 0:
            return
        _give_way()
    _lock(_at(gate, _LOCK))
    while load(_at(gate, _INSIDE)) != 0:
        _wait(_at(gate, _LEFT), _at(gate, _LOCK))
    _unlock(_at(gate, _LOCK))


@njit(**UNCOUNTED)
def come_in(gate, opened):
    """Wait until a gate, last seen when it had been opened so often, is opened again, and come in.

    Returns how often it was then, or −1 for who is to go home.
    """
    while True:
        for _ in range(_LOOKS):
            if load(_at(gate, _OPENED)) != opened:
                break
            _give_way()
        _lock(_at(gate, _LOCK))
        while gate[_OPENED] == opened and gate[_DISMISSED] == 0:
            _wait(_at(gate, _CALLED), _at(gate, _LOCK))
        opened = gate[_OPENED] if gate[_DISMISSED] == 0 else -1
        _unlock(_at(gate, _LOCK))
        if opened < 0:
            return opened
        before = fetch_add(_at(gate, _INSIDE), 1)
        if _OPEN <= before < _OPEN + gate[_WANTED]:
            return opened
        leave(gate)  # there are enough, or it was closed meanwhile


@njit(**UNCOUNTED)
def leave(gate):
    """Go out again; the last to leave a closed gate says so."""
    if fetch_add(_at(gate, _INSIDE), -1) == 1:
        _lock(_at(gate, _LOCK))
        _signal(_at(gate, _LEFT))
        _unlock(_at(gate, _LOCK))


@njit(types.void(types.int64[::1]), **UNCOUNTED)  # compiled at once: it is called where nobody should wait for it
def dismiss(gate):
    """Send home who stands by, now or later."""
    _lock(_at(gate, _LOCK))
    gate[_DISMISSED] = 1
    _unlock(_at(gate, _LOCK))
    _broadcast(_at(gate, _CALLED))


@njit(**UNCOUNTED)
def _set_up(gate):
    _init_lock(_at(gate, _LOCK), 0)
    _init_condition(_at(gate, _CALLED), 0)
    _init_condition(_at(gate, _LEFT), 0)
