"""What a search is measured on: a metric, items under it, and users who ask.

The frozen reference metric, or one of our own that `hopstream train` wrote, with users of its data set.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.counting import Cost, MetricCosts
from benchmarks.reference_kernels import HIDDEN, SECOND
from benchmarks.reference_metric import HISTORY, ReferenceMetric, Ruler
from engine.artifact import MetricArtifact
from engine.behavior_codes import BOTH, OTHER_ONLY, TARGET_ONLY
from engine.metric import Metric
from engine.mlp_metric import MAX_HISTORY
from engine.model import learned_model
from engine.query import Query
from hopstream.data import Dataset, read_dataset

QUERIES = 512
SEED = 0
_D = 64

REFERENCE_COSTS = MetricCosts(
    pair=Cost(_D * HIDDEN + HIDDEN * SECOND + SECOND, 2 * _D),
    gradient=Cost(SECOND * HIDDEN + HIDDEN * _D, 2 * _D),
    # The user's vector and what it adds to the first layer; keys and values, also transposed.
    user=Cost(_D * _D + _D * HIDDEN, _D + 4 * _D * _D),
    longest=HISTORY,
    step=_D * HIDDEN,  # the first layer with the user folded in, transposed for gradients
)
"""19,008 multiply-adds for a pair where the history is full."""


@dataclass(frozen=True, eq=False)
class Challenge:
    """A metric, its items and its questions.

    vectors: float32[N, D] and biases: float32[N, bias_width], of the rows that histories name. exact: int64[Q, k], the
    best rows under the metric, where they are known already.
    """

    name: str
    metric: Metric
    costs: MetricCosts
    vectors: np.ndarray
    biases: np.ndarray
    histories: list[Query]
    exact: np.ndarray | None = None

    @property
    def means(self) -> np.ndarray:
        """float32[Q, D]: each history's mean vector, what a search by vectors alone is asked with."""
        return np.stack([self.vectors[query.history_rows].mean(axis=0) for query in self.histories])

    def first(self, count: int) -> "Challenge":
        """The same with its first questions only."""
        exact = None if self.exact is None else self.exact[:count]
        return replace(self, histories=self.histories[:count], exact=exact)


def load(folder: Path, data: Path) -> Challenge:
    """A folder with a reference or a trained metric; the latter's users are those of the data set."""
    if (folder / "reference.safetensors").exists():
        return of_ruler(Ruler.load(folder))
    return _learned(MetricArtifact.load(folder), read_dataset(data))


def expanded(challenge: Challenge, items: int) -> Challenge:
    """The same questions over so many items: those it has, and copies of them with noise.

    None is copied from an item of any history: of such copies a query would find little else.
    """
    random = np.random.default_rng(SEED)
    touched = np.concatenate([query.history_rows for query in challenge.histories])
    others = np.setdiff1d(np.arange(len(challenge.vectors)), touched)
    sources = random.choice(others, items - len(challenge.vectors))
    vectors = np.concatenate([challenge.vectors, noisy_copies(challenge.vectors, sources, random)])
    biases = np.concatenate([challenge.biases, challenge.biases[sources]])
    return replace(challenge, vectors=vectors, biases=biases, exact=None)


def noisy_copies(vectors: np.ndarray, sources: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """float32[n, D]: copies of rows int64[n] with noise that leaves mean and deviation of the catalogue as they are."""
    mean, deviation = vectors.mean(axis=0), vectors.std(axis=0)
    noise = random.normal(size=(len(sources), vectors.shape[1])).astype(np.float32)
    copies: np.ndarray = mean + np.float32(0.51**0.5) * (vectors[sources] - mean) + np.float32(0.7) * deviation * noise
    return copies


def of_ruler(ruler: Ruler) -> Challenge:
    """The reference metric's items and questions."""
    rows = [line[line >= 0] for line in ruler.history]
    histories = [Query(history_rows=mine, history_codes=np.zeros(len(mine), np.int8)) for mine in rows]
    nothing = np.zeros((len(ruler.vectors), 0), np.float32)
    metric = ReferenceMetric(ruler.weights)
    return Challenge("reference", metric, REFERENCE_COSTS, ruler.vectors, nothing, histories, ruler.exact)


def _learned(artifact: MetricArtifact, data: Dataset) -> Challenge:
    """Users of whom something was held out, drawn by a seed, with all that they did in training."""
    users = data.held_out().users
    asked = np.random.default_rng(SEED).choice(users, min(QUERIES, len(users)), replace=False)
    histories = _histories(artifact, data, asked)
    products = Cost(0, artifact.dimensions)
    costs = MetricCosts(products, gradient=products, user=Cost(0, 0), longest=MAX_HISTORY)
    model = learned_model(artifact)
    return Challenge(f"trained {model.version}", model.metric, costs, artifact.vectors, artifact.biases, histories)


def _histories(artifact: MetricArtifact, data: Dataset, users: np.ndarray) -> list[Query]:
    """What each user touched, and how; users without a history of items that the metric knows are left out."""
    row_of = {item: row for row, item in enumerate(artifact.item_ids)}
    rows = np.array([row_of.get(item, -1) for item in data.items])
    train, target = data.train, data.behaviors.index(artifact.target)
    mine = np.isin(train.users, users) & (rows[train.items] >= 0)
    train = train.where(mine)
    histories = []
    for user in users:
        own = train.users == user
        touched, place = np.unique(rows[train.items[own]], return_inverse=True)
        behaviors = train.behaviors[own]
        targets = np.bincount(place[behaviors == target], minlength=len(touched))
        others = np.bincount(place[behaviors != target], minlength=len(touched))
        codes = np.where(targets > 0, np.where(others > 0, BOTH, TARGET_ONLY), OTHER_ONLY).astype(np.int8)
        if len(touched):
            histories.append(Query(history_rows=touched, history_codes=codes))
    return histories
