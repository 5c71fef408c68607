"""Histories against a dict, whatever becomes of the writers and of the store."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from index_store import (
    BUCKETS,
    Checkpoint,
    HistoryEvent,
    HistoryStore,
    HistoryWriter,
    NotTaken,
    SequenceConflict,
    Server,
    StoreUnavailable,
    bucket_of,
    connect,
)
from tests.store_copies import StoreCopy

CAP = 3
USERS = ["u", "v", "wé"]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(USERS),
        st.sampled_from(["view", "buy", None]),  # None erases
        st.sampled_from("abcdef"),
        st.integers(0, 6),
    ),
    max_size=12,
)
WRITERS = st.integers(0, 1)

Histories = dict[str, dict[str, list[tuple[str, int]]]]


def at(next_offset: int, topic: str = "t") -> Checkpoint:
    """A position in the stream."""
    return Checkpoint(next_offset, "c", topic, 2, next_offset)


def expected(events: list[HistoryEvent]) -> Histories:
    """The definition, applied one by one: newest first, an item once, the newest `CAP`."""
    histories: Histories = {user: {} for user in USERS}
    for event in events:
        history = histories[event.user]
        if event.behavior is None:
            history.clear()
            continue
        entries = history.setdefault(event.behavior, [])
        known = dict(entries)
        if known.get(event.item, -1) > event.timestamp_ms:
            continue
        entries = [entry for entry in entries if entry[0] != event.item]
        # Stable, and the new one stands first: of equal times the later record is the newer.
        entries = sorted([(event.item, event.timestamp_ms), *entries], key=lambda entry: -entry[1])
        history[event.behavior] = entries[:CAP]
    return histories


class HistoryMachine(RuleBasedStateMachine):
    """A stream that grows, two writers that know nothing of each other, and a store that goes back at any time."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.server, index = connect(self.url, writer=True), f"i{uuid.uuid4().hex}"
        self.store = HistoryStore(self.server, index)
        self.writers = [HistoryWriter(self.server, index, 0, cap=CAP) for _ in range(2)]
        self.reads: list[int | None] = [None, None]  # the offset that a writer reads next; None: it has to take first
        self.events: list[HistoryEvent] = []
        self.copy = StoreCopy(self.server, index)
        self.late: list[tuple[str, Any]] = []
        self.index = index

    @rule(raw=EVENTS)
    def come(self, raw: list[Any]) -> None:
        """Records come; their offsets have holes."""
        self.events += [HistoryEvent(3 * (len(self.events) + n), *fields) for n, fields in enumerate(raw)]

    @rule(who=WRITERS, count=st.integers(0, 12))
    def append(self, who: int, count: int) -> None:
        """A writer appends what comes next, or learns that the store is not where it left it."""
        if (first := self._next(who)) is not None:
            part = [event for event in self.events if event.offset >= first][:count]
            position = part[-1].offset + 1 if part else first
            try:
                self.writers[who].append(part, at(position))
                self.reads[who] = position
            except (SequenceConflict, StoreUnavailable):
                self.reads[who] = None

    @rule(who=WRITERS, count=st.integers(0, 12), calls=st.integers(0, 3))
    def append_in_part(self, who: int, count: int, calls: int) -> None:
        """The answer does not come: some of the calls arrived, others are on their way and may arrive at any time."""
        with self._cut_after(calls):
            self.append(who, count)

    @rule()
    def arrive_late(self) -> None:
        """What an old socket held is done after all."""
        for function, call in self.late:
            self.server.call(function, *call)
        self.late.clear()

    @rule()
    def save(self) -> None:
        """Make a copy of the store."""
        self.copy = StoreCopy(self.server, self.index)

    @rule()
    def restore(self) -> None:
        """Put the copy back, with writers in the middle of their work."""
        self.copy.restore()

    @rule(user=st.sampled_from(USERS))
    def restore_a_bucket(self, user: str) -> None:
        """Put back what one node of several held."""
        tag = f":h{bucket_of(user)}}}".encode()
        self.copy.restore(lambda key: tag in key)

    @rule(who=WRITERS)
    def check(self, who: int) -> None:
        """Whoever looks finds that the store went back, though nothing comes."""
        if self.reads[who] is not None:
            moved = HistoryWriter(self.server, self.index, 0, cap=CAP)
            moved.take()
            same = moved._known == self.writers[who]._known
            try:
                self.writers[who].check()
                assert same
            except SequenceConflict:
                assert not same
                self.reads[who] = None

    @rule(who=WRITERS)
    def catch_up(self, who: int) -> None:
        """A writer that looks, and reads to the end, leaves the histories of every record once."""
        self.check(who)
        for _ in range(2):  # the first may only learn that it has to take
            self.append(who, len(self.events))
        assert self.store.read(USERS) == {
            user: {behavior: entries for behavior, entries in history.items() if entries}
            for user, history in expected(self.events).items()
        }
        if self.events:
            assert self.store.positions() == {0: at(self.events[-1].offset + 1)}

    def teardown(self) -> None:
        """Whatever happened, it comes to the same in the end."""
        self.catch_up(0)
        self.server.close()

    def _next(self, who: int) -> int | None:
        if self.reads[who] is None:
            stored = self.writers[who].take()
            self.reads[who] = stored.next_offset if stored else 0
        return self.reads[who]

    @contextmanager
    def _cut_after(self, count: int) -> Iterator[None]:
        """Let so many calls through; then the store does not answer."""
        real = self.server.call_all

        def cut(function: str, calls: Any) -> Any:
            nonlocal count
            answers = real(function, calls[:count])
            self.late += [(function, call) for call in calls[count:]]
            count -= len(calls)
            if count < 0:
                raise StoreUnavailable("gone")
            return answers

        self.server.call_all = cut  # type: ignore[method-assign]
        try:
            yield
        finally:
            del self.server.call_all  # type: ignore[method-assign]


def test_every_record_counts_once_whatever_happens(url: str) -> None:
    """Crashes, racing writers, late writes, restored copies: who reads on from `take` loses and repeats nothing."""
    HistoryMachine.url = url
    run_state_machine_as_test(
        HistoryMachine,
        settings=settings(
            max_examples=100, stateful_step_count=20, deadline=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


def taken(server: Server, partition: int = 0) -> HistoryWriter:
    """A writer of the histories of an index that may begin to append."""
    writer = HistoryWriter(server, "shop", partition)
    writer.take()
    return writer


def test_the_position_covers_buckets_that_saw_nothing(writing: Server, server: Server) -> None:
    """It advances when every bucket has its part, also where no record is for it."""
    writer = taken(writing, 1)
    writer.append([HistoryEvent(0, "u", "buy", "a", 1)], at(1))
    writer.append([], at(5))
    assert HistoryStore(server, "shop").positions() == {1: at(5)}
    assert HistoryWriter(writing, "shop", 1).take() == at(5)


def test_a_bucket_that_lost_records_is_read_again_from_its_loss(writing: Server, server: Server) -> None:
    """One that lags behind what the position says of it moves the start back, and nobody else's records come twice."""
    writer, users = taken(writing), [f"user-{n}" for n in range(40)]
    writer.append([HistoryEvent(n, user, "buy", "a", n) for n, user in enumerate(users)], at(40))
    copy = StoreCopy(server, "shop")
    batch = [HistoryEvent(40 + n, user, "buy", "b", n) for n, user in enumerate(users)]
    writer.append(batch, at(80))
    tag = f":h{bucket_of('user-7')}}}".encode()
    copy.restore(lambda key: tag in key)
    first = min(n for n, user in enumerate(users) if bucket_of(user) == bucket_of("user-7"))
    again = HistoryWriter(writing, "shop", 0)
    assert again.take() == Checkpoint(first + 1, "c", "t", 2, 80)
    lost = sum(bucket_of(user) == bucket_of("user-7") for user in users)
    assert again.append(batch, at(80)) == lost
    assert all(history["buy"][0][0] == "b" for history in HistoryStore(server, "shop").read(users).values())


def test_partitions_and_streams_are_counted_apart(writing: Server, server: Server) -> None:
    """An offset of one partition, or of a topic made anew, says nothing about another's."""
    assert taken(writing, 0).append([HistoryEvent(9, "u", "buy", "a", 1)], at(10)) == 1
    assert taken(writing, 1).append([HistoryEvent(0, "u", "buy", "b", 2)], at(1)) == 1
    assert taken(writing, 0).append([HistoryEvent(0, "u", "buy", "c", 3)], at(100, "made anew")) == 1
    store = HistoryStore(server, "shop")
    assert store.read(["u"]) == {"u": {"buy": [("c", 3), ("b", 2), ("a", 1)]}}
    assert store.positions() == {0: at(100, "made anew"), 1: at(1)}


def test_a_lost_function_library_is_loaded_again(writing: Server, server: Server) -> None:
    """All buckets of a batch are applied though the server forgot the functions."""
    writer = taken(writing)
    server.ask("FUNCTION", "FLUSH")
    assert writer.append([HistoryEvent(i, f"user-{i}", "buy", "a", 1) for i in range(99)], at(99)) == 99
    assert len(server.ask("KEYS", "*:user:*")) == 99


def test_an_erased_user_leaves_no_key(writing: Server, server: Server) -> None:
    """Erasing removes the user's key; older records that come again do not return."""
    events = [HistoryEvent(0, "u", "buy", "a", 1), HistoryEvent(1, "u")]
    writer = taken(writing)
    assert [writer.append(events, at(2)), writer.append(events, at(2))] == [2, 0]
    assert HistoryStore(server, "shop").read(["u", "nobody"]) == {"u": {}, "nobody": {}}
    assert server.ask("KEYS", "*:user:*") == []


def test_senseless_batches_are_refused(writing: Server) -> None:
    """Offsets out of order, a position not behind them, and appending without having taken are mistakes."""
    writer = taken(writing)
    with pytest.raises(ValueError, match="order"):
        writer.append([HistoryEvent(1, "u"), HistoryEvent(1, "u")], at(2))
    with pytest.raises(ValueError, match="behind"):
        writer.append([HistoryEvent(2, "u")], at(2))
    with pytest.raises(ValueError, match="cap"):
        HistoryWriter(writing, "shop", 0, cap=0)
    with pytest.raises(NotTaken, match="take"):
        HistoryWriter(writing, "shop", 0).append([], at(0))


def test_buckets_are_the_same_everywhere() -> None:
    """The hash does not depend on the process, and all buckets are used."""
    assert bucket_of("user-1") == 20
    assert {bucket_of(f"user-{i}") for i in range(2000)} == set(range(BUCKETS))
