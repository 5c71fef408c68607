"""Kernels on several cores. They release the interpreter's lock, so plain threads serve.

Not numba's own parallel loops: these may not be run from several threads at once.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import torch

_local = threading.local()


def in_parts(work: Callable[[int], None], parts: int, threads: int) -> None:
    """``work(part)`` for each part; a thread takes the next when it is ready with one.

    What it calls `over_lanes` for stays on that thread.
    """
    waiting = iter(range(parts))

    def take() -> None:
        _local.alone = True
        try:
            for part in waiting:
                work(part)
        finally:
            _local.alone = False

    others = [_pool(threads).submit(take) for _ in range(1, threads)]
    try:
        take()
    finally:
        wait(others)  # whatever happened here, nobody works on when this returns
    for other in others:
        other.result()


def over_lanes(kernel: Callable[..., None], count: int, *arguments: object) -> None:
    """Call ``kernel(first, last, *arguments)`` for parts of 0 … count, one for each thread that torch may use.

    To wake a thread takes a tenth of a millisecond: for what takes longer.
    """
    threads = 1 if getattr(_local, "alone", False) else min(torch.get_num_threads(), count)
    if threads <= 1:
        if count:
            kernel(0, count, *arguments)
        return
    in_parts(lambda part: kernel(count * part // threads, count * (part + 1) // threads, *arguments), threads, threads)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kernels")
