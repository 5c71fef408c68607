"""What a GPU does without a graph: scores every item, in plain torch, with the metric that is searched.

Unlike `Bench.exhaustive`, which is for exact answers anywhere, it leaves all scores on the device.
"""

import numpy as np
import torch

from benchmarks.search_bench import Bench, K
from engine.metric import Users
from engine.query import Query

TOGETHER, BLOCK = 128, 32_768
"""Queries, and items, that are scored in one call: of six pairs the fastest on an H100 with 39,493 items, 6,155
queries/s; 32 queries gave 5,420, 8,192 items 6,010."""


def exhaustive(bench: Bench, queries: list[Query]) -> np.ndarray:
    """The best K of all items for each query, int64[n, K], best first."""
    index, metric = bench.index, bench.index.metric
    users = metric.make_users(TOGETHER, index.device)
    found = []
    for first in range(0, len(queries), TOGETHER):
        some = queries[first : first + TOGETHER]
        metric.encode_users(some, index.state, users, np.arange(len(some)))
        found.append(_best(bench, users, len(some)))
    answers: np.ndarray = torch.cat(found).cpu().numpy()
    return answers


def _best(bench: Bench, users: Users, count: int) -> torch.Tensor:
    """int64[count, K] for the users of the first lanes."""
    index, lanes = bench.index, torch.arange(count, device=bench.index.device)
    scores, rows = [], []
    for first in range(0, index.rows, BLOCK):
        block = torch.arange(first, min(first + BLOCK, index.rows), device=index.device)
        given = index.metric.score(index.state, block.expand(count, -1), users, lanes)
        best = given.topk(min(K, len(block)), dim=1)
        scores.append(best.values)
        rows.append(best.indices + first)
    order = torch.cat(scores, dim=1).topk(K, dim=1).indices
    return torch.cat(rows, dim=1).gather(1, order)
