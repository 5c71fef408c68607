"""Server processes for tests, ended by the handle that started them."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hopstream.embedded import find_redis_server


@contextmanager
def redis_server(*options: str) -> Iterator[str]:
    """Run a server that keeps nothing and listens on a socket file; yields its URL.

    `options` are appended to its command line, such as `"--maxmemory-policy", "allkeys-lru"`.
    """
    with tempfile.TemporaryDirectory(prefix="hopstream-redis-") as folder:
        socket = Path(folder) / "redis.sock"
        server = str(find_redis_server().path)
        command = [server, "--port", "0", "--unixsocket", str(socket), "--dir", folder, "--save", "",
                   "--appendonly", "no", "--daemonize", "no", "--logfile", "", *options]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            _wait_until_ready(process)
            yield f"unix://{socket}"
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: subprocess.Popen[str]) -> None:
    """Read the log up to the line that says so; what the server logs later goes nowhere."""
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if "eady to accept connections" in line:
            break
    else:
        raise RuntimeError("the server did not start:\n" + "".join(lines))
    if process.stdout:
        process.stdout.close()
