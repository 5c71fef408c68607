"""The item writer killed again and again while a catalogue loads."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from consumers.mirror import Mirror, MirrorFeed
from index_store import Change, Follower, IndexStore, Snapshot
from messages import Item, encode
from tests.consumers.stage import DIMENSIONS, Stage, assert_holds, wait_until
from tests.faults.conftest import Figure
from tests.faults.verification import verified
from tests.integration.processes import IN_THE_SAME_PLACE, worker_process

ITEMS, KILLS = 20_000, 10
PORTION = ITEMS // KILLS


class Witness:
    """A mirror that follows the log from the beginning to the end, as a request worker's does."""

    def __init__(self, stage: Stage) -> None:
        self.mirror, self.snapshots = Mirror(stage.info, stage.model), 0
        self._feed = MirrorFeed(Follower(stage.server.sibling(), stage.info, 0), self._take_over)

    def _take_over(self, message: Snapshot | Change) -> None:
        if isinstance(message, Snapshot):
            self.snapshots += 1
            self.mirror.load(message)
        else:
            self.mirror.apply(message)

    def caught_up_with(self, other: Mirror) -> bool:
        """Whether it stands where another one does."""
        self._feed.check()
        return self.mirror.seq == other.seq

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow in a thread of its own for the length of a block."""
        self._feed.start()
        try:
            yield
        finally:
            self._feed.stop()


class Catalogue:
    """Item events, drawn from one seed, and what must be in the index when all have been applied."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(4)
        self._time = 1_000
        self.items: dict[str, Item] = {}
        self.events = 0

    def portion(self, first: int) -> list[tuple[str, Item | None]]:
        """New items from this number on, between them changed, outdated and deleted ones among those before."""
        events: list[tuple[str, Item | None]] = []
        for number in range(first, first + PORTION):
            events.append(self._put(f"i{number}"))
            chance = self._rng.random()
            if chance < 0.10:
                events.append(self._put(self._any()))
            elif chance < 0.12:
                events.append((old := self._any(), self._item(old, time=1)))
            elif chance < 0.14:
                gone = self._any()
                self.items.pop(gone, None)
                events.append((gone, None))
        self.events += len(events)
        return events

    def _any(self) -> str:
        """Some item that is in the index, or soon will be."""
        names = list(self.items)
        return names[int(self._rng.integers(len(names)))]

    def _put(self, name: str) -> tuple[str, Item]:
        self._time += 1
        self.items[name] = item = self._item(name, self._time)
        return name, item

    def _item(self, name: str, time: int) -> Item:
        return Item(name, vector=self._rng.normal(size=DIMENSIONS).astype(np.float32), timestamp_ms=time)


def send(stage: Stage, events: Sequence[tuple[str, Item | None]]) -> None:
    """Write events to the items topic."""
    for name, item in events:
        stage.produce(stage.topics.items, name, None if item is None else encode(item))
    assert stage.producer.flush(30) == 0


def position(stage: Stage) -> int:
    """How many records of the items topic are in the index."""
    checkpoint = IndexStore(stage.server, stage.index).shard(stage.info, 0).checkpoint
    return checkpoint.next_offset if checkpoint else 0


def assert_equal_in_every_byte(one: Mirror, other: Mirror) -> None:
    """Two mirrors hold the same, row by row."""
    assert (one.seq, one.row_of, one.index.rows) == (other.seq, other.row_of, other.index.rows)
    for name in ("state", "links", "attributes", "numbers", "groups", "versions"):
        mine, theirs = (getattr(mirror.index, name)[: mirror.index.rows].numpy() for mirror in (one, other))
        assert mine.tobytes() == theirs.tobytes(), name


def test_ten_kills_in_a_load_lose_and_double_nothing(stage: Stage, record_property: Figure) -> None:
    """SIGKILL at ten moments: every item is there once as the topic says last, and the log unbroken throughout."""
    rng, pause = np.random.default_rng(0), threading.Event()
    catalogue, witness = Catalogue(), Witness(stage)
    interrupted = 0
    with witness.following():
        for number in range(KILLS):
            with worker_process("items", stage, IN_THE_SAME_PLACE) as writer:
                begin = position(stage)
                send(stage, catalogue.portion(number * PORTION))
                wait_until(lambda: position(stage) > begin, "the load to go on")  # noqa: B023
                pause.wait(float(rng.uniform(0, 0.3)))
                writer.kill()
                writer.wait()
                interrupted += position(stage) < catalogue.events
        with worker_process("items", stage, IN_THE_SAME_PLACE):
            wait_until(lambda: position(stage) == catalogue.events, "the rest")
        loaded = stage.mirror()
        wait_until(lambda: witness.caught_up_with(loaded), "the mirror that followed")
    assert witness.snapshots == 1
    assert interrupted > KILLS // 2
    assert_equal_in_every_byte(witness.mirror, loaded)
    assert_holds(stage, catalogue.items.values())
    report = verified(stage)
    record_property("items", report["items"])
    record_property("events", catalogue.events)
    record_property("kills", KILLS)
    record_property("kills in the middle of records", interrupted)
