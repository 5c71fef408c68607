"""Histories against a dict, with records that come again."""

import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from index_store import BUCKETS, Checkpoint, HistoryEvent, HistoryStore, Server, StoreUnavailable, bucket_of

CAP = 3
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["u", "v", "wé"]),
        st.sampled_from(["view", "buy", None]),  # None erases
        st.sampled_from("abcdef"),
        st.integers(0, 6),
    ),
    max_size=40,
)


def at(next_offset: int, topic: str = "t") -> Checkpoint:
    """A position in the stream."""
    return Checkpoint(next_offset, "c", topic, 2, next_offset)


def expected(events: list[HistoryEvent]) -> dict[str, dict[str, list[tuple[str, int]]]]:
    """The definition, applied one by one: newest first, an item once, the newest `CAP`."""
    histories: dict[str, dict[str, list[tuple[str, int]]]] = {}
    for event in events:
        history = histories.setdefault(event.user, {})
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


@given(raw=EVENTS, cuts=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=6))
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_replays_change_nothing(server: Server, raw: list[Any], cuts: list[tuple[int, int]]) -> None:
    """Whatever ranges are appended again from whatever position on, the histories are those of each record once."""
    events = [HistoryEvent(3 * i, *fields) for i, fields in enumerate(raw)]  # offsets have holes
    store = HistoryStore(server, f"i{uuid.uuid4().hex}", cap=CAP)
    reached = 0
    for low, high in [*cuts, (0, len(events))]:
        low, high = min(low, reached), max(high, reached)  # never leaves records out
        part = events[low:high]
        store.append(0, part, at(part[-1].offset + 1 if part else 0))
        reached = min(max(reached, high), len(events))
    assert {u: h for u, h in store.read(["u", "v", "wé"]).items() if h} == {
        user: {behavior: entries for behavior, entries in history.items() if entries}
        for user, history in expected(events).items()
        if history
    }
    assert store.positions() == {0: at(events[-1].offset + 1 if events else 0)}


def test_the_position_covers_buckets_that_saw_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It advances when every bucket has its part, so a batch cut short is read again from before it."""
    store = HistoryStore(server, "shop")
    store.append(1, [HistoryEvent(0, "u", "buy", "a", 1)], at(1))
    store.append(1, [], at(5))
    assert store.positions() == {1: at(5)}
    real = Server.call

    def cut_short(self: Server, function: str, *call: Any) -> list[Any]:
        if function == "advance":
            raise StoreUnavailable("gone")
        return real(self, function, *call)

    batch = [HistoryEvent(5 + i, f"user-{i}", "buy", "a", 1) for i in range(200)]
    with monkeypatch.context() as patch:
        patch.setattr(Server, "call", cut_short)
        with pytest.raises(StoreUnavailable):
            store.append(1, batch, at(205))
    assert store.positions() == {1: at(5)}
    assert store.append(1, batch, at(205)) == 0
    assert store.positions() == {1: at(205)}
    store.append(1, batch[:10], at(15))
    assert store.positions() == {1: at(205)}


def test_partitions_and_streams_are_counted_apart(server: Server) -> None:
    """An offset of one partition, or of a topic made anew, says nothing about another's."""
    store = HistoryStore(server, "shop")
    assert store.append(0, [HistoryEvent(9, "u", "buy", "a", 1)], at(10)) == 1
    assert store.append(1, [HistoryEvent(0, "u", "buy", "b", 2)], at(1)) == 1
    assert store.append(0, [HistoryEvent(0, "u", "buy", "c", 3)], replace_topic(at(100))) == 1
    assert store.read(["u"]) == {"u": {"buy": [("c", 3), ("b", 2), ("a", 1)]}}
    assert store.positions() == {0: replace_topic(at(100)), 1: at(1)}


def replace_topic(position: Checkpoint) -> Checkpoint:
    """The same position in another topic of that name."""
    return at(position.next_offset, topic="made anew")


def test_a_lost_function_library_is_loaded_again(server: Server) -> None:
    """All buckets of a batch are applied though the server forgot the functions."""
    store = HistoryStore(server, "shop")
    server.ask("FUNCTION", "FLUSH")
    assert store.append(0, [HistoryEvent(i, f"user-{i}", "buy", "a", 1) for i in range(99)], at(99)) == 99
    assert len(server.ask("KEYS", "*:user:*")) == 99


def test_an_erased_user_leaves_no_key(server: Server) -> None:
    """Erasing removes the user's key; what comes later starts afresh; older records that come again do not return."""
    store = HistoryStore(server, "shop")
    events = [HistoryEvent(0, "u", "buy", "a", 1), HistoryEvent(1, "u")]
    store.append(0, events, at(2))
    store.append(0, events, at(2))
    assert store.read(["u", "nobody"]) == {"u": {}, "nobody": {}}
    assert server.ask("KEYS", "*:user:*") == []


def test_senseless_batches_are_refused(server: Server) -> None:
    """Offsets out of order, and a position not behind them, are the caller's mistake."""
    store = HistoryStore(server, "shop")
    with pytest.raises(ValueError, match="order"):
        store.append(0, [HistoryEvent(1, "u"), HistoryEvent(1, "u")], at(2))
    with pytest.raises(ValueError, match="behind"):
        store.append(0, [HistoryEvent(2, "u")], at(2))
    with pytest.raises(ValueError, match="cap"):
        HistoryStore(server, "shop", cap=0)


def test_buckets_are_the_same_everywhere() -> None:
    """The hash does not depend on the process, and all buckets are used."""
    assert bucket_of("user-1") == 20
    assert {bucket_of(f"user-{i}") for i in range(2000)} == set(range(BUCKETS))
