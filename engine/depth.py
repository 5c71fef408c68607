"""How deep a search looks that does not say so itself: how many rounds it needs, by what its history links to."""

from collections.abc import Sequence

import numpy as np

from engine.index import ItemIndex
from engine.query import Query

ROUNDS = 2
"""One near and one far: of a search whose links do not reach far enough."""

LINKS_A_RESULT = 4
"""So many links to what is relevant, of every item of the history, for each result that is wanted: then one round near
finds them. With 64 links its recall was 0.995 at k = 10, 0.993 at 16, 0.957 at 32, each on the worst of four catalogues
of 15,000 to 1,000,000 items; a round far beside it costs as much again on a small one, twice as much on a large one."""

ENOUGH_SEEDS = 4
"""A history of so many items is enough to start from, beside the best by prior; a shorter one gets all seeds."""


def seeds_of(index: ItemIndex, query: Query) -> np.ndarray:
    """The rows int64[s] that a search starts from beside its history."""
    return index.best if len(query.history_rows) >= ENOUGH_SEEDS else index.seeds


def rounds_of(index: ItemIndex, queries: Sequence[Query]) -> list[int]:
    """The rounds of each query: as many as it asks for or else needs, with a filter one more.

    A filter hides much of what links lead to.
    """
    near = _reached_by_links(index, queries)
    return [
        (query.params.rounds or (1 if place in near else ROUNDS)) + (query.mask is not None)
        for place, query in enumerate(queries)
    ]


def _reached_by_links(index: ItemIndex, queries: Sequence[Query]) -> set[int]:
    """Which queries, of those that leave it open, find all that is wanted in one round near.

    Not where an item of the history has just come and has no such links yet, or has lost some as others went.
    """
    links = index.links.shape[1] - index.degree
    able = [place for place, query in enumerate(queries) if _one_round_does(index, query, links)]
    if not able:
        return set()
    rows = [queries[place].history_rows for place in able]
    lengths = np.array([len(mine) for mine in rows])
    needed = np.repeat([_needed(queries[place]) for place in able], lengths)
    enough = index.relevant_counts[np.concatenate(rows)] >= needed
    whole = np.logical_and.reduceat(enough, np.cumsum(lengths) - lengths)
    return {place for place, one in zip(able, whole.tolist(), strict=True) if one}


def _one_round_does(index: ItemIndex, query: Query, links: int) -> bool:
    """Whether one round near looks at the links of all that it starts from, and can find among them what is wanted.

    links: that each item can have to what is relevant.
    """
    params, history = query.params, len(query.history_rows)
    return (
        params.rounds is None
        and index.metric.by_item
        and history > 0
        and query.vector is None
        and query.mask is None
        and query.per_group == 0
        and history + len(seeds_of(index, query)) <= min(params.width, params.beam)
        and _needed(query) <= min(links, max(params.pairs, params.k))
        and params.k + len(query.excluded) <= links  # even if the first ones all lead to what is excluded
    )


def _needed(query: Query) -> int:
    """The links of each item that lead to all results; what is excluded beyond a history's own takes places as well."""
    return LINKS_A_RESULT * (query.params.k + max(0, len(query.excluded) - len(query.history_rows)))
