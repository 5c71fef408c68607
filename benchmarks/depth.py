"""How deep the engine's search looks: one round, near, beside two, for as many results as are wanted."""

from dataclasses import dataclass, replace
from functools import partial

from benchmarks.contest import by_turns
from benchmarks.search_bench import Bench, K
from engine.depth import ROUNDS, rounds_of
from engine.query import SearchParams

WANTED = (10, 16, 32, K)


@dataclass(frozen=True)
class DepthRow:
    """A search for the best k in so many rounds, all else by default. recall: of the exact best k.

    default: the share of the queries that would make so many if nobody said how many.
    """

    k: int
    rounds: int
    recall: float
    evaluations: float
    queries_per_second: float
    default: float


def depth_rows(bench: Bench, lanes: int, rounds: int) -> list[DepthRow]:
    """All numbers of results by turns, each with one round and with two."""
    undecided = {k: [replace(query, params=SearchParams(k=k)) for query in bench.queries] for k in WANTED}
    methods = {
        (k, depth): partial(
            bench.ours, [replace(query, params=SearchParams(k=k, rounds=depth)) for query in bench.queries], lanes
        )
        for k in WANTED
        for depth in range(1, ROUNDS + 1)
    }
    return [
        DepthRow(
            k,
            depth,
            recall=outcome.recall(bench.exact[:, :k]),
            evaluations=outcome.evaluations,
            queries_per_second=1 / timing.median,
            default=rounds_of(bench.index, undecided[k]).count(depth) / len(bench.queries),
        )
        for (k, depth), (outcome, timing) in by_turns(bench, methods, rounds).items()
    ]
