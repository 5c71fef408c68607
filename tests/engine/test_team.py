import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable

import numpy as np
import pytest
from numba import njit
from numba.core.errors import NumbaError

from engine.kernels.gate import come_in, leave
from engine.kernels.instructions import fetch_add
from engine.kernels.team import Team

SECONDS = 30


@njit(nogil=True)
def take_numbers(gate, leads, numbers, taken, most):  # type: ignore[no-untyped-def]
    """Count each of the first taken[1] numbers up, whoever comes first; fail at a number above ``most``."""
    opened = 0
    while True:
        if not leads:
            opened = come_in(gate, opened)
            if opened < 0:
                break
        place = fetch_add(taken.ctypes.data, 1)
        while place < taken[1]:
            if numbers[place] > most:
                raise ValueError("too large")
            numbers[place] += 1
            place = fetch_add(taken.ctypes.data, 1)
        if leads:
            break
        leave(gate)


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Fail when it has not come true after SECONDS."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {SECONDS} s: {what}")
        time.sleep(0.001)


@pytest.mark.parametrize("helpers", [1, 3])
def test_all_is_done_once_and_nobody_is_inside_afterwards(helpers: int) -> None:
    """Thousands of calls, of which some find nobody awake yet: each number is counted once by whoever took it.

    Between two calls the numbers are changed without any lock: whoever came in late would count on among them.
    """
    numbers, taken, nobody = np.zeros(257, np.int64), np.zeros(2, np.int64), np.zeros(64, np.int64)
    team, rng = Team(helpers, take_numbers, (False, numbers, taken, 9)), np.random.default_rng(0)
    for turn in range(3_000):
        several = int(rng.integers(1, len(numbers)))
        numbers[:] = 0
        taken[:] = 0, several
        with team.called(int(rng.integers(0, helpers + 1))):
            take_numbers(nobody, True, numbers, taken, 9)
        assert numbers[:several].tolist() == [1] * several, turn
        assert not numbers[several:].any()


def test_those_who_stand_by_do_the_work_alone() -> None:
    """Whoever leads does nothing but wait: they are awake, or are woken, every time."""
    numbers, taken = np.zeros(8, np.int64), np.zeros(2, np.int64)
    team = Team(2, take_numbers, (False, numbers, taken, 1_000))
    for turn in range(1, 30):
        taken[:] = 0, len(numbers)
        with team.called(2):
            wait_until(lambda: taken[0] >= len(numbers), "all numbers taken")
        assert numbers.tolist() == [turn] * len(numbers)
        if turn % 10 == 0:
            time.sleep(0.05)  # long enough for everybody to fall asleep


def test_what_fails_in_a_thread_is_raised_by_who_leads() -> None:
    """The gate is closed behind it all the same, and the team says that it is broken."""
    numbers, taken = np.full(4, 10), np.zeros(2, np.int64)
    team = Team(1, take_numbers, (False, numbers, taken, 9))
    assert not team.broken
    taken[:] = 0, len(numbers)
    with pytest.raises(ValueError, match="too large"), team.called(1):
        wait_until(lambda: team.broken, "a failure")
    assert team.broken


def test_a_team_that_nobody_holds_goes_home() -> None:
    """Its threads end, asleep or awake, and let go of the columns."""
    before = set(threading.enumerate())
    numbers, taken = np.zeros(4, np.int64), np.zeros(2, np.int64)
    teams = [Team(2, take_numbers, (False, numbers, taken, 9)) for _ in range(3)]
    taken[:] = 0, len(numbers)
    with teams[0].called(2):
        pass
    threads = set(threading.enumerate()) - before
    assert len(threads) == 6
    columns = weakref.ref(numbers)
    del teams, numbers
    gc.collect()
    wait_until(lambda: not any(thread.is_alive() for thread in threads), "six threads fewer")
    assert columns() is None


def test_what_cannot_even_be_compiled_is_raised_too() -> None:
    """A thread that has never come in does not go out either: nobody waits for it."""
    team = Team(1, take_numbers, (False, "no numbers", np.zeros(2, np.int64), 9))
    wait_until(lambda: team.broken, "a failure")
    with pytest.raises(NumbaError), team.called(1):
        pass


@pytest.mark.parametrize("end", ["", "teams.clear()", "time.sleep(0.05); teams.clear()"])
def test_a_process_ends_without_a_word(end: str) -> None:
    """With threads that stand by, awake or asleep, and with some that are on their way home."""
    program = f"""
import time
import numpy as np
from engine.kernels.team import Team
from tests.engine.test_team import take_numbers
numbers, taken = np.zeros(8, np.int64), np.array([0, 8])
teams = [Team(3, take_numbers, (False, numbers, taken, 9)) for _ in range(4)]
for team in teams:
    with team.called(3):
        take_numbers(np.zeros(64, np.int64), True, numbers, taken, 9)
del team
{end}
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
