"""`hopstream serve`: workers that wait for what they need, follow the generation that answers, and end by a signal.

`service` says what runs when, `probes` what is there, `workers` makes workers of settings, `crew` runs them, `health`
tells others how they are.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType

import torch

import hopstream
from consumers import metrics
from hopstream.errors import SettingsError
from hopstream.serving.health import HealthEndpoint
from hopstream.serving.probes import KafkaProbe, StoreProbe
from hopstream.serving.service import Service
from hopstream.serving.workers import make_crew, topics_of
from hopstream.settings import Settings

__all__ = ["serve"]


def serve(settings: Settings, role: str, *, until_stdin_closes: bool) -> None:
    """Run the workers of a role (`requests`, `updates`, `all`) until SIGTERM, SIGINT or one of them fails.

    Raises `SettingsError` for a device that is not there.
    """
    _require_device(settings.worker.device)
    torch.set_num_threads(settings.worker.threads)
    metrics.BUILD.info({"version": hopstream.__version__})
    kafka = KafkaProbe(settings.kafka, topics_of(role, settings.index.name))
    store = StoreProbe(settings.redis.url, settings.index.name)
    service = Service(kafka, store, partial(make_crew, settings, role))
    _stop_on_signals(service.stop)
    if until_stdin_closes:
        threading.Thread(target=_wait_for_stdin, args=(service.stop,), daemon=True).start()
    with store, HealthEndpoint(settings.http, service.health):
        service.run()


def _require_device(name: str) -> None:
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        problem = f"{name}: torch {torch.__version__} sees {count} GPUs; `cpu` needs none"
        raise SettingsError("worker.device", problem, "")


def _stop_on_signals(stop: Callable[[], None]) -> None:
    def handle(_signal: int, _frame: FrameType | None) -> None:
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def _wait_for_stdin(stop: Callable[[], None]) -> None:
    # Not through sys.stdin: the interpreter's shutdown wants the lock that a waiting read holds.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stop()
