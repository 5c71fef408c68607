import signal

import numpy as np

from consumers.mirror import Mirror
from index_store import Follower
from messages import Item
from tests.consumers.stage import DIMENSIONS, Stage, assert_holds, assert_sound, make_items, wait_until
from tests.integration.processes import worker_process

ITEMS = make_items(2000)


class Witness:
    """A mirror that follows the log from its beginning: every entry's number and chain is checked on the way."""

    def __init__(self, stage: Stage) -> None:
        self.follower, self.mirror = Follower(stage.server, stage.info, 0), Mirror(stage.info, stage.model)
        self.mirror.load(self.follower.load())
        assert self.mirror.seq == 0

    def follow(self) -> None:
        """Take over everything up to now."""
        while changes := self.follower.poll():
            for change in changes:
                self.mirror.apply(change)

    def assert_saw(self, stage: Stage) -> None:
        """What the log told is what the columns hold."""
        self.follow()
        now = stage.mirror()
        assert self.mirror.seq == now.seq
        assert self.mirror.row_of == now.row_of
        assert bool((self.mirror.index.links[: now.index.rows] == now.index.links[: now.index.rows]).all())
        assert bool((self.mirror.index.points[: now.index.rows] == now.index.points[: now.index.rows]).all())
        self.follower.close()


def test_a_killed_writer_loses_and_doubles_nothing(stage: Stage) -> None:
    """SIGKILL in the middle of a load: the next one goes on, and every item is there once, the log without a break."""
    witness = Witness(stage)
    with worker_process("items", stage) as first:
        stage.put(ITEMS[:100])
        wait_until(lambda: stage.count() == 100, "the first items")
        stage.put(ITEMS[100:])
        wait_until(lambda: stage.count() > 100, "the load to be under way")
        first.kill()
        first.wait()
    with worker_process("items", stage):
        last = Item("i0", vector=np.ones(DIMENSIONS, np.float32), timestamp_ms=2000)
        stage.put([last])
        wait_until(lambda: stage.stored()["i0"][0] == 1, "the last event")
    assert_holds(stage, [*ITEMS[1:], last])
    assert_sound(stage.mirror())
    witness.assert_saw(stage)


def test_a_writer_that_was_replaced_while_it_hung_writes_no_more(stage: Stage) -> None:
    """Another writer takes the shard over; the first, awake again, is fenced, and both together lose nothing."""
    witness = Witness(stage)
    with worker_process("items", stage) as first:
        stage.put(ITEMS[:500])
        wait_until(lambda: stage.count() == 500, "the first items")
        first.send_signal(signal.SIGSTOP)
        stage.put(ITEMS[500:1500])
        with worker_process("items", stage) as second:
            wait_until(lambda: stage.count() == 1500, "the second writer to go on")
            first.send_signal(signal.SIGCONT)
            stage.put(ITEMS[1500:])
            wait_until(lambda: stage.count() == 2000, "the rest")
            assert first.poll() is None
            second.send_signal(signal.SIGTERM)
            assert second.wait(20) == 0
            stage.delete("i3")
            wait_until(lambda: stage.count() == 1999, "the first writer to go on")
    assert_holds(stage, [item for item in ITEMS if item.id != "i3"])
    witness.assert_saw(stage)
