import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from redis import Redis

from hopstream.embedded import EmbeddedServers, find_redis_server
from hopstream.errors import EmbeddedError, ServerNotFound, ServerStartFailed

# What an owner in another process does: it says what runs, then works until it is told or killed.
OWNER = """
import json, sys
from hopstream.embedded import EmbeddedServers
servers = EmbeddedServers()
with servers as addresses:
    print(json.dumps([servers.pid, addresses.redis_pid, addresses.redis_url]), flush=True)
    sys.stdin.read()
"""


@contextmanager
def owner() -> Iterator[tuple[subprocess.Popen[str], list[int], Path]]:
    """Run OWNER; yields it, the processes it started and the folder of its servers."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", OWNER], text=True, **pipes) as process:
        try:
            child, redis, url = json.loads(process.stdout.readline())
            yield process, [child, redis], Path(url.removeprefix("unix://")).parent
        finally:
            process.communicate(timeout=30)  # closes its standard input, which ends it if nothing did before


def runs(pid: int) -> bool:
    """Say whether a process exists and has not ended (an ended one may wait for its parent to notice)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids: list[int], within_s: float = 20.0) -> bool:
    """Wait until none of the processes runs."""
    deadline = time.monotonic() + within_s
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(map(runs, pids))


def script(path: Path, body: str) -> Path:
    """Write an executable shell script."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_both_servers_answer_and_nothing_stays() -> None:
    """Redis takes a write, Kafka gives back a message, and after the block neither process nor file is left."""
    servers = EmbeddedServers()
    with servers as addresses:
        with Redis.from_url(addresses.redis_url) as redis:
            redis.set("a", "b")
            assert redis.get("a") == b"b"
            assert redis.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert redis.config_get("save") == {"save": ""}
        producer = Producer({"bootstrap.servers": addresses.kafka})
        producer.produce("topic", value=b"hello", partition=0)
        assert producer.flush(10) == 0
        consumer = Consumer({"bootstrap.servers": addresses.kafka, "group.id": "g"})
        consumer.assign([TopicPartition("topic", 0, 0)])
        message = consumer.poll(10)
        consumer.close()
        assert message.value() == b"hello"
        pids = [servers.pid, addresses.redis_pid]
    assert not any(map(runs, pids))
    assert not Path(addresses.redis_url.removeprefix("unix://")).parent.exists()


def test_the_servers_say_nothing_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    """What the servers log, librdkafka's notice of the mock cluster too, stays in their log file."""
    with EmbeddedServers():
        pass
    assert capfd.readouterr() == ("", "")


def test_two_sets_of_servers_do_not_meet() -> None:
    """Each block has servers of its own, so tests and demos can run side by side."""
    with EmbeddedServers() as one, EmbeddedServers(brokers=2) as other:
        assert one.kafka != other.kafka
        assert len(other.kafka.split(",")) == 2
        with Redis.from_url(one.redis_url) as first, Redis.from_url(other.redis_url) as second:
            first.set("a", "b")
            assert second.get("a") is None


def test_servers_are_for_one_block_at_a_time() -> None:
    """Entering twice is refused; closing twice is not; after closing the same object can start again."""
    servers = EmbeddedServers()
    with servers as first:
        with pytest.raises(EmbeddedError, match="run already"):
            servers.__enter__()
        with Redis.from_url(first.redis_url) as redis:
            assert redis.ping()
    servers.close()
    with servers as second:
        assert second.redis_url != first.redis_url


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_owners_death_takes_the_servers_along(end: signal.Signals) -> None:
    """Killed without a chance to clean up, the owner still leaves no process and no folder."""
    with owner() as (process, pids, folder):
        process.send_signal(end)
        assert gone(pids)
        assert not folder.exists()


@pytest.mark.skipif(
    sys.platform != "linux", reason=f"needs PR_SET_PDEATHSIG, which Linux alone has; this is {sys.platform}"
)
def test_the_childs_death_takes_redis_along() -> None:
    """Redis does not outlive the child, even when that is killed; the owner still removes the folder."""
    with owner() as (_, pids, folder):
        os.kill(pids[0], signal.SIGKILL)
        assert gone(pids)
    assert not folder.exists()


def test_ctrl_c_leaves_the_servers_to_their_owner() -> None:
    """SIGINT, to the child itself or to the owner's process group, does not end the servers; their owner does."""
    with owner() as (process, pids, folder):
        os.kill(pids[0], signal.SIGINT)
        assert os.getsid(pids[0]) == os.getsid(pids[1]) == pids[0]
        with Redis.from_url(f"unix://{folder / 'redis.sock'}") as redis:
            assert redis.ping()
        process.send_signal(signal.SIGINT)
        assert gone(pids)
        assert not folder.exists()


def test_sigterm_ends_the_child_and_redis() -> None:
    """The child ends in order when it is asked to."""
    with owner() as (_, pids, folder):
        os.kill(pids[0], signal.SIGTERM)
        assert gone(pids)
        assert not folder.exists()


def test_a_server_on_path_wins_when_it_is_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A redis-server 7 on PATH is taken, one of version 6 is passed over for the next candidate."""
    monkeypatch.setenv("PATH", str(tmp_path))
    script(tmp_path / "redis-server", "echo 'Redis server v=6.2.14 sha=0:0 malloc=libc bits=64'")
    assert find_redis_server().path != tmp_path / "redis-server"
    script(tmp_path / "redis-server", "echo 'Redis server v=7.2.4 sha=0:0 malloc=libc bits=64'")
    assert find_redis_server().path == tmp_path / "redis-server"
    assert find_redis_server().version == "Redis 7.2.4"


def test_without_any_server_the_error_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server anywhere: the message says what was found and what to install."""
    old = script(tmp_path / "redis-server", "echo 'Redis server v=6.2.14 sha=0:0'")
    monkeypatch.setattr("hopstream.embedded._candidates", lambda: iter([old]))
    with pytest.raises(ServerNotFound, match=r"7 or newer \(.* is Redis 6\.2\.14\): install one"):
        EmbeddedServers().__enter__()


@pytest.mark.parametrize(
    ("body", "problem"),
    [("echo 'no memory left' >&2; exit 3", "exit code 3"), ("echo 'no memory left'; exec sleep 60", "in time")],
)
def test_a_server_that_does_not_start_is_an_error_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, problem: str
) -> None:
    """A server that ends or hangs at start-up: the error holds the last lines it wrote, and nothing stays."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    version = "echo 'Redis server v=7.2.4'"
    script(tmp_path / "redis-server", f'[ "$1" = --version ] && {version} && exit 0\n{body}')
    servers = EmbeddedServers(start_timeout_s=1.0)
    with pytest.raises(ServerStartFailed, match=problem) as caught:
        servers.__enter__()
    assert caught.value.log[-1] == "no memory left"
    assert "no memory left" in str(caught.value)
    assert servers.pid is None
    assert [path.name for path in tmp_path.iterdir()] == ["redis-server"]
