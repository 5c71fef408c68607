"""Workers as child processes that never outlive the process that started them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

from hopstream.errors import WorkerDied
from hopstream.settings import Settings

_STOP_TIMEOUT_S = 15.0
_LOG_LINES = 10


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that make a worker serve the index of these settings, on their servers."""
    return {
        "HOPSTREAM_INDEX__NAME": settings.index.name,
        "HOPSTREAM_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "HOPSTREAM_KAFKA__OPTIONS": json.dumps(settings.kafka.options),
        "HOPSTREAM_REDIS__URL": settings.redis.url,
    }


class WorkerProcess:
    """One `hopstream serve ROLE` for as long as a `with` block lasts, with these settings and no others.

    It runs in a session of its own, so that Ctrl-C reaches only the process that knows in which order to end things,
    and it drains and ends when its standard input closes, however the parent ended. Its log goes to a file.
    """

    def __init__(self, role: str, settings: Mapping[str, str], folder: Path) -> None:
        """Settings are environment variables; the worker runs in ``folder`` and its log is written there."""
        self._role, self._settings, self._folder = role, settings, folder
        self._log = folder / f"{role}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith("HOPSTREAM_")}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hopstream", "serve", self._role, "--until-stdin-closes"],
                # Neither a hopstream.toml nor the variables of whoever runs the demo are meant for its workers.
                cwd=self._folder,
                env={**inherited, **self._settings},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None:
            return
        cast("IO[bytes]", process.stdin).close()
        for urge in (process.terminate, process.kill):
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                urge()
        process.wait()

    def check(self) -> None:
        """Raise `WorkerDied`, with the last lines of its log, when it has ended."""
        if self._process is not None and self._process.poll() is not None:
            lines = self._log.read_text(errors="replace").splitlines()
            raise WorkerDied(self._role, self._process.returncode, tuple(lines[-_LOG_LINES:]))
