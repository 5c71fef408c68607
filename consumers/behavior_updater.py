"""The behaviour updater: what users do becomes their histories, each event once."""

from collections.abc import Mapping, Sequence

from consumers.events import Record
from consumers.state_consumer import StateConsumer
from consumers.state_handler import Beat, Entry, silent
from index_store import Checkpoint, HistoryEvent, HistoryWriter, Server
from messages import Behavior, MalformedMessage, Topics, decode_behavior

_BATCH = 4096


class BehaviorHandler:
    """Appends to histories; several may run, each on partitions of its own."""

    gaps_allowed = True  # histories are short, and what Kafka deletes by age they would lose as well

    def __init__(self, server: Server, index: str) -> None:
        self._server, self._index = server, index
        self._writers: dict[int, HistoryWriter] = {}

    def keeps(self, partition: int) -> bool:
        """Every partition has its place."""
        return True

    def decode(self, key: str, record: Record) -> Behavior | None:
        """A behaviour of the user who is the key."""
        if record.value is None:
            return None
        behavior = decode_behavior(record.value)
        if behavior.user != key:
            raise MalformedMessage("user", f"{behavior.user!r} under the key {key!r}")
        return behavior

    def take(self, partition: int) -> Checkpoint | None:
        """Learn where the histories stand. No fence is needed: who is not where he believes to be is refused."""
        writer = self._writers[partition] = HistoryWriter(self._server, self._index, partition)
        return writer.take()

    def apply(
        self, partition: int, entries: Sequence[Entry[Behavior]], checkpoint: Checkpoint, beat: Beat = silent
    ) -> None:
        """Append a batch of one partition."""
        self._writers[partition].append([_event(entry) for entry in entries], checkpoint)

    def check(self, partition: int) -> None:
        """Raise `SequenceConflict` when the histories are not where this updater left them."""
        self._writers[partition].check()

    def release(self, partition: int) -> None:
        """Forget where the histories stand."""
        self._writers.pop(partition, None)


def _event(entry: Entry[Behavior]) -> HistoryEvent:
    offset, behavior = entry.record.ticket.offset, entry.message
    if behavior is None:
        return HistoryEvent(offset, entry.key)
    return HistoryEvent(offset, behavior.user, behavior.behavior, behavior.item, behavior.timestamp_ms)


def behavior_updater(
    bootstrap_servers: str, server: Server, index: str, kafka_options: Mapping[str, object] | None = None
) -> StateConsumer[Behavior]:
    """A consumer of the behaviours topic; ``server`` must have been connected as a writer."""
    return StateConsumer(
        bootstrap_servers, Topics(index).behaviors, f"{index}.behavior-updaters",
        BehaviorHandler(server, index), batch=_BATCH, kafka_options=kafka_options,
    )  # fmt: skip
