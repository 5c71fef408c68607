import pytest

from consumers.worker import STUCK_S, Heartbeat


class Clock:
    """A clock that goes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def test_only_a_loop_that_was_turning_can_be_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it begins, and while it waits for somebody else, it may take as long as it takes."""
    monkeypatch.setattr("consumers.worker.time.monotonic", clock := Clock())
    heart = Heartbeat("engine")
    clock.now += 2 * STUCK_S
    assert not heart.stuck
    heart.beat()
    clock.now += STUCK_S
    assert not heart.stuck
    clock.now += 1
    assert heart.stuck
    heart.rest()
    clock.now += 2 * STUCK_S
    assert not heart.stuck
