"""The machine that a measurement was made on, and how many of its threads it may use."""

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Self

import threadpoolctl

THREADS = 2
"""Every contestant may use so many, and no more."""

_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PACKAGES = (
    *("numpy", "scipy", "numba", "torch"),
    *("faiss-cpu", "hnswlib", "nmslib", "opencv-python-headless"),
)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and when something was measured, and with which versions; one that is not installed is left out."""

    date: str
    commit: str
    cpu: str
    cores: int
    threads: int
    system: str
    python: str
    versions: dict[str, str]

    @classmethod
    def here(cls, threads: int = THREADS) -> Self:
        """Describe this machine, now."""
        return cls(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            commit=_commit(),
            cpu=cpu_field("model name") or platform.processor() or platform.machine(),
            cores=os.cpu_count() or 1,
            threads=threads,
            system=platform.platform(),
            python=platform.python_version(),
            versions=_versions(),
        )


def bound_threads(count: int = THREADS) -> None:
    """Bound the threads of the libraries in this process, of those too that it loads later.

    torch and numba are asked only where they are loaded: peers' processes start without them in half the time.
    """
    os.environ.update(dict.fromkeys(_LIMITS, str(count)))
    threadpoolctl.threadpool_limits(count)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(count)
    if numba := sys.modules.get("numba"):
        numba.set_num_threads(min(count, numba.get_num_threads()))
    else:
        os.environ["NUMBA_NUM_THREADS"] = str(count)


def cpu_field(name: str) -> str:
    """A field of the first CPU in /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")


def _commit() -> str:
    """The commit of the working tree, with ``-dirty`` where it was changed since; ``unknown`` outside of git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    folder = Path(__file__).parent
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
