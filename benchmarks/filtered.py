"""The engine's search where a filter lets only some rows through."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from benchmarks.contest import by_turns
from benchmarks.search_bench import Bench
from engine.query import SearchParams

SHARES = (0.5, 0.1, 0.01, 0.001)


@dataclass(frozen=True)
class FilterRow:
    """A filter that matches a share of the rows; recall against the best of these under the metric."""

    matching_share: float
    matching_rows: int
    recall_at_50: float
    evaluations: float
    queries_per_second: float


def filter_rows(bench: Bench, params: SearchParams, lanes: int, rounds: int) -> list[FilterRow]:
    """One setting under filters of a tag that rows carry by chance."""
    tag = np.random.default_rng(0).random(bench.index.rows)
    masks = {share: tag < share for share in SHARES}
    asked = {
        share: [replace(query, params=params, mask=mask) for query in bench.queries] for share, mask in masks.items()
    }
    found = by_turns(bench, {share: partial(bench.ours, queries, lanes) for share, queries in asked.items()}, rounds)
    return [
        FilterRow(
            share,
            int(masks[share].sum()),
            recall_at_50=outcome.recall(bench.exhaustive(asked[share]).rows),
            evaluations=outcome.evaluations,
            queries_per_second=1 / timing.median,
        )
        for share, (outcome, timing) in found.items()
    ]
