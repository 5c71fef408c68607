"""Kernels on several cores: each takes a part of the lanes."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import torch


def over_lanes(kernel: Callable[..., None], count: int, *arguments: object) -> None:
    """Call ``kernel(first, last, *arguments)`` for parts of 0 … count, on as many threads as torch may use.

    Kernels release the interpreter's lock. Plain threads, since numba's own parallel loops may not be run from several
    threads at once.
    """
    if count == 0:
        return
    parts = min(torch.get_num_threads(), count)
    mine, *rest = pairwise(count * part // parts for part in range(parts + 1))
    others = [_pool(parts).submit(kernel, first, last, *arguments) for first, last in rest]
    kernel(*mine, *arguments)
    for other in others:
        other.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kernels")
