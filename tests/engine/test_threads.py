import threading

import numpy as np
import pytest
import torch

from engine.kernels.threads import in_parts, over_lanes


def test_every_part_is_worked_on_once_whoever_takes_it() -> None:
    """A thread that is held up leaves the other parts to those that are not."""
    done: list[tuple[int, int]] = []
    held, released = threading.Event(), threading.Event()

    def work(part: int) -> None:
        if part == 0:
            held.set()
            assert released.wait(30)
        else:
            assert held.wait(30)
        done.append((part, threading.get_ident()))
        if len(done) == 7:  # all others
            released.set()

    in_parts(work, 8, 2)
    assert sorted(part for part, _ in done) == list(range(8))
    assert len({who for part, who in done if part > 0}) == 1


@pytest.mark.parametrize("failing", [0, 1])
def test_what_fails_in_a_part_is_raised_when_nobody_works_any_more(failing: int) -> None:
    """On the caller's thread and on another."""
    begun, both = threading.Barrier(2), []

    def work(part: int) -> None:
        begun.wait(30)  # on two threads at once
        if part == failing:
            raise ValueError(f"part {part}")
        both.append(part)

    with pytest.raises(ValueError, match=f"part {failing}"):
        in_parts(work, 2, 2)
    assert both == [1 - failing]


@pytest.mark.parametrize(("count", "parts"), [(0, 0), (7, 3), (2, 2)])
def test_lanes_go_in_a_part_for_each_thread(monkeypatch: pytest.MonkeyPatch, count: int, parts: int) -> None:
    """All of them, each once."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    taken: list[tuple[int, int]] = []
    over_lanes(lambda first, last: taken.append((first, last)), count)
    assert len(taken) == parts
    lanes = [lane for first, last in sorted(taken) for lane in range(first, last)]
    assert lanes == np.arange(count).tolist()
