"""What can go wrong at the face of hopstream, as one tree.

    HopstreamError
    ├── DataError             a data file or folder cannot be used: (path, line, problem)
    ├── EmbeddedError         embedded mode
    │   ├── ServerNotFound    no Redis-compatible server of a usable version
    │   └── ServerStartFailed the servers did not come up: the reason, and their last log lines
    ├── SettingsError         a setting cannot be used: (field, problem, origin)
    ├── GenerationError       a generation whose metric this process cannot read
    ├── TopicsUnfit           topics in which messages would be lost, refused or misread
    ├── WorkerDied            a worker process has ended: (role, exit code, last log lines)
    ├── DemoError             the demo has nothing to show, or did not see what it waited for
    └── ClientError           a client of ours goes without its answer
        ├── KafkaUnavailable  the reply topic cannot be read
        ├── RequestNotSent    Kafka did not take the request
        ├── RequestTimedOut   no answer came in time
        ├── RequestRefused    the workers answered that they will not
        ├── AnswerUnreadable  an answer came that this version cannot read
        └── ClientClosed      the client was closed

Every message names what to do about it. The command line prints ``str(error)`` and ends with exit code 1.
"""

from pathlib import Path

__all__ = [
    "AnswerUnreadable",
    "ClientClosed",
    "ClientError",
    "DataError",
    "DemoError",
    "EmbeddedError",
    "GenerationError",
    "HopstreamError",
    "KafkaUnavailable",
    "RequestNotSent",
    "RequestRefused",
    "RequestTimedOut",
    "ServerNotFound",
    "ServerStartFailed",
    "SettingsError",
    "TopicsUnfit",
    "WorkerDied",
]


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


class SettingsError(HopstreamError):
    """A setting cannot be used.

    Attributes:
        field: its dotted name (an unknown one as it was written); empty when the fault is of a file as a whole.
        problem: what is wrong; never the value of a secret.
        origin: where it was set: a variable, a file, the command line.

    """

    def __init__(self, field: str, problem: str, origin: str) -> None:
        self.field, self.problem, self.origin = field, problem, origin
        place = f" (from {origin})" if origin else ""
        super().__init__(f"{field}: {problem}{place}" if field else f"{origin}: {problem}")


class ClientError(HopstreamError):
    """A client of ours goes without its answer."""


class KafkaUnavailable(ClientError):
    """The reply topic cannot be read, so no request can be answered."""


class RequestNotSent(ClientError):
    """Kafka did not take the request."""


class RequestTimedOut(ClientError):
    """No answer came in time; the message says what to check."""


class RequestRefused(ClientError):
    """The workers answered, and what they say is no recommendation: the status and its reason."""


class AnswerUnreadable(ClientError):
    """An answer came, and this version of hopstream cannot read it."""


class ClientClosed(ClientError):
    """The client was closed, before the answer came or before the request was made."""


class GenerationError(HopstreamError):
    """A generation whose metric this process cannot read."""


class TopicsUnfit(HopstreamError):
    """Topics in which messages would be lost, refused or misread: the exact differences, and the remedies."""


class WorkerDied(HopstreamError):
    """A worker process has ended while it was needed.

    role: what it served. code: its exit code. log: the last lines that it wrote, oldest first.
    """

    def __init__(self, role: str, code: int, log: tuple[str, ...] = ()) -> None:
        self.role, self.code, self.log = role, code, log
        super().__init__("\n  ".join((f"the worker for {role} ended with exit code {code}; its last words:", *log)))


class DemoError(HopstreamError):
    """The demo has nothing to show, or did not see what it waited for."""
