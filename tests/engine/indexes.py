"""Small random indexes for the tests of the engine."""

import numpy as np
import torch

from engine.graph import GraphParams, plan_delete, plan_insert
from engine.index import ItemIndex
from engine.metric import InnerProduct, Metric
from engine.mlp_metric import MlpMetric
from engine.query import Query, SearchParams
from engine.relevance import plan_forget, plan_relevant

DIMENSIONS = 12


def mlp_metric(seed: int = 0, *, compiled: bool = True) -> MlpMetric:
    """A learned metric with random parameters for two behaviours."""
    code_bias = np.random.default_rng(seed).normal(0, 0.2, (3, 2)).astype(np.float32)
    return MlpMetric(DIMENSIONS, code_bias, touched_bonus=0.4, target=1, compiled=compiled)


METRICS = {
    "mlp": mlp_metric,
    "inner_product": lambda: InnerProduct(DIMENSIONS),
    "mlp, plain": lambda: mlp_metric(compiled=False),
    "inner_product, plain": lambda: InnerProduct(DIMENSIONS, compiled=False),
}
if torch.cuda.is_available():
    METRICS |= {"mlp, cuda": mlp_metric, "inner_product, cuda": lambda: InnerProduct(DIMENSIONS)}
"""The kinds of metric, searched in compiled code, in plain torch, and on a GPU where there is one."""


def device_of(name: str) -> torch.device:
    """Where a kind of metric is searched."""
    return torch.device("cuda" if name.endswith("cuda") else "cpu")


def insert(
    index: ItemIndex, rows: np.ndarray, vectors: np.ndarray, biases: np.ndarray, version: int, params: GraphParams
) -> None:
    """Plan and apply the insert of one batch, and then its relevant links."""
    given = (torch.from_numpy(array).to(index.device) for array in (vectors, biases))
    state = index.metric.encode_items(*given)
    change = plan_insert(index, rows, index.metric.item_vectors(state), params)
    index.apply(
        {
            "vectors": [(rows, vectors)],
            "biases": [(rows, biases)],
            "versions": [(rows, np.full((len(rows), 1), version))],
            "neighbors": [(change.rows, change.neighbors)],
            "relevant": [(rows, np.full((len(rows), index.relevant.shape[1]), -1))],
        },
        max(index.rows, int(rows.max()) + 1),
    )
    change = plan_relevant(index, rows)
    index.apply({"relevant": [(change.rows, change.neighbors)]}, index.rows)


def delete(index: ItemIndex, rows: np.ndarray) -> None:
    """Plan and apply the deletion of rows, int64[n]."""
    change, relevant = plan_delete(index, rows, GraphParams(candidates=24)), plan_forget(index, rows)
    index.apply(
        {
            "neighbors": [(change.rows, change.neighbors)],
            "relevant": [(relevant.rows, relevant.neighbors)],
            "versions": [(rows, np.full((len(rows), 1), -5))],
        },
        index.rows,
    )


def random_index(
    metric: Metric, rows: int, seed: int = 0, batch: int = 100, degree: int = 8, params: GraphParams | None = None,
    device: torch.device | str = "cpu", relevant: int = 4,
) -> ItemIndex:  # fmt: skip
    """An index of normally distributed items, inserted in batches."""
    rng = np.random.default_rng(seed)
    index = ItemIndex(metric, degree, device=device, relevant=relevant)
    vectors = rng.normal(size=(rows, DIMENSIONS)).astype(np.float32)
    biases = rng.normal(0, 0.3, (rows, metric.bias_width)).astype(np.float32)
    for version, start in enumerate(range(0, rows, batch), start=1):
        part = np.arange(start, min(rows, start + batch))
        insert(index, part, vectors[part], biases[part], version, params or GraphParams(candidates=24))
    return index


def random_query(rng: np.random.Generator, index: ItemIndex, params: SearchParams) -> Query:
    """A query of up to a dozen history items, some of them excluded, sometimes with a filter or a vector."""
    live = np.flatnonzero(index.versions[: index.rows].cpu().numpy() > 0)
    history = rng.choice(live, min(len(live), int(rng.integers(0, 12))), replace=False)
    return Query(
        params,
        history_rows=history,
        history_codes=rng.integers(0, 3, len(history)).astype(np.int8),
        vector=rng.normal(size=DIMENSIONS).astype(np.float32) if rng.random() < 0.3 else None,
        excluded=history[: len(history) // 2],
        mask=rng.random(index.rows) < rng.random() if rng.random() < 0.3 else None,
    )


def scores_of(metric: Metric, query: Query, state: torch.Tensor) -> torch.Tensor:
    """δ float32[rows] of every row for one query."""
    users = metric.make_users(1, state.device)
    metric.encode_users([query], state, users, np.array([0]))
    return metric.score(state, torch.arange(len(state))[None], users, torch.zeros(1, dtype=torch.int64))[0]
