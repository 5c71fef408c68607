"""What users do, drawn from a seed, and the histories that must come of it."""

import numpy as np

from index_store import History
from messages import Behavior, encode
from tests.consumers.stage import Stage


class BehaviorStream:
    """Sends behaviours with times in any order and, now and then, erasures; all into one partition.

    An erasure shows what is applied twice: what it erased would come back.
    """

    def __init__(self, stage: Stage, users: int = 40, seed: int = 0) -> None:
        self._stage, self._rng = stage, np.random.default_rng(seed)
        self.expected: dict[str, History] = {f"u{n}": {} for n in range(users)}
        self.sent = 0

    def send(self, count: int) -> None:
        """Send so many records; they are in Kafka when this returns."""
        names = list(self.expected)
        for _ in range(count):
            user, item, at = str(self._rng.choice(names)), f"i{self._rng.integers(300)}", int(self._rng.integers(10**6))
            if self._rng.random() < 0.02:
                self._stage.produce(self._stage.topics.behaviors, user, None)
                self.expected[user] = {}
            else:
                self._stage.produce(self._stage.topics.behaviors, user, encode(Behavior(user, item, "view", at)))
                self._note(user, item, at)
        assert self._stage.producer.flush(20) == 0
        self.sent += count

    def _note(self, user: str, item: str, at: int) -> None:
        entries = self.expected[user].setdefault("view", [])
        known = [entry for entry in entries if entry[0] == item]
        if not known or known[0][1] <= at:
            kept = [entry for entry in entries if entry[0] != item]
            self.expected[user]["view"] = sorted([(item, at), *kept], key=lambda entry: -entry[1])
