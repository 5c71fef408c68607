"""What an intake tells the thread that works: records, and which partitions they come from."""

from dataclasses import dataclass

from consumers.offsets import Ticket
from messages import Headers, MalformedMessage

RecordId = tuple[str, Ticket]
"""A topic, and one delivery of one of its records."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it came; its ticket goes back when it is done.

    reading: what `Intake.start_at` returned for the start that this record was read after, 0 without one.
    headers: None where they cannot be read. timestamp_ms: −1 where the broker tells none.
    """

    ticket: Ticket
    reading: int
    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers | None
    timestamp_ms: int

    @property
    def id(self) -> RecordId:
        """What no other record has, of any topic."""
        return self.topic, self.ticket

    def require_headers(self) -> None:
        """Raise `MalformedMessage` for headers that cannot be read."""
        if self.headers is None:
            raise MalformedMessage("headers", "a name is not UTF-8")


@dataclass(frozen=True, slots=True)
class AtEnd:
    """A reading has come to the end of its partition, where the next record will have this offset."""

    partition: int
    reading: int
    offset: int


@dataclass(frozen=True, slots=True)
class Assigned:
    """A partition that is read from now on, or as soon as `Intake.start_at` names the offset."""

    partition: int


@dataclass(frozen=True, slots=True)
class Revoked:
    """A partition that somebody else may read from now on."""

    partition: int


Event = Record | AtEnd | Assigned | Revoked
