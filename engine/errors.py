"""Errors of the engine.

EngineError
├── InvalidQuery          a query that cannot be run; names the field
├── InvalidColumns        columns of the wrong shape, dtype or content
├── ArtifactError         a metric artefact that cannot be read or trusted; names the file and the place
├── TrainingError         data or settings from which no metric can be learned
└── QueueFull             no room for more work: try again later
"""


class EngineError(Exception):
    """Anything that the engine raises on purpose."""


class InvalidQuery(EngineError):
    """A query that cannot be run: ``field`` names what is wrong with it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class InvalidColumns(EngineError):
    """Columns whose shape, dtype or content cannot be an index."""


class ArtifactError(EngineError):
    """A metric artefact that cannot be read or trusted: ``place`` in ``file`` says where."""

    def __init__(self, file: str, place: str, problem: str) -> None:
        super().__init__(f"{file}: {place}: {problem}")
        self.file = file
        self.place = place
        self.problem = problem


class TrainingError(EngineError):
    """Data or settings from which no metric can be learned; the message names what to change."""


class QueueFull(EngineError):
    """The scheduler holds as much estimated work as it may."""

    def __init__(self, queued: int, limit: int) -> None:
        super().__init__(f"{queued} evaluations are waiting, at most {limit} may")
        self.queued = queued
        self.limit = limit
