"""Contestants take turns, and their times are compared round by round."""

import pytest

from benchmarks.timing import Ratio, Stopwatch, Timing, alternate


def test_contestants_take_turns_after_a_warm_up():
    """A B A B …, and the first round, made slow here, does not count."""
    order = []

    def contestant(name, seconds):
        def run():
            order.append(name)
            return 100.0 if order.count(name) == 1 else seconds

        return run

    timings = alternate({"a": contestant("a", 1.0), "b": contestant("b", 2.0)}, rounds=3)
    assert order == ["a", "b"] * 4
    assert timings == {"a": Timing((1.0,) * 3), "b": Timing((2.0,) * 3)}


def test_ratios_are_taken_round_by_round():
    """A machine that is slow for one whole round changes no ratio."""
    ratio = Ratio.of(Timing((2.0, 20.0, 2.0)), Timing((1.0, 10.0, 1.0)))
    assert ratio == Ratio(median=2.0, low=2.0, high=2.0)


def test_spread_is_relative_to_the_median():
    """(slowest − fastest) / median."""
    assert Timing((1.0, 2.0, 4.0)).spread == pytest.approx(1.5)


def test_quick_work_is_repeated():
    """One run of it lasts as long as asked for, once the warm-up has shown how quick it is."""
    calls = []
    stopwatch = Stopwatch(lambda: calls.append(1), shortest=0.001)
    stopwatch()
    assert len(calls) == 1
    seconds = stopwatch()
    assert len(calls) > 2
    assert seconds < 0.001
