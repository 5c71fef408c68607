"""Workers as processes, to be stopped, continued and killed."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.consumers.stage import Stage

# The classic group protocol, in which the client says how soon it is missed: no sooner than Kafka allows by default.
SOON_MISSED: Mapping[str, object] = {"log_level": 0, "session.timeout.ms": 6000, "heartbeat.interval.ms": 300}


@contextmanager
def worker_process(
    role: str, stage: Stage, options: Mapping[str, object] = SOON_MISSED, **config: Any
) -> Iterator[subprocess.Popen[str]]:
    """Run one worker, `requests`, `items` or `behaviors`; it has begun when this yields, and is killed at the end."""
    arguments = [role, stage.kafka, stage.redis, stage.index, json.dumps(dict(options)), json.dumps(config)]
    command = [sys.executable, "-m", "tests.integration.worker_process", *arguments]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first == "ready\n", first + process.stdout.read()
            yield process
        finally:
            process.kill()
            print(process.stdout.read() if process.stdout else "")  # noqa: T201 - for whoever reads of a failure


@contextmanager
def worker_processes(
    *roles: str, stage: Stage, options: Mapping[str, object] = SOON_MISSED, **config: Any
) -> Iterator[list[subprocess.Popen[str]]]:
    """Run several, one after the other."""
    with ExitStack() as stack:
        yield [stack.enter_context(worker_process(role, stage, options, **config)) for role in roles]
