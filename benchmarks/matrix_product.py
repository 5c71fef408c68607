"""The floor of all arithmetic: the best float32 matrix-product rate of any library present.

Each library runs in a process of its own, since OpenBLAS chooses its kernels when it is loaded, and threads are bounded
there from the start. On CPUs newer than itself OpenBLAS can choose too low: it is then told the best type
that the CPU's instructions allow.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.machine import THREADS, bound_threads, cpu_field
from benchmarks.timing import Stopwatch


@dataclass(frozen=True, slots=True)
class Shape:
    """[rows, depth] · [depth, columns]."""

    rows: int
    depth: int
    columns: int


SHAPES = {"large": Shape(1024, 1024, 1024), "small depth": Shape(4096, 64, 1024), "one lane": Shape(512, 64, 192)}


@dataclass(frozen=True, slots=True)
class ProductRate:
    """Multiply-adds per second of a library for a shape: the best of several runs."""

    library: str
    shape: str
    multiply_adds_per_second: float


def measure(threads: int = THREADS, rounds: int = 10) -> list[ProductRate]:
    """The rates of every library for every shape, fastest first; a library that fails in its process is left out."""
    attempts: list[tuple[str, dict[str, str]]] = [("torch", {}), ("numpy", {})]
    if core := _best_core():
        attempts.append(("numpy", {"OPENBLAS_CORETYPE": core}))
    rates = [rate for library, variables in attempts for rate in _in_process(library, variables, threads, rounds)]
    return sorted(rates, key=lambda rate: -rate.multiply_adds_per_second)


def _best_core() -> str:
    """The OpenBLAS core type for this CPU's instructions; empty where the CPU does not say."""
    flags = set(cpu_field("flags").split())
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        return "SkylakeX"
    return "Haswell" if {"avx2", "fma"} <= flags else ""


def _in_process(library: str, variables: dict[str, str], threads: int, rounds: int) -> list[ProductRate]:
    command = [sys.executable, "-m", "benchmarks.matrix_product", library, str(threads), str(rounds)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    if done.returncode:
        return []
    name = " ".join([library, *variables.values()])
    return [ProductRate(name, shape, rate) for shape, rate in json.loads(done.stdout).items()]


def _numpy_product(shape: Shape) -> Callable[[], object]:
    random = np.random.default_rng(0)
    left = random.random((shape.rows, shape.depth), dtype=np.float32)
    right = random.random((shape.depth, shape.columns), dtype=np.float32)
    out = np.empty((shape.rows, shape.columns), np.float32)
    return lambda: np.matmul(left, right, out=out)


def _torch_product(shape: Shape) -> Callable[[], object]:
    left, right = torch.rand(shape.rows, shape.depth), torch.rand(shape.depth, shape.columns)
    out = torch.empty(shape.rows, shape.columns)
    return lambda: torch.mm(left, right, out=out)


def _main(library: str, threads: int, rounds: int) -> None:
    bound_threads(threads)
    product = {"numpy": _numpy_product, "torch": _torch_product}[library]
    rates = {}
    for name, shape in SHAPES.items():
        run = Stopwatch(product(shape), shortest=0.05)
        seconds = min(run() for _ in range(1 + rounds))
        rates[name] = shape.rows * shape.depth * shape.columns / seconds
    sys.stdout.write(json.dumps(rates))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
