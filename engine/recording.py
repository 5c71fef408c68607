"""GPU work recorded once and replayed with one call, as a CUDA graph.

A turn of the search is some two hundred small operations, each of which takes longer to start than to do.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any, Protocol

import numpy as np
import torch

MOST_RECORDINGS = 256
"""Kept at a time; beyond it the one goes that was not asked for longest. Each takes about a MiB beside the memory that
all share."""

_MOST_SEEN = 16_384


class Graph(Protocol):
    """What was recorded."""

    def replay(self) -> None:
        """Do it again."""


@dataclass(frozen=True, eq=False)
class Recording:
    """given: what is written there before each replay, int64[c, n]. outcome: what is read from there after it."""

    graph: Graph
    given: torch.Tensor
    outcome: torch.Tensor


class Recorder:
    """Runs operations on a device, from one thread; on a GPU it records each that comes a second time.

    What is recorded depends on its key, on values that it is given, and on tensors that stay where they are: when one
    of them is another than before, everything is recorded anew.
    """

    def __init__(self, device: torch.device) -> None:
        self.records = device.type == "cuda"
        self._device = device
        self._stream = torch.cuda.Stream(device) if self.records else None  # type: ignore[no-untyped-call]
        self._pool: Any = None
        self._held: tuple[Any, ...] = ()
        self._seen: set[Hashable] = set()
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()

    def run(
        self,
        operation: Callable[[torch.Tensor], torch.Tensor],
        given: np.ndarray,
        key: Hashable | None,
        held: Sequence[object],
    ) -> torch.Tensor:
        """``operation(given)`` of given int64[c, n] on the device; what it returns is good until the next run.

        key: of two operations that have the same all but ``given`` is the same; None for what cannot be recorded, since
        it asks the device for a value. held: the tensors that it reads or writes, and whoever else it depends on.
        """
        values = torch.from_numpy(given)
        if key is None or not self.records:
            return operation(values.to(self._device, non_blocking=True))
        self._hold(held)
        key = key, given.shape
        if key not in self._seen:
            # Done as it is, which makes libraries ready that must not get ready while something is recorded.
            outcome = operation(values.to(self._device, non_blocking=True))
            self._seen.add(key)
            return outcome
        if key not in self._recordings:
            self._recordings[key] = self._record(operation, values)
        self._recordings.move_to_end(key)
        if len(self._recordings) > MOST_RECORDINGS:
            self._recordings.popitem(last=False)
        recording = self._recordings[key]
        recording.given.copy_(values, non_blocking=True)
        recording.graph.replay()
        return recording.outcome

    def _hold(self, held: Sequence[object]) -> None:
        """Forget what was recorded of others than these, which now stay alive as long as it."""
        same = len(held) == len(self._held) and all(map(is_, held, self._held))
        if same and len(self._seen) < _MOST_SEEN:
            return
        self._held, self._pool = tuple(held), None
        self._recordings.clear()
        self._seen.clear()

    def _record(self, operation: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> Recording:
        graph, given = torch.cuda.CUDAGraph(), values.to(self._device)
        with (
            torch.cuda.device(self._device),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            outcome = operation(given)
        self._pool = graph.pool()  # of one recording after the other, all use the same memory
        return Recording(graph, given, outcome)
