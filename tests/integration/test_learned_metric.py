from collections.abc import Callable
from typing import Any

import numpy as np

from consumers.behavior_updater import behavior_updater
from consumers.questions import SearchDefaults, make_query
from engine.artifact import MetricArtifact
from engine.model import learned_model
from engine.search import exhaustive
from index_store import HistoryStore
from messages import Behavior, Item, RecommendRequest, Status, encode
from tests.consumers.stage import DIMENSIONS, QUICK, Mailbox, Stage, assert_sound, running, wait_until

TRAINED, FRESH, FEATURES = 200, 40, 64
EXACT: dict[str, Any] = {"beam": 240, "budget": 10_000}


def small_artifact() -> MetricArtifact:
    """A metric of random parameters for two behaviours and 200 items."""
    rng = np.random.default_rng(0)

    def random(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.5, shape).astype(np.float32)

    return MetricArtifact(
        behaviors=("view", "buy"),
        target="buy",
        item_ids=tuple(f"i{n}" for n in range(TRAINED)),
        vectors=random(TRAINED, DIMENSIONS),
        biases=random(TRAINED, 4),
        code_bias=random(3, 2),
        touched_bonus=np.array(0.5, np.float32),
        content_weight=random(FEATURES, DIMENSIONS + 4),
        content_bias=random(DIMENSIONS + 4),
        content_norm=1.5,
    )


def test_a_learned_metric_from_the_topics_to_the_answers(new_stage: Callable[..., Stage]) -> None:
    """Items are placed by training or by content, behaviours become histories, answers are the metric's best."""
    model = learned_model(small_artifact())
    stage = new_stage(model)
    mailbox = Mailbox(stage)
    histories = HistoryStore(stage.server, stage.index)
    items = [Item(f"i{n}", text=f"thing number {n}", tags=("t",), timestamp_ms=1) for n in range(TRAINED + FRESH)]
    did = [Behavior(f"u{n % 20}", f"i{n * 7 % 240}", ("view", "buy")[n % 3 == 0], n) for n in range(200)]
    updater = behavior_updater(stage.kafka, stage.writing, stage.index, QUICK)
    with running(stage.item_writer()), running(updater), running(stage.request_worker()):
        stage.put(items)
        for behavior in did:
            stage.produce(stage.topics.behaviors, behavior.user, encode(behavior))
        wait_until(lambda: stage.count() == len(items), "all items")
        wait_until(lambda: 0 in (at := histories.positions()) and at[0].next_offset == 200, "all behaviours")
        ask = RecommendRequest(user="x")
        wait_until(lambda: mailbox.ask(ask).index_version == stage.mirror().version, "the worker's mirror")
        requests = [RecommendRequest(user=f"u{n}", **EXACT) for n in range(20)]
        answers = mailbox.wait(*(mailbox.send(request) for request in requests))
    mirror = stage.mirror()
    assert_sound(mirror)
    stored = histories.read([f"u{n}" for n in range(20)])
    queries = [
        make_query(request, stored[request.user or ""], mirror, model, SearchDefaults(), None) for request in requests
    ]
    for request, answer, expected in zip(requests, answers, exhaustive(mirror.index, queries), strict=True):
        assert (answer.status, answer.metric_version) == (Status.OK, model.version)
        found = [scored.item for scored in answer.items]
        assert found == mirror.items(expected.rows)
        assert [scored.score for scored in answer.items] == expected.scores.tolist()
        assert not set(found) & {item for item, _ in stored[request.user or ""].get("buy", ())}
    mailbox.close()
