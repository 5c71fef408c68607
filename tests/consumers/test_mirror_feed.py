"""What a mirror does when the store is not where it was."""

import time
import uuid
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import structlog

from consumers import mirror
from consumers.mirror import MirrorFeed, StreamPlace
from index_store import (
    AccessDenied,
    Batch,
    Change,
    Checkpoint,
    Column,
    Follower,
    GenerationInfo,
    IndexStore,
    Server,
    ShardWriter,
    Snapshot,
    StoreError,
    StoreUnavailable,
    connect,
)
from tests.consumers.stage import wait_until


def upto(offset: int, topic: str = "t1") -> Checkpoint:
    """A position in a stream."""
    return Checkpoint(offset, "cluster", topic, 1, 1000)


class WatchedFollower(Follower):
    """Counts how often a feed has looked where the store stands, and fails as it is told."""

    looks = 0

    def __init__(self, server: Server, info: GenerationInfo) -> None:
        super().__init__(server, info, 0)
        self.errors: list[StoreError] = []

    def poll(self, timeout_s: float = 0.0) -> list[Change]:
        """Fail in the next of the ways that were told, or look."""
        if self.errors:
            raise self.errors.pop(0)
        return super().poll(timeout_s)

    def checkpoint(self) -> Checkpoint | None:
        """Look, and be counted."""
        self.looks += 1
        return super().checkpoint()


class Shard:
    """A shard that is written to and followed, and whose store can go back to what it was."""

    def __init__(self, url: str) -> None:
        self.server, self.writing = connect(url), connect(url, writer=True)
        name = f"t{uuid.uuid4().hex[:10]}"
        self.info = GenerationInfo(name, "g1", "inner_product", "m1", "", "", (Column("vectors", "<f4", 2),))
        self.writer = self.create()
        self.got: list[Snapshot | Change] = []
        self.follower = WatchedFollower(self.server, self.info)
        self.feed = MirrorFeed(self.follower, self.got.append)

    def close(self) -> None:
        """End the feed and the connections."""
        self.feed.stop()
        self.writing.close()
        self.server.close()

    def create(self) -> ShardWriter:
        """Make the generation, where it is not there, and take its shard."""
        IndexStore(self.server, self.info.index).create_generation(self.info)
        writer = ShardWriter(self.writing, self.info, 0)
        writer.take()
        return writer

    def put(self, item: str, checkpoint: Checkpoint | None) -> None:
        """Write one item into a row of its own."""
        at = self.writer.position
        values = np.ones((1, 2), "<f4")
        columns = {"vectors": [(np.array([at.rows]), values)]}
        self.writer.apply(Batch(at.seq + 1, at.rows + 1, columns, {item: at.rows}, checkpoint=checkpoint))

    def delete(self, item: str, checkpoint: Checkpoint | None = None) -> None:
        """Delete an item as item writers do: what came with the deletion follows in a batch of its own."""
        at = self.writer.position
        self.writer.apply(Batch(at.seq + 1, at.rows, ids_deleted=[item], checkpoint=checkpoint))

    def saved(self) -> Callable[[], None]:
        """A copy of all keys as they are now; call it to put them back in place of what is there by then."""
        pattern = f"*{self.info.index}*"
        copies = [(key, self.server.ask("DUMP", key)) for key in self.server.ask("KEYS", pattern)]

        def restore() -> None:
            gone = [("DEL", key) for key in self.server.ask("KEYS", pattern)]
            self.server.ask_all([*gone, *(("RESTORE", key, 0, copy) for key, copy in copies)], atomic=True)
            self.writer.take()

        return restore

    def items(self) -> set[str]:
        """What a mirror holds that took over everything that was handed on."""
        last = max(place for place, message in enumerate(self.got) if isinstance(message, Snapshot))
        snapshot = self.got[last]
        assert isinstance(snapshot, Snapshot)
        held = set(snapshot.ids)
        for change in self.got[last + 1 :]:
            assert isinstance(change, Change)
            held = held.difference(change.ids_deleted) | change.ids_set.keys()
        return held

    def wait_for_looks(self, more: int) -> None:
        """Return when the feed has looked so many times since."""
        seen = self.follower.looks
        wait_until(lambda: self.follower.looks >= seen + more, "a look at the store")


@pytest.fixture
def shard(redis: str) -> Iterator[Shard]:
    """A shard with two items, at offset 2, before anything follows it."""
    shard = Shard(redis)
    shard.put("a", upto(1))
    shard.put("b", upto(2))
    yield shard
    shard.close()


@pytest.mark.parametrize("settled", [True, False])
def test_a_restored_store_does_not_bring_deleted_items_back(shard: Shard, settled: bool) -> None:
    """What the mirror holds stays until the writer has read as far again, also where it stood between two batches."""
    restore = shard.saved()
    shard.feed.start()
    shard.delete("a")
    if settled:
        shard.put("c", upto(4))
    expected = {"b", "c"} if settled else {"b"}
    wait_until(lambda: shard.items() == expected, "the deletion")
    with structlog.testing.capture_logs() as logs:
        restore()
        wait_until(lambda: not shard.feed.available, "the gap")
        gone_back = time.monotonic()
        shard.delete("a", upto(3) if settled else None)  # not as far as the mirror
        shard.wait_for_looks(2)
        assert not shard.feed.available
        assert shard.feed.answered_at > gone_back  # the server does answer: histories can be read from it
        assert shard.items() == expected
        shard.put("c", upto(4))
        wait_until(lambda: shard.feed.available, "the writer to catch up")
    assert shard.items() == {"b", "c"}
    assert isinstance(shard.got[-1], Snapshot)
    assert [entry["offset"] for entry in logs if entry["event"].startswith("store went back")] == [2]


def test_an_emptied_store_does_not_empty_the_mirror(redis: str, shard: Shard) -> None:
    """A generation made anew has no position at all: the mirror answers until its items have been read again."""
    shard.feed.start()
    for key in shard.server.ask("KEYS", f"*{shard.info.index}*"):
        shard.server.ask("DEL", key)
    wait_until(lambda: not shard.feed.available, "the loss")
    shard.writer = shard.create()
    shard.wait_for_looks(2)
    shard.put("a", upto(1))
    shard.wait_for_looks(2)
    assert shard.items() == {"a", "b"}
    assert not shard.feed.available
    shard.put("x", upto(2))
    wait_until(lambda: shard.feed.available, "as many records as before")
    assert shard.items() == {"a", "x"}


def test_all_that_is_wrong_is_said_and_nothing_twice(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that comes back with another password is not merely away; it may say the same things in turns."""
    monkeypatch.setattr(mirror, "_RETRY_S", 0.01)
    away, denied = StoreUnavailable("connection refused"), AccessDenied("wrong password")
    shard.feed.start()
    for _ in range(2):
        with structlog.testing.capture_logs() as logs:
            shard.follower.errors = [away, denied, away, denied]
            wait_until(lambda: not shard.feed.available, "the trouble")
            wait_until(lambda: shard.feed.available, "its end")
        assert [(line["event"].split(",")[0], line["error"]) for line in logs] == [
            ("store away", "connection refused"),
            ("store cannot be followed", "wrong password"),
        ]


def test_another_stream_s_index_is_taken_over_at_once(shard: Shard) -> None:
    """Offsets of a topic that was made anew have nothing to do with those of the old one."""
    restore = shard.saved()
    for _ in range(3):
        shard.put("c", upto(9))
    shard.feed.start()
    restore()
    shard.put("d", upto(1, topic="t2"))
    wait_until(lambda: shard.items() == {"a", "b", "d"}, "the other stream's items")
    assert shard.feed.available


@pytest.mark.parametrize(
    ("stored", "behind"),
    [
        (upto(4), True),
        (upto(5), True),
        (upto(6), False),
        (None, True),
        (Checkpoint(4, "elsewhere", "t1", 1, 1000), False),
        (Checkpoint(4, "cluster", "t2", 1, 1000), False),
        (Checkpoint(4, "cluster", "t1", 2, 1000), False),
    ],
)
def test_a_mirror_beyond_its_checkpoint_is_ahead_of_it(stored: Checkpoint | None, behind: bool) -> None:
    """Only positions of one stream can be compared; a change without one counts until the next that has one."""
    place = StreamPlace()
    assert not place.is_ahead_of(stored)
    place.take_over(Snapshot(3, 1, 0, {}, {}, upto(5)))
    assert not place.is_ahead_of(upto(5))
    place.take_over(Change(4, 1, 0, {}, {}, ["a"]))
    assert place.is_ahead_of(stored) == behind
    place.take_over(Change(5, 1, 0, {}, {}, [], upto(6)))
    assert not place.is_ahead_of(upto(6))
