"""Workers as processes, to be stopped, continued and killed."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.consumers.stage import Stage, wait_until

# The classic group protocol, in which the client says how soon it is missed: no sooner than Kafka allows by default.
SOON_MISSED: Mapping[str, object] = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 300}
# A static member: who comes back under its name takes its place at once, however it went.
IN_THE_SAME_PLACE: Mapping[str, object] = {**SOON_MISSED, "group.instance.id": "worker"}

_ROOT = Path(__file__).parents[2]


class Process(subprocess.Popen[bytes]):
    """A Python process whose output goes to a file: it never waits for somebody to read it."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the end of the block
        super().__init__(
            [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT,
            cwd=_ROOT, env={**os.environ, **(environment or {})},
        )  # fmt: skip

    @property
    def output(self) -> str:
        """What it has written so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def has_begun(self) -> bool:
        """Whether it has said `ready`; fails if it ended instead."""
        assert self.poll() is None, self.output
        return "ready\n" in self.output

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait()
        print(self.output)  # noqa: T201 - for whoever reads of a failure
        self._log.close()


@contextmanager
def worker_process(
    role: str, stage: Stage, options: Mapping[str, object] = SOON_MISSED, **config: Any
) -> Iterator[Process]:
    """Run one worker, `requests`, `items` or `behaviors`; it has begun when this yields, and is killed at the end."""
    with worker_processes(role, stage=stage, options=options, **config) as (process,):
        yield process


@contextmanager
def worker_processes(
    *roles: str, stage: Stage, options: Mapping[str, object] = SOON_MISSED, **config: Any
) -> Iterator[list[Process]]:
    """Run several, which begin together."""
    arguments = [stage.kafka, stage.redis, stage.index, json.dumps(dict(options)), json.dumps(config)]
    with ExitStack() as stack:
        module = "tests.integration.worker_process"
        processes = [stack.enter_context(Process(["-m", module, role, *arguments])) for role in roles]
        for process in processes:
            wait_until(process.has_begun, "the worker to begin")
        yield processes


def hopstream(stage: Stage, *arguments: str, options: Mapping[str, object] | None = None) -> Process:
    """Run the command line as a process that looks at this index; to be ended as a context manager."""
    environment = {
        "HOPSTREAM_KAFKA__BOOTSTRAP_SERVERS": stage.kafka,
        "HOPSTREAM_KAFKA__OPTIONS": json.dumps({name: str(value) for name, value in (options or {}).items()}),
        "HOPSTREAM_REDIS__URL": stage.redis,
        "HOPSTREAM_INDEX__NAME": stage.index,
    }
    return Process(["-m", "hopstream", *arguments], environment)
