"""A Redis that crashes, and one that comes back as it was some time ago, under workers that go on."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from index_store import HistoryStore, IndexStore
from messages import Item, Recommendations, RecommendRequest, Status
from tests.consumers.stage import QUICK, Mailbox, Stage, assert_holds, make_items, wait_until
from tests.faults.conftest import Figure
from tests.faults.verification import verified
from tests.integration.behavior_stream import BehaviorStream
from tests.integration.processes import Process, worker_processes
from tests.servers import AOF, RedisProcess, redis_process

ITEMS = make_items(600)
PATIENT = {"timeout_ms": 120_000}
CRASHES = 3


@dataclass
class Scene:
    """An index on a Redis of its own, a worker of every kind, and what they should have made of the topics."""

    redis: RedisProcess
    stage: Stage
    mailbox: Mailbox
    workers: list[Process]
    behaviors: BehaviorStream
    records: int = 0

    def put(self, items: list[Item]) -> None:
        """Write items."""
        self.stage.put(items)
        self.records += len(items)

    def delete(self, items: list[Item]) -> None:
        """Delete items."""
        self.stage.delete(*(item.id for item in items))
        self.records += len(items)

    def ask(self, user: str | None = None) -> Recommendations:
        """Ask for a user, or else for the whole index: so many items, and so thoroughly, that none is left out."""
        everything: dict[str, Any] = {"k": 1000, "beam": 1000, "budget": 1_000_000}
        request = RecommendRequest(user=user) if user else RecommendRequest(vector=ITEMS[0].vector, **everything)
        answer = self.mailbox.wait(self.mailbox.send(request, **PATIENT), timeout_s=30)[0]
        assert answer.status is Status.OK
        return answer

    def recommendable(self) -> set[str]:
        """Every item that can be recommended now."""
        return {scored.item for scored in self.ask().items}

    def settled(self) -> bool:
        """Whether everything written is in the store, and answers come from there."""
        checkpoint = IndexStore(self.stage.server, self.stage.index).shard(self.stage.info, 0).checkpoint
        behaviors = HistoryStore(self.stage.server, self.stage.index).positions().get(0)
        if checkpoint is None or checkpoint.next_offset < self.records:
            return False
        if behaviors is None or behaviors.next_offset < self.behaviors.sent:
            return False
        answer = self.ask()
        return not answer.degraded and answer.index_version == self.stage.mirror().version

    def assert_recommends(self, items: list[Item]) -> None:
        """Exactly these items can be recommended now."""
        answer = self.ask()
        found, expected = {scored.item for scored in answer.items}, {item.id for item in items}
        told = f"at {answer.index_version}, degraded {answer.degraded}, {answer.evaluations} evaluations"
        assert found == expected, f"{len(expected - found)} missing, {len(found - expected)} too many, {told}"

    def assert_right(self, items: list[Item]) -> None:
        """The index holds these items, the histories are as the stream says, and every worker is still up."""
        assert [worker.poll() for worker in self.workers] == [None] * len(self.workers)
        assert_holds(self.stage, items)
        self.assert_recommends(items)
        histories = HistoryStore(self.stage.server, self.stage.index)
        assert histories.read(self.behaviors.expected) == self.behaviors.expected
        verified(self.stage)


@pytest.fixture
def scene(kafka: str) -> Iterator[Scene]:
    """Three workers, a Redis that keeps what it acknowledges, 300 items and some histories."""
    with (
        redis_process(*AOF) as redis,
        closing(Stage(kafka, redis.url)) as stage,
        worker_processes("items", "behaviors", "requests", stage=stage, options=QUICK) as workers,
        closing(Mailbox(stage)) as mailbox,
    ):
        scene = Scene(redis, stage, mailbox, workers, BehaviorStream(stage))
        scene.put(ITEMS[:300])
        scene.behaviors.send(500)
        wait_until(scene.settled, "the beginning")
        yield scene


def test_a_redis_that_crashes_is_missed_and_loses_nothing(scene: Scene, record_property: Figure) -> None:
    """Killed in the middle of writes: requests are answered all the time, `degraded`, and afterwards all is there."""
    asked = 0
    for crash in range(CRASHES):
        begin = 300 + 100 * crash
        scene.put(ITEMS[begin : begin + 50])
        scene.behaviors.send(1_000)
        scene.redis.kill()
        scene.put(ITEMS[begin + 50 : begin + 100])
        scene.behaviors.send(1_000)

        def degraded() -> bool:
            nonlocal asked
            asked += 1
            return scene.ask(user="u0").degraded

        wait_until(degraded, "answers without the store")
        scene.redis.start()
        wait_until(scene.settled, "the writers to go on")
        assert not scene.ask(user="u0").degraded
    scene.assert_right(ITEMS)
    record_property("crashes", CRASHES)
    record_property("items", scene.records)
    record_property("behaviours", scene.behaviors.sent)
    record_property("asked while away", asked)


@pytest.mark.parametrize("goes_on", [False, True], ids=["nothing new", "new events"])
def test_a_redis_restored_from_an_older_copy_is_brought_forward(scene: Scene, tmp_path: Path, goes_on: bool) -> None:
    """No deleted item ever comes back, none added goes, histories are right: with new events or without any."""
    older, kept = tmp_path / "older", ITEMS[10:400]
    scene.redis.kill()
    shutil.copytree(scene.redis.folder / "appendonlydir", older)
    scene.redis.start()
    scene.delete(ITEMS[:10])
    scene.put(ITEMS[300:400])
    scene.behaviors.send(1_000)
    wait_until(scene.settled, "what the copy does not know")
    scene.assert_recommends(kept)
    scene.redis.kill()
    shutil.rmtree(scene.redis.folder / "appendonlydir")
    shutil.copytree(older, scene.redis.folder / "appendonlydir")
    scene.redis.start()
    new = ITEMS[400:500] if goes_on else []
    scene.put(new)
    scene.behaviors.send(len(new))

    def settled() -> bool:
        found = scene.recommendable()
        assert not found & {item.id for item in ITEMS[:10]}
        assert found >= {item.id for item in kept}
        return scene.settled()

    wait_until(settled, "everything to be as it was")
    scene.assert_right([*kept, *new])
