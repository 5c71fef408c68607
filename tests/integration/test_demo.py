"""The demo as its user runs it: a process of its own, from the first word to the last process gone."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hopstream.datasets import write_shop

KEYS = [
    "catalogue", "users", "behaviours", "requests", "answered", "hit_rate_at_10", "popularity_hit_rate_at_10",
    "knn_hit_rate_at_10", "recall_at_10", "catalogue_share", "queries_per_second", "p50_ms", "p99_ms",
    "item_freshness_ms", "history_effect_ms",
]  # fmt: skip
SHORT = ["--json", "--requests", "200", "--train-seconds", "8"]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The demo on a little shop, just started."""
    shop = write_shop(tmp_path / "shop")
    command = [sys.executable, "-m", "hopstream", "demo", "--data", str(shop), *SHORT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def parents() -> dict[int, int]:
    """Every process that is no zombie, and its parent."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                found[int(folder.name)] = int(parent)
    return found


def descendants(process: int) -> set[int]:
    """The children of a process, theirs, and so on."""
    known, tree = parents(), {process}
    while grown := {child for child, parent in known.items() if parent in tree} - tree:
        tree |= grown
    return tree - {process}


def everything_it_starts(demo: subprocess.Popen[str]) -> set[int]:
    """Wait until broker, Redis and both workers run; their process ids."""
    deadline = time.monotonic() + 120
    while len(started := descendants(demo.pid)) < 4:
        assert demo.poll() is None, "the demo ended before its workers ran"
        assert time.monotonic() < deadline, "the demo did not start its workers"
        time.sleep(0.05)
    return started


def wait_until_gone(processes: set[int]) -> None:
    """Wait until none of these processes is left."""
    deadline = time.monotonic() + 40
    while left := processes & parents().keys():
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


def test_the_demo_answers_everything_and_leaves_nothing(demo: subprocess.Popen[str]) -> None:
    """One line of JSON with every key; all requests answered; the metric beats popularity; no process left."""
    started = everything_it_starts(demo)
    out, err = demo.communicate(timeout=240)
    assert demo.returncode == 0, err
    [line] = out.splitlines()
    report = json.loads(line)
    assert list(report) == KEYS
    assert report["answered"] == report["requests"] == 200
    assert report["hit_rate_at_10"] > report["popularity_hit_rate_at_10"]
    assert report["recall_at_10"] > 0.9
    assert report["item_freshness_ms"] > 0
    assert report["history_effect_ms"] > 0
    assert err == ""
    wait_until_gone(started)


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_however_the_demo_ends_nothing_is_left(demo: subprocess.Popen[str], how: signal.Signals, code: int) -> None:
    """Ctrl-C, a polite and an impolite kill while servers and workers run: all of them end."""
    started = everything_it_starts(demo)
    demo.send_signal(how)
    out, err = demo.communicate(timeout=60)
    assert demo.returncode == code, err
    assert "Traceback" not in err
    assert out == ""
    wait_until_gone(started)
