"""Requests, many at once, and how long they took."""

import gc
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hopstream.client import RecommendClient
from messages import Recommendations, RecommendRequest

IN_FLIGHT = 128
"""Requests that wait for their answer at any time."""

_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """Answers in the order of the requests; seconds float64[n] from produce to answer; seconds for all together."""

    answers: tuple[Recommendations, ...]
    latencies: np.ndarray
    seconds: float

    @property
    def queries_per_second(self) -> float:
        """Answers in a second."""
        return len(self.answers) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the latencies, in milliseconds."""
        return float(np.percentile(self.latencies, percent)) * 1000


def send_all(client: RecommendClient, requests: Sequence[RecommendRequest], progress: Callable[[int], None]) -> Traffic:
    """Send requests, at most `IN_FLIGHT` of them open at a time, and wait for every answer."""
    gc.freeze()  # a look through the data set, which is in this process, would stop it and be measured
    try:
        return _send_all(client, requests, progress)
    finally:
        gc.unfreeze()


def _send_all(
    client: RecommendClient, requests: Sequence[RecommendRequest], progress: Callable[[int], None]
) -> Traffic:
    room = threading.Semaphore(IN_FLIGHT)
    latencies = np.zeros(len(requests))
    futures = []
    began = time.perf_counter()
    for number, request in enumerate(requests):
        room.acquire()
        sent = time.perf_counter()
        future = client.submit(request, timeout_s=_TIMEOUT_S)

        def note(_: object, number: int = number, sent: float = sent) -> None:
            latencies[number] = time.perf_counter() - sent
            room.release()

        future.add_done_callback(note)
        futures.append(future)
        progress(number + 1)
    for _ in range(IN_FLIGHT):
        room.acquire()  # a future may have its result before its callback has noted the time
    answers = tuple(future.result() for future in futures)
    return Traffic(answers, latencies, time.perf_counter() - began)
