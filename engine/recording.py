"""GPU work recorded once and replayed with one call, as a CUDA graph.

A turn of the search is some two hundred small operations, each of which takes longer to start than to do.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

MOST_RECORDINGS = 128
"""Kept at a time; beyond it the oldest goes. One takes about a MiB beside the room that all share."""


@dataclass(frozen=True, eq=False)
class _Recording:
    """given: what is written there before each replay, int64[c, n]. outcome: what is read from there after it."""

    graph: torch.cuda.CUDAGraph
    given: torch.Tensor
    outcome: torch.Tensor


class Recorder:
    """Runs operations on a device, from one thread; on a GPU it records each that comes a second time.

    What is recorded depends on its key, on values that it is given, and on tensors that stay where they are: when one
    of them is another than before, everything is recorded anew.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held: tuple[Any, ...] = ()
        self._pool: Any = None
        self._recordings: dict[Hashable, _Recording | None] = {}

    def run(
        self, operation: Callable[[torch.Tensor], torch.Tensor], given: np.ndarray, key: Hashable | None,
        held: Sequence[object],
    ) -> torch.Tensor:  # fmt: skip
        """``operation(given)`` of given int64[c, n] on the device; what it returns is good until the next run.

        key: of two operations that have the same all but ``given`` is the same; None for what cannot be recorded, since
        it asks the device for a value. held: the tensors that it reads or writes, and whoever else it depends on.
        """
        values = torch.from_numpy(given)
        if key is None or self._device.type != "cuda":
            return operation(values.to(self._device, non_blocking=True))
        if len(held) != len(self._held) or any(one is not other for one, other in zip(held, self._held, strict=True)):
            self._held, self._pool = tuple(held), torch.cuda.graph_pool_handle()
            self._recordings.clear()
        if key not in self._recordings:
            # Done as it is, which makes libraries ready that must not get ready while something is recorded.
            self._recordings[key] = None
            if len(self._recordings) > MOST_RECORDINGS:
                del self._recordings[next(iter(self._recordings))]
            return operation(values.to(self._device, non_blocking=True))
        recording = self._recordings[key] or self._record(operation, values)
        self._recordings[key] = recording
        recording.given.copy_(values, non_blocking=True)
        recording.graph.replay()
        return recording.outcome

    def _record(self, operation: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> _Recording:
        graph, given = torch.cuda.CUDAGraph(), values.to(self._device)
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outcome = operation(given)
        return _Recording(graph, given, outcome)
