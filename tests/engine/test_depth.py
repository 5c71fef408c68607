from dataclasses import replace

import numpy as np
import pytest

from engine.depth import LINKS_A_RESULT, ROUNDS, rounds_of
from engine.index import NO_NEIGHBOR, ItemIndex
from engine.query import Query, SearchParams
from engine.search import exhaustive, search
from tests.engine.indexes import METRICS, device_of, mlp_metric, random_index

K = 3
RELEVANT = K * LINKS_A_RESULT

LONG = np.arange(RELEVANT)
PLAIN = Query(SearchParams(k=K), np.array([5, 9]), np.ones(2, np.int8), excluded=np.array([5, 9]))


@pytest.fixture
def index() -> ItemIndex:
    """Every row has links to what is relevant, as many as three results need."""
    return random_index(mlp_metric(), rows=100, relevant=RELEVANT)


def test_links_that_reach_all_results_are_enough(index: ItemIndex) -> None:
    """One round for a plain query, in a batch with others; what asks for rounds gets those."""
    assert rounds_of(index, []) == []
    long = replace(PLAIN, history_rows=LONG, history_codes=np.ones(RELEVANT, np.int8))
    assert rounds_of(index, [long, PLAIN]) == [1, 1]
    asked = replace(PLAIN, params=SearchParams(k=K, rounds=5))
    filtered = replace(asked, mask=np.ones(100, dtype=bool))
    assert rounds_of(index, [PLAIN, asked, filtered, PLAIN]) == [1, 5, 6, 1]


@pytest.mark.parametrize(
    ("query", "rounds"),
    [
        (replace(PLAIN, params=SearchParams(k=K + 1)), ROUNDS),
        (replace(PLAIN, params=SearchParams(k=K, width=8)), ROUNDS),
        (replace(PLAIN, params=SearchParams(k=K, beam=8)), ROUNDS),
        (replace(PLAIN, params=SearchParams(k=K, pairs=8)), ROUNDS),
        (replace(PLAIN, excluded=np.array([5, 9, 50])), ROUNDS),
        (replace(PLAIN, history_rows=LONG, history_codes=np.ones(RELEVANT, np.int8), excluded=LONG), ROUNDS),
        (replace(PLAIN, history_rows=np.empty(0, np.int64), history_codes=np.empty(0, np.int8)), ROUNDS),
        (replace(PLAIN, vector=np.zeros(8, np.float32)), ROUNDS),
        (replace(PLAIN, per_group=1), ROUNDS),
        (replace(PLAIN, mask=np.ones(100, dtype=bool)), ROUNDS + 1),
    ],
    ids=[
        "more results",
        "fewer looked at",
        "fewer kept",
        "fewer scored",
        "more excluded",
        "links to the history alone",
        "no history",
        "a vector beside it",
        "a limit for groups",
        "a filter",
    ],
)
def test_what_links_may_not_reach_is_looked_for(index: ItemIndex, query: Query, rounds: int) -> None:
    """Whatever is wanted beyond what the history's links were made for takes a round far."""
    assert rounds_of(index, [PLAIN, query]) == [1, rounds]


@pytest.mark.parametrize("left", [0, RELEVANT - 1])
def test_an_item_without_its_links_is_not_relied_on(index: ItemIndex, left: int) -> None:
    """One that has just come has none, and one whose relevant items went has fewer."""
    links = np.full((1, RELEVANT), NO_NEIGHBOR, np.int32)
    links[0, :left] = index.relevant[9, :left].cpu()
    index.apply({"relevant": [(np.array([9]), links)]}, index.rows)
    other = replace(PLAIN, history_rows=np.array([5, 8]))
    assert rounds_of(index, [PLAIN, other]) == [ROUNDS, 1]


def test_an_index_without_such_links_is_searched_as_before() -> None:
    """Generations that were made without them."""
    assert rounds_of(random_index(mlp_metric(), rows=20), [PLAIN]) == [ROUNDS]


def test_an_average_of_a_history_is_searched_for() -> None:
    """It lies between the items, where none of their links lead."""
    assert rounds_of(random_index(METRICS["inner_product"](), rows=100, relevant=RELEVANT), [PLAIN]) == [ROUNDS]


@pytest.mark.parametrize("name", sorted(name for name in METRICS if METRICS[name]().by_item))
def test_one_round_finds_what_two_find(name: str) -> None:
    """Where links reach, hardly anything is lost: of the exact best and of what two rounds find."""
    index = random_index(METRICS[name](), rows=1000, degree=16, relevant=40, device=device_of(name))
    rng = np.random.default_rng(0)
    histories = [rng.choice(1000, 4, replace=False) for _ in range(60)]
    queries = [Query(SearchParams(k=10), rows, np.ones(4, np.int8), excluded=rows) for rows in histories]
    deeper = [replace(query, params=SearchParams(k=10, rounds=ROUNDS)) for query in queries]
    assert rounds_of(index, queries) == [1] * 60
    exact = exhaustive(index, queries)
    alone, both = (
        np.mean([np.isin(best.rows, answer.rows).mean() for best, answer in zip(exact, found, strict=True)])
        for found in (search(index, queries), search(index, deeper))
    )
    assert alone > 0.95
    assert alone > both - 0.02
