import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from typer.testing import CliRunner

from hopstream import __version__
from hopstream.cli import app
from messages import Recommendations, RecommendRequest, Status
from tests.hopstream.datasets import write_shop
from tests.servers import redis_server

HOPSTREAM = [sys.executable, "-m", "hopstream"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*HOPSTREAM, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def test_a_typo_in_a_flag_is_wrong_usage() -> None:
    """The flag that was meant is named, and the exit code is 2."""
    done = run("demo", "--jsn")
    assert done.returncode == 2
    assert "--json" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [("dmo",), ("serve", "request"), ("demo", "--requests", "0"), ("train", "somewhere"), ("index", "create")],
)
def test_wrong_usage_ends_with_2_and_no_traceback(arguments: tuple[str, ...]) -> None:
    """A misspelt command, role or value, and a missing option: usage on standard error, nothing else."""
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_version() -> None:
    """The version of the package."""
    assert run("--version").stdout == f"hopstream {__version__}\n"


def test_a_broken_data_file_is_named_with_its_line(tmp_path: Path) -> None:
    """Exit code 1, the file and the line, no traceback; the demo says so before it starts anything."""
    shop = write_shop(tmp_path / "shop")
    lines = (shop / "shop.inter").read_text().splitlines()
    lines[7] = "only one field"
    (shop / "shop.inter").write_text("\n".join(lines))
    for command in (("demo", "--data", str(shop)), ("train", str(shop), "--out", str(tmp_path / "metric"))):
        done = run(*command)
        assert done.returncode == 1
        assert "shop.inter:8" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """A path with nothing there is named."""
    done = run("demo", "--data", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "nowhere: there is no such folder" in done.stderr


def test_an_unknown_setting_is_refused() -> None:
    """A misspelt variable does not pass silently."""
    done = run("config", "show", HOPSTREAM_KAFKA__BOOTSTRAP_SERVER="127.0.0.1:1")
    assert done.returncode == 1
    assert "nearest known one is HOPSTREAM_KAFKA__BOOTSTRAP_SERVERS" in done.stderr


def test_settings_are_shown_without_secrets() -> None:
    """Flags win over the environment; passwords are masked."""
    done = run("--index", "shop", "config", "show", HOPSTREAM_REDIS__URL="redis://:secret@127.0.0.1:6379/0")
    shown = json.loads(done.stdout)
    assert shown["index"]["name"] == "shop"
    assert "secret" not in done.stdout


def test_a_dead_store_is_an_error_that_says_what_to_check() -> None:
    """Creating an index without a Redis: exit code 1 and the question whether it is up."""
    done = run("--redis", "redis://127.0.0.1:1/0", "index", "create", "--dimensions", "8")
    assert done.returncode == 1
    assert "is the server up" in done.stderr
    assert "Traceback" not in done.stderr


def test_recommend_with_a_dead_broker_says_so() -> None:
    """Nobody at the address: exit code 1 within the client's patience."""
    done = run("--kafka", "127.0.0.1:1", "recommend", "u1", "--json")
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert done.stdout == ""


def test_recommend_asks_for_what_its_flags_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag for everything that a request can filter by; one that may come again is a list."""
    client = MagicMock()
    client.return_value.__enter__.return_value.recommend.return_value = Recommendations(Status.OK)
    monkeypatch.setattr("hopstream.client.RecommendClient", client)
    words = (
        "recommend u1 -k 3 --tag a --tag b --any-tag c --any-tag d --min-number -1.5 --max-number 9 --max-per-group 2"
        " --high"
    )
    assert CliRunner().invoke(app, words.split()).exit_code == 0
    [(request, timeout_s)] = [call.args for call in client().__enter__().recommend.call_args_list]
    [flags] = [call.kwargs for call in client().__enter__().recommend.call_args_list]
    assert (timeout_s, flags) == (10.0, {"high": True})
    assert request == RecommendRequest(
        user="u1", k=3, tags=("a", "b"), any_tags=("c", "d"), min_number=-1.5, max_number=9, max_per_group=2
    )


def test_an_empty_range_is_refused_before_anybody_is_asked() -> None:
    """Exit code 1 and the flag's field."""
    done = run("recommend", "u1", "--min-number", "3", "--max-number", "2")
    assert done.returncode == 1
    assert "max_number: less than min_number" in done.stderr


def test_training_writes_a_metric_and_says_what(tmp_path: Path) -> None:
    """`train --json` prints one line; what it wrote makes a generation."""
    shop = write_shop(tmp_path / "shop")
    metric = tmp_path / "metric"
    done = run("train", str(shop), "--out", str(metric), "--json")
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    said = json.loads(line)
    assert (said["target"], said["items"]) == ("buy", 360)
    with redis_server() as url:
        created = run("--redis", url, "--index", "shop", "index", "create", "--metric", str(metric))
        assert created.returncode == 0, created.stderr
        assert said["version"] in created.stdout


def test_an_index_is_created_where_there_is_none() -> None:
    """With --if-none the first call makes a generation and the second leaves everything as it is."""
    with redis_server() as url:
        create = ("--redis", url, "index", "create", "--wait", "30", "--if-none")
        first, second = run(*create, "--dimensions", "8"), run(*create, "--dimensions", "16")
    assert (first.returncode, second.returncode) == (0, 0)
    assert "generation inner_product-8 of index default (inner_product) is active from now on" in first.stdout
    assert "generation inner_product-8 of index default is active: nothing to do" in second.stdout


def test_an_old_generation_answers_again_or_goes() -> None:
    """`activate` and `drop --generation` say what they did in a line; the active one stays, unknown ones are named."""
    with redis_server() as url:

        def index(*arguments: str) -> subprocess.CompletedProcess[str]:
            return run("--redis", url, "index", *arguments)

        for dimensions in ("8", "16"):
            assert index("create", "--dimensions", dimensions).returncode == 0
        back = index("activate", "inner_product-8")
        assert back.stdout == "generation inner_product-8 of index default is active from now on\n"
        refused = index("drop", "--generation", "inner_product-8", "--yes")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "hopstream index activate" in refused.stderr
        gone = index("drop", "--generation", "inner_product-16", "--yes")
        assert gone.stdout == "generation inner_product-16 of index default deleted\n"
        for name in ("inner_product-16", ""):
            for unknown in (index("drop", "--generation", name, "--yes"), index("activate", name)):
                assert (unknown.returncode, unknown.stdout) == (1, "")
                assert f"has no generation '{name}'" in unknown.stderr
        assert index("activate", "inner_product-8").returncode == 0


@pytest.mark.parametrize("end", ["SIGTERM", "SIGINT", "its standard input closes"])
def test_a_worker_that_waits_for_its_generation_ends_when_told(end: str) -> None:
    """`serve` says what it waits for, and leaves with exit code 0 by a signal or when its supervisor is gone."""
    command = [*HOPSTREAM, "--redis", "URL", "serve", "requests", "--until-stdin-closes"]
    with redis_server() as url:
        command[command.index("URL")] = url
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
            assert worker.stderr is not None
            assert worker.stdin is not None
            assert any("waiting for a generation" in line for line in worker.stderr)
            if end.startswith("SIG"):
                worker.send_signal(signal.Signals[end])
            else:
                worker.stdin.close()
            assert worker.wait(20) == 0
            assert "Fatal" not in worker.stderr.read()
