"""Compiled code is compiled when it is first called: once before serving, so that no request waits for it."""

import numpy as np
import torch

from engine.filters import Filter
from engine.graph import GraphParams, plan_insert
from engine.index import ItemIndex
from engine.metric import Metric
from engine.query import Query, SearchParams
from engine.relevance import plan_relevant
from engine.search import search

_ROWS = 64
_DEGREE = 8


def warm_up(metric: Metric, device: torch.device | str = "cpu") -> None:
    """Insert a few items into an index of this metric and search it: half a minute the very first time, then none."""
    rng = np.random.default_rng(0)
    index = ItemIndex(metric, _DEGREE, device=device, relevant=_DEGREE)
    params = GraphParams(candidates=2 * _DEGREE, exact_below=_ROWS // 2)
    for version, start in enumerate(range(0, _ROWS, _ROWS // 4), start=1):
        rows = np.arange(start, start + _ROWS // 4)
        vectors = rng.normal(size=(len(rows), metric.dimensions)).astype(np.float32)
        biases = np.zeros((len(rows), metric.bias_width), np.float32)
        state = metric.encode_items(torch.from_numpy(vectors).to(device), torch.from_numpy(biases).to(device))
        change = plan_insert(index, rows, metric.item_vectors(state), params)
        writes = {
            "vectors": [(rows, vectors)],
            "biases": [(rows, biases)],
            "neighbors": [(change.rows, change.neighbors)],
            "versions": [(rows, np.full((len(rows), 1), version))],
        }
        index.apply(writes, int(rows[-1]) + 1)
        change = plan_relevant(index, rows)
        index.apply({"relevant": [(change.rows, change.neighbors)]}, index.rows)
    history = np.arange(4)
    search(index, [Query(SearchParams(k=4, beam=8, pairs=8), history, np.zeros(4, np.int8)), Query()])
    index.matching(Filter(any_of=(1,)))
