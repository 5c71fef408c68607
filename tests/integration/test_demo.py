"""The demo as its user runs it: a process of its own, from the first word to the last process gone."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hopstream.datasets import write_shop

KEYS = [
    "catalogue", "users", "behaviours", "requests", "answered", "hit_rate_at_10", "popularity_hit_rate_at_10",
    "knn_hit_rate_at_10", "recall_at_10", "catalogue_share", "queries_per_second", "p50_ms", "p99_ms",
    "item_freshness_ms", "history_effect_ms",
]  # fmt: skip
MARK = "DEMO_TEST_MARK"


@pytest.fixture
def mark() -> Iterator[str]:
    """A value in the environment of everything that a test starts; whatever still has it at the end is ended."""
    mark = uuid.uuid4().hex
    yield mark
    for process in marked(mark):
        os.kill(process, signal.SIGKILL)


def marked(mark: str) -> list[int]:
    """The processes, zombies aside, whose environment has the mark."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def start(shop: Path, mark: str) -> subprocess.Popen[str]:
    """Start the demo on a little shop."""
    arguments = ["demo", "--data", str(shop), "--json", "--requests", "200", "--train-seconds", "8"]
    return subprocess.Popen(
        [sys.executable, "-m", "hopstream", *arguments],
        env={**os.environ, MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_processes(mark: str, at_least: int) -> None:
    """Wait until the demo has started this many processes besides itself."""
    deadline = time.monotonic() + 90
    while len(marked(mark)) <= at_least:
        assert time.monotonic() < deadline, "the demo did not start its workers"
        time.sleep(0.05)


def wait_until_gone(mark: str) -> None:
    """Wait until nothing with the mark is left."""
    deadline = time.monotonic() + 40
    while left := marked(mark):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


def test_the_demo_answers_everything_and_leaves_nothing(tmp_path: Path, mark: str) -> None:
    """One line of JSON with every key; all requests answered; the metric beats popularity; no process left."""
    demo = start(write_shop(tmp_path / "shop"), mark)
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
    assert marked(mark) == []


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_however_the_demo_ends_nothing_is_left(tmp_path: Path, mark: str, how: signal.Signals, code: int) -> None:
    """Ctrl-C, a polite and an impolite kill while servers and workers run: all of them end."""
    demo = start(write_shop(tmp_path / "shop"), mark)
    wait_for_processes(mark, at_least=4)  # broker, Redis and two workers
    demo.send_signal(how)
    out, err = demo.communicate(timeout=60)
    assert demo.returncode == code
    assert "Traceback" not in err
    assert out == ""
    wait_until_gone(mark)
