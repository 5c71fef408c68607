"""What can go wrong at the face of hopstream, as one tree.

    HopstreamError
    ├── DataError             a data file or folder cannot be used: (path, line, problem)
    └── EmbeddedError         embedded mode
        ├── ServerNotFound    no Redis-compatible server of a usable version
        └── ServerStartFailed the servers did not come up: the reason, and their last log lines

Every message names what to do about it. The command line prints ``str(error)`` and ends with exit code 1.
"""

from pathlib import Path

__all__ = ["DataError", "EmbeddedError", "HopstreamError", "ServerNotFound", "ServerStartFailed"]


class HopstreamError(Exception):
    """Anything that hopstream itself raises on purpose."""


class DataError(HopstreamError):
    """A data file or folder cannot be used.

    Attributes:
        path: the file or folder.
        line: the line of the file, counted from 1; None where the fault is not of one line.
        problem: what is wrong and what to do about it.

    """

    def __init__(self, path: Path, line: int | None, problem: str) -> None:
        self.path, self.line, self.problem = path, line, problem
        where = f"{path}:{line}" if line is not None else f"{path}"
        super().__init__(f"{where}: {problem}")


class EmbeddedError(HopstreamError):
    """Embedded mode could not do its part."""


class ServerNotFound(EmbeddedError):
    """There is no Redis-compatible server of a usable version on this machine."""


class ServerStartFailed(EmbeddedError):
    """The embedded servers did not come up.

    Attributes:
        problem: what happened.
        log: the last lines that the servers wrote, oldest first.

    """

    def __init__(self, problem: str, log: tuple[str, ...] = ()) -> None:
        self.problem, self.log = problem, log
        super().__init__("\n  ".join((problem, *log)))
