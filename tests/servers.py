"""Redis server processes for tests, ended by the handle that started them."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from hopstream.embedded import find_redis_server

# What makes a killed server come back with all that it acknowledged.
AOF = ("--appendonly", "yes", "--appendfsync", "always")


class RedisProcess:
    """A server in a folder of its own, which outlives it: killed, it starts again with what the folder holds.

    It listens on a socket file. `options` are appended to its command line; without any it keeps nothing.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.url = f"unix://{folder / 'redis.sock'}"
        self._command = [
            str(find_redis_server().path), "--port", "0", "--unixsocket", str(folder / "redis.sock"),
            "--dir", str(folder), "--save", "", "--appendonly", "no", "--daemonize", "no", "--logfile", "", *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Run the server; it answers when this returns."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
        )
        _wait_until_ready(self._process)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL); harmless when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it politely; harmless when it does not run."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            self.kill()


@contextmanager
def redis_process(*options: str) -> Iterator[RedisProcess]:
    """Run a server in a temporary folder, to be killed and started again."""
    with tempfile.TemporaryDirectory(prefix="hopstream-redis-") as folder:
        server = RedisProcess(Path(folder), *options)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def redis_server(*options: str) -> Iterator[str]:
    """Run a server that keeps nothing; yields its URL.

    `options` are appended to its command line, such as `"--maxmemory-policy", "allkeys-lru"`.
    """
    with redis_process(*options) as server:
        yield server.url


def _wait_until_ready(process: subprocess.Popen[str]) -> None:
    """Read the log up to the line that says so; what the server logs later goes nowhere."""
    lines: list[str] = []
    with process.stdout or nullcontext() as log:
        for line in log or ():
            lines.append(line)
            if "eady to accept connections" in line:
                return
    process.wait()
    raise RuntimeError("the server did not start:\n" + "".join(lines))
