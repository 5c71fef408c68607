"""Kernels on several cores. They release the interpreter's lock, so plain threads serve.

Not numba's own parallel loops: these may not be run from several threads at once.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import TypeVar

import torch

Result = TypeVar("Result")

_local = threading.local()


def each_on_its_thread(work: Callable[[int], Result], parts: int) -> list[Result]:
    """``work(part)`` for each part, on a thread of its own; what it calls `over_lanes` for stays there."""

    def alone(part: int) -> Result:
        _local.alone = True
        try:
            return work(part)
        finally:
            _local.alone = False

    others = [_pool(parts).submit(alone, part) for part in range(1, parts)]
    return [alone(0), *(other.result() for other in others)]


def over_lanes(kernel: Callable[..., None], count: int, *arguments: object) -> None:
    """Call ``kernel(first, last, *arguments)`` for parts of 0 … count, on as many threads as torch may use."""
    if count == 0:
        return
    parts = 1 if getattr(_local, "alone", False) else min(torch.get_num_threads(), count)
    if parts == 1:
        kernel(0, count, *arguments)
        return
    mine, *rest = pairwise(count * part // parts for part in range(parts + 1))
    others = [_pool(parts).submit(kernel, first, last, *arguments) for first, last in rest]
    kernel(*mine, *arguments)
    for other in others:
        other.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kernels")
