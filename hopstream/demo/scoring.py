"""What the service is measured against: the same metric without a graph, and the baselines."""

from collections.abc import Sequence

import numpy as np

from consumers.mirror import Mirror
from consumers.questions import SearchDefaults, make_query
from engine.index import ItemIndex
from engine.model import Model
from engine.query import Query
from engine.search import exhaustive
from hopstream.data import Dataset, HeldOut
from hopstream.demo.stage import Stage
from hopstream.evaluation import ItemKnn, Popularity, hit_rate, touched_matrix
from index_store import Follower, HistoryStore
from messages import Recommendations, RecommendRequest, Status

K = 10


class Reference:
    """A mirror of the index in this process, asked for exhaustive answers."""

    def __init__(self, stage: Stage, model: Model) -> None:
        self.model = model
        self.mirror = Mirror(stage.info, model)
        self._histories = HistoryStore(stage.server, stage.info.index)
        follower = Follower(stage.server, stage.info, 0)
        self.mirror.load(follower.load())
        follower.close()

    @property
    def index(self) -> ItemIndex:
        """What the mirror holds for the engine."""
        return self.mirror.index

    def query(self, request: RecommendRequest) -> Query:
        """The query that a worker makes of a request."""
        stored = self._histories.read([request.user])[request.user] if request.user else {}
        return make_query(request, stored, self.mirror, self.model, SearchDefaults(), None)

    def top(self, requests: Sequence[RecommendRequest]) -> list[list[str]]:
        """The exhaustive answers, best first."""
        answers = exhaustive(self.index, [self.query(request) for request in requests])
        return [self.mirror.items(answer.rows) for answer in answers]


def recall(answers: Sequence[Recommendations], expected: Sequence[Sequence[str]]) -> float:
    """Share of the expected items that the answers hold."""
    found = sum(
        len({scored.item for scored in answer.items} & set(items))
        for answer, items in zip(answers, expected, strict=True)
    )
    return found / max(1, sum(map(len, expected)))


def answered(answers: Sequence[Recommendations]) -> int:
    """How many answers are whole: status ok and k items."""
    return sum(answer.status is Status.OK and len(answer.items) == K for answer in answers)


def excluded_behaviors(data: Dataset) -> tuple[str, ...]:
    """Behaviours after which an item is no recommendation any more.

    A purchase ends the matter, a look or a cart does not. Where nothing is bought everything touched is known already.
    """
    target = data.target_behavior
    return (target,) if target in ("buy", "purchase") else data.behaviors


def asked_pairs(data: Dataset, requests: int, seed: int = 0) -> HeldOut:
    """The held-out pairs of as many users as there are requests, chosen by a seed; all, where there are fewer."""
    held_out = data.held_out()
    count = min(requests, len(held_out.users))
    chosen = np.sort(np.random.default_rng(seed).choice(len(held_out.users), count, replace=False))
    mine = np.isin(held_out.rows, chosen)
    rows = np.searchsorted(chosen, held_out.rows[mine]).astype(np.int32)
    return HeldOut(held_out.users[chosen], rows, held_out.items[mine])


def answers_hit_rate(data: Dataset, pairs: HeldOut, answers: Sequence[Recommendations]) -> float:
    """HR@10 of what the service answered to the users of these pairs, in their order."""
    codes = {item: code for code, item in enumerate(data.items)}
    lists = np.full((len(pairs.users), K), -1, dtype=np.int32)
    for row, answer in zip(lists, answers, strict=False):
        found = [codes.get(scored.item, -1) for scored in answer.items[:K]]
        row[: len(found)] = found
    return hit_rate(lists, pairs)


def baseline_hit_rates(data: Dataset, pairs: HeldOut) -> tuple[float, float]:
    """HR@10 of popularity and of item k-NN for the same users, with the same exclusions."""
    excluded = touched_matrix(data, excluded_behaviors(data))
    popularity = Popularity.fit(data).recommend(pairs.users, K, excluded)
    neighbors = ItemKnn.fit(data).recommend(pairs.users, K, excluded)
    return hit_rate(popularity, pairs), hit_rate(neighbors, pairs)
