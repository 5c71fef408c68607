import numpy as np

from index_store import History, HistoryStore
from messages import Behavior, encode
from tests.consumers.stage import Stage, wait_until
from tests.integration.processes import worker_process


def test_behaviours_take_effect_once_across_a_kill(stage: Stage) -> None:
    """SIGKILL in the middle of a stream with erasures: in the end every history is what the stream says."""
    rng = np.random.default_rng(0)
    users, topic, histories = (
        [f"u{n}" for n in range(40)],
        stage.topics.behaviors,
        HistoryStore(stage.server, stage.index),
    )
    expected: dict[str, History] = {user: {} for user in users}

    def stream(count: int) -> None:
        for _ in range(count):
            user, item, at = str(rng.choice(users)), f"i{rng.integers(300)}", int(rng.integers(1_000_000))
            if rng.random() < 0.02:
                stage.produce(topic, user, None)
                expected[user] = {}
                continue
            stage.produce(topic, user, encode(Behavior(user, item, "view", at)))
            entries = expected[user].setdefault("view", [])
            known = [entry for entry in entries if entry[0] == item]
            if not known or known[0][1] <= at:
                kept = [entry for entry in entries if entry[0] != item]
                expected[user]["view"] = sorted([(item, at), *kept], key=lambda entry: -entry[1])
        assert stage.producer.flush(20) == 0

    def position() -> int:
        found = histories.positions().get(0)
        return found.next_offset if found else 0

    with worker_process("behaviors", stage) as first:
        stream(50)
        wait_until(lambda: position() == 50, "the first records")
        stream(20_000)
        wait_until(lambda: position() > 50, "the stream to be under way")
        first.kill()
        first.wait()
    with worker_process("behaviors", stage):
        stream(50)
        wait_until(lambda: position() == 20_100, "all records")
    assert histories.read(users) == expected
