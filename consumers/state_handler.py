"""What keeps a state, as a consumer of its topic sees it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from consumers.events import Record
from index_store import Checkpoint
from messages import MalformedMessage
from messages.rules import identifier

Decoded = TypeVar("Decoded")
Beat = Callable[[], None]
"""Says that the caller's thread is alive."""


def silent() -> None:
    """A beat that nobody listens to."""


@dataclass(frozen=True, slots=True)
class Entry(Generic[Decoded]):
    """One readable record; ``message`` is None for a null value, which deletes what the key names."""

    key: str
    message: Decoded | None
    record: Record


class StateHandler(Protocol[Decoded]):
    """Keeps a state that a topic's records change. All errors but a `StoreError` that may pass end the consumer."""

    @property
    def gaps_allowed(self) -> bool:
        """Whether the state is still right when records were deleted before they were read."""

    def keeps(self, partition: int) -> bool:
        """Whether the state has a place for this partition; the records of any other are dead letters."""

    def decode(self, key: str, record: Record) -> Decoded | None:
        """The message in a record, None for a null value. Raises `MalformedMessage` or `UnsupportedSchema`."""

    def take(self, partition: int) -> Checkpoint | None:
        """Become the writer of this partition's state; where it stands, None for the beginning."""

    def apply(
        self, partition: int, entries: Sequence[Entry[Decoded]], checkpoint: Checkpoint, beat: Beat = silent
    ) -> None:
        """Apply records, perhaps none, and the position after them; what takes long calls ``beat`` now and then.

        Raises `StoreError` when the outcome is refused or unknown.
        """

    def check(self, partition: int) -> None:
        """Raise `StoreError` when the state is not where this writer left it, or somebody else changed it."""

    def release(self, partition: int) -> None:
        """Somebody else may write this partition's state from now on; harmless when it was not taken."""


def id_of(record: Record) -> str:
    """What a record of a state topic is about: its key. Raises `MalformedMessage`."""
    if record.key is None:
        raise MalformedMessage("key", "missing: records of a state topic are keyed by what they are about")
    try:
        return identifier("key", record.key.decode())
    except UnicodeDecodeError:
        raise MalformedMessage("key", "not valid UTF-8") from None
