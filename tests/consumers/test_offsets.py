import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from consumers.offsets import OffsetTracker, Ticket

WINDOW, WINDOW_BYTES = 4, 100
partitions = st.integers(0, 2)


class Model:
    """A partition as a plain list of [offset, done, size], looked through from its beginning every time."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.messages: list[list[int]] = []

    def position(self) -> int | None:
        """Return the offset after the last of the done messages that stand before any open one."""
        position = None
        for offset, done, _ in self.messages:
            if not done:
                break
            position = offset + 1
        return position

    def waiting(self) -> int:
        """Count the messages from the oldest open one on."""
        done = [bool(done) for _, done, _ in self.messages]
        return len(done) - done.index(False) if False in done else 0

    def open_bytes(self) -> int:
        """Add up the sizes of the open messages."""
        return sum(size for _, done, size in self.messages if not done)


class OffsetMachine(RuleBasedStateMachine):
    """Any order of deliveries with holes, completions, commits and reassignments, against the model."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.tracker = OffsetTracker(WINDOW, WINDOW_BYTES)
        self.models: dict[int, Model] = {}
        self.owner: dict[Ticket, Model] = {}
        self.committed: dict[int, int] = {}  # what Kafka holds for the group

    @rule(target=tickets, partition=partitions, hole=st.integers(0, 3), size=st.integers(0, 60))
    def deliver(self, partition: int, hole: int, size: int) -> Ticket:
        """A new assignment begins at what was committed; numbers may be left out."""
        model = self.models.setdefault(partition, Model(self.committed.get(partition, 0)))
        offset = (model.messages[-1][0] + 1 if model.messages else model.start) + hole
        model.messages.append([offset, 0, size])
        ticket = self.tracker.delivered(partition, offset, size)
        assert ticket not in self.owner
        self.owner[ticket] = model
        return ticket

    @rule(ticket=consumes(tickets), twice=st.booleans())
    def finish(self, ticket: Ticket, twice: bool) -> None:
        """A completion counts once, and only within its own assignment."""
        model = self.owner[ticket]
        current = self.models.get(ticket.partition) is model
        assert self.tracker.done(ticket) is current
        if twice:
            assert self.tracker.done(ticket) is False
        if current:
            next(message for message in model.messages if message[0] == ticket.offset)[1] = 1

    @rule(success=st.booleans())
    def commit(self, success: bool) -> None:
        """Positions only grow; a commit that failed is offered again."""
        positions = self.tracker.committable()
        for partition, position in positions.items():
            assert position > self.committed.get(partition, -1)
        if success:
            self.committed |= positions
            self.tracker.committed(positions)
            assert self.tracker.committable() == {}
        else:
            assert self.tracker.committable() == positions

    @rule(partition=partitions)
    def revoke(self, partition: int) -> None:
        """A revoked partition leaves nothing behind."""
        self.models.pop(partition, None)
        self.tracker.forget(partition)
        assert partition not in self.tracker.committable()

    @invariant()
    def agrees_with_the_model(self) -> None:
        """Positions, windows and counts are the model's, in every partition."""
        expected = {partition: model.position() for partition, model in self.models.items()}
        kafka = self.committed
        assert self.tracker.committable() == {
            partition: position
            for partition, position in expected.items()
            if position is not None and position > kafka.get(partition, -1)
        }
        for partition in range(3):
            model = self.models.get(partition, Model(0))
            full = model.waiting() >= WINDOW or model.open_bytes() >= WINDOW_BYTES
            assert self.tracker.window_full(partition) == full
        messages = [done for model in self.models.values() for _, done, _ in model.messages]
        assert self.tracker.open_messages() == messages.count(0)


OffsetMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestOffsets = OffsetMachine.TestCase


def test_the_oldest_open_message_holds_the_position_back() -> None:
    """With 10, 17 and 30 delivered, finishing 17 and 30 moves nothing until 10 is done; then all moves at once."""
    tracker = OffsetTracker(3, 100)
    ten, seventeen, thirty = (tracker.delivered(0, offset, 1) for offset in (10, 17, 30))
    assert tracker.window_full(0)
    tracker.done(thirty)
    tracker.done(seventeen)
    assert tracker.committable() == {}
    tracker.done(ten)
    assert tracker.committable() == {0: 31}
    assert not tracker.window_full(0)


def test_bytes_count_until_their_message_is_done() -> None:
    """A partition with few large messages is full as well, and no longer when one of them is done, in any order."""
    tracker = OffsetTracker(10, 100)
    tracker.delivered(0, 1, 60)
    second = tracker.delivered(0, 2, 40)
    tracker.delivered(1, 1, 99)
    assert (tracker.window_full(0), tracker.window_full(1)) == (True, False)
    tracker.done(second)
    assert not tracker.window_full(0)


def test_a_late_completion_does_not_finish_the_redelivered_message() -> None:
    """The same offset delivered again after a reassignment is another message to the tracker."""
    tracker = OffsetTracker(10, 100)
    old = tracker.delivered(0, 5, 1)
    tracker.forget(0)
    new = tracker.delivered(0, 5, 1)
    assert tracker.done(old) is False
    assert tracker.committable() == {}
    assert tracker.done(new) is True
    assert tracker.committable() == {0: 6}


def test_what_cannot_be_is_refused() -> None:
    """An offset that goes back without a reassignment, and a window that admits nothing, are errors."""
    tracker = OffsetTracker(1, 100)
    tracker.delivered(0, 5, 1)
    with pytest.raises(ValueError, match="partition 0: offset 5 delivered after 5"):
        tracker.delivered(0, 5, 1)
    for window in ((0, 100), (1, 0)):
        with pytest.raises(ValueError, match="admits nothing"):
            OffsetTracker(*window)
