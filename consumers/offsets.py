"""Which offsets may be committed when messages are finished in any order."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Ticket(NamedTuple):
    """One delivery of one message: what its completion refers to, and nothing delivered before or after it."""

    partition: int
    offset: int
    assignment: int


@dataclass(slots=True)
class _Partition:
    """What is known of a partition since it was assigned."""

    assignment: int
    delivered: deque[int] = field(default_factory=deque)  # not yet passed, in order; finished ones among them
    open: dict[int, int] = field(default_factory=dict)  # offset → bytes
    open_bytes: int = 0
    newest: int = -1
    position: int = -1  # the next offset to commit; −1: none yet
    committed: int = -1


class OffsetTracker:
    """Keeps, per partition, the place up to which every delivered message is done.

    *Contiguous* means in the order delivered: a topic with transactions or compaction has holes in its numbers. A
    partition whose oldest open message lies `window` messages behind the newest, or whose open messages hold
    `window_bytes`, is full and is to be paused. What was delivered under an earlier assignment of a partition no longer
    counts. Not thread-safe: the poll thread owns it. Each call is O(1) amortised, `committable` O(partitions).
    """

    def __init__(self, window: int, window_bytes: int) -> None:
        """Let a partition have so many messages, and so many bytes, until it is full (1 or more of both)."""
        if window < 1 or window_bytes < 1:
            raise ValueError(f"a window of {window} messages and {window_bytes} bytes admits nothing")
        self._window, self._window_bytes = window, window_bytes
        self._partitions: dict[int, _Partition] = {}
        self._assignments = 0

    def delivered(self, partition: int, offset: int, size: int) -> Ticket:
        """Note a message of `size` bytes as open; the first one of a partition begins its assignment.

        Raises `ValueError` for an offset that does not follow the last one: seeking back begins with `forget`.
        """
        state = self._partitions.get(partition)
        if state is None:
            self._assignments += 1
            state = self._partitions[partition] = _Partition(self._assignments)
        if offset <= state.newest:
            raise ValueError(f"partition {partition}: offset {offset} delivered after {state.newest}")
        state.newest = offset
        state.delivered.append(offset)
        state.open[offset] = size
        state.open_bytes += size
        return Ticket(partition, offset, state.assignment)

    def seen(self, partition: int, offset: int) -> bool:
        """Say whether this assignment has delivered the message, or a later one, before."""
        state = self._partitions.get(partition)
        return state is not None and offset <= state.newest

    def done(self, ticket: Ticket) -> bool:
        """Note a message as finished; False if it no longer counts (an earlier assignment) or was finished before."""
        state = self._partitions.get(ticket.partition)
        if state is None or state.assignment != ticket.assignment or ticket.offset not in state.open:
            return False
        state.open_bytes -= state.open.pop(ticket.offset)
        while state.delivered and state.delivered[0] not in state.open:
            state.position = state.delivered.popleft() + 1
        return True

    def committable(self) -> dict[int, int]:
        """Return, per partition that has moved on since the last commit, the next offset to read."""
        return {
            partition: state.position
            for partition, state in self._partitions.items()
            if state.position > state.committed
        }

    def committed(self, positions: Mapping[int, int]) -> None:
        """Note that these positions, returned by `committable`, have been committed."""
        for partition, position in positions.items():
            if state := self._partitions.get(partition):
                # Never beyond what is done: the commit may have been that of an earlier assignment.
                state.committed = max(state.committed, min(position, state.position))

    def window_full(self, partition: int) -> bool:
        """Say whether as many messages wait for the oldest open one as may, or as many bytes are open."""
        state = self._partitions.get(partition)
        return state is not None and (len(state.delivered) >= self._window or state.open_bytes >= self._window_bytes)

    def open_messages(self) -> int:
        """Count the messages that were delivered and are not finished."""
        return sum(len(state.open) for state in self._partitions.values())

    def forget(self, partition: int) -> None:
        """Drop a partition that was revoked or lost; completions that come later are ignored."""
        self._partitions.pop(partition, None)
