from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.filters import attribute_code, filter_values
from consumers.mirror import Mirror, columns_of
from consumers.questions import SearchDefaults, make_query, touched
from engine.behavior_codes import BOTH, OTHER_ONLY, TARGET_ONLY
from engine.errors import InvalidQuery
from engine.model import Model, vector_model
from index_store import GenerationInfo, History, Snapshot
from messages import HistoryEntry, Item, RecommendRequest
from tests.consumers.stage import DEGREE, DIMENSIONS

DESCRIBED = [
    Item("i0", tags=("blue",), number=1, group="Acme", timestamp_ms=1),
    Item("i1", tags=("blue",), number=2, timestamp_ms=1),
    Item("i2", tags=("blue", "round"), number=3, timestamp_ms=1),
    Item("i3", tags=("round",), timestamp_ms=1),
    Item("i4", number=5, timestamp_ms=1),
    Item("i5", number=-6, timestamp_ms=1),
]
ITEMS = [item.id for item in DESCRIBED]
UNKNOWN = "elsewhere"
BEHAVIORS = ("buy", "cart", "view")


def some_mirror(model: Model) -> Mirror:
    """Six items in rows 1, 2, … so that a row is not a place in a list."""
    columns = columns_of(model, DEGREE)
    info = GenerationInfo("t", "g", model.metric.kind, model.version, "", model.sha256, columns)
    rows = len(ITEMS) + 1
    arrays = {column.name: column.zeros(rows) for column in columns}
    arrays["neighbors"][:] = -1
    arrays["versions"][1:] = 1
    arrays["vectors"][:] = np.random.default_rng(0).normal(size=arrays["vectors"].shape)
    for name, values in filter_values(DESCRIBED).items():
        arrays[name][1:] = values
    mirror = Mirror(info, model)
    mirror.load(Snapshot(1, 1, rows, arrays, {item: row for row, item in enumerate(ITEMS, start=1)}))
    return mirror


PLAIN = vector_model(DIMENSIONS)
# The same, but with behaviours: what a query is made of does not depend on the metric beyond these.
MODEL = Model(PLAIN.metric, PLAIN.encoder, "m", behaviors=BEHAVIORS, target="buy")
MIRROR = some_mirror(MODEL)

names = st.sampled_from([*ITEMS, UNKNOWN])
histories: st.SearchStrategy[History] = st.dictionaries(
    st.sampled_from(BEHAVIORS),
    st.lists(st.tuples(names, st.integers(0, 9)), max_size=5, unique_by=lambda entry: entry[0]).map(
        lambda entries: sorted(entries, key=lambda entry: -entry[1])
    ),
)
carried = st.lists(st.builds(HistoryEntry, names, st.none() | st.sampled_from(BEHAVIORS)), max_size=5).map(tuple)


@given(histories, carried)
def test_the_stored_history_counts_before_the_carried_one(stored: History, carried: tuple[HistoryEntry, ...]) -> None:
    """Of a user all that is stored, newest first; only where that is nothing, what the request carries."""
    found = touched(RecommendRequest(user="u", history=carried), stored, "buy")
    events = [(at, item, behavior) for behavior, entries in stored.items() for item, at in entries]
    if not events:
        assert list(found) == list(dict.fromkeys(entry.item for entry in carried))
        for item, behaviors in found.items():
            assert behaviors == {entry.behavior or "buy" for entry in carried if entry.item == item}
        return
    newest = {item: max(at for at, name, _ in events if name == item) for _, item, _ in events}
    assert found.keys() == newest.keys()
    times = [newest[item] for item in found]
    assert times == sorted(times, reverse=True)
    for item, behaviors in found.items():
        assert behaviors == {behavior for _, name, behavior in events if name == item}


@given(histories, carried, st.none() | st.lists(st.sampled_from(BEHAVIORS), max_size=2).map(tuple))
def test_codes_and_exclusions_follow_the_behaviours(
    stored: History, carried: tuple[HistoryEntry, ...], names: tuple[str, ...] | None
) -> None:
    """A row's code says whether the target is among its behaviours; excluded are the target's, or those asked for."""
    request = RecommendRequest(user="u", history=carried, exclude_behaviors=names)
    query = make_query(request, stored, MIRROR, MODEL, SearchDefaults(), None)
    expected = {MIRROR.row_of[i]: found for i, found in touched(request, stored, "buy").items() if i in MIRROR.row_of}
    assert query.history_rows.tolist() == list(expected)
    for row, code in zip(query.history_rows.tolist(), query.history_codes.tolist(), strict=True):
        found = expected[row]
        assert code == (OTHER_ONLY if "buy" not in found else TARGET_ONLY if len(found) == 1 else BOTH)
    barred = set(("buy",) if names is None else names)
    assert set(query.excluded.tolist()) == {row for row, found in expected.items() if found & barred}


@given(st.sets(names), names, st.integers(1, 1000), st.none() | st.integers(1, 10_000))
def test_one_item_stands_for_itself_and_is_not_returned(exclude: set[str], item: str, k: int, beam: int | None) -> None:
    """Items like one: it is the history, it and the named ones are excluded, and the beam holds k."""
    request = RecommendRequest(item=item, exclude=tuple(exclude), k=k, beam=beam)
    query = make_query(request, {}, MIRROR, MODEL, SearchDefaults(), None)
    assert query.history_rows.tolist() == MIRROR.rows([item])
    assert set(query.history_codes.tolist()) <= {TARGET_ONLY}
    assert set(query.excluded.tolist()) == set(MIRROR.rows({item, *exclude}))
    assert k <= query.params.beam <= SearchDefaults().max_beam


def test_without_behaviours_everything_touched_is_known() -> None:
    """Where the metric has no target, what a request carries is its history and is not recommended again."""
    request = RecommendRequest(history=(HistoryEntry("i1"), HistoryEntry("i4", "view")))
    query = make_query(request, {}, some_mirror(PLAIN), PLAIN, SearchDefaults(), None)
    assert query.history_rows.tolist() == query.excluded.tolist() == [2, 5]


@pytest.mark.parametrize(
    ("fields", "items"),
    [
        ({"tags": ("blue",)}, "i0 i1 i2"),
        ({"tags": ("blue", "round")}, "i2"),
        ({"tags": ("red",)}, ""),
        ({"any_tags": ("round", "red")}, "i2 i3"),
        ({"min_number": 2}, "i1 i2 i4"),
        ({"max_number": 2}, "i0 i1 i5"),
        ({"min_number": 2, "max_number": 3}, "i1 i2"),
        ({"tags": ("blue",), "any_tags": ("red", "round"), "min_number": 3, "max_number": 3}, "i2"),
        ({"any_tags": ("blue",), "max_number": -6.5}, ""),
    ],
)
def test_a_filter_lets_through_what_it_names(fields: dict[str, Any], items: str) -> None:
    """All of the tags, one of the others, a number within the range, its ends included: whatever is asked for."""
    query = make_query(RecommendRequest(item="i0", **fields), {}, MIRROR, MODEL, SearchDefaults(), None)
    assert query.mask is not None
    assert MIRROR.items(np.flatnonzero(query.mask)) == items.split()


def test_a_limit_per_group_is_no_filter() -> None:
    """It goes with the query, which has none unless the request says so."""
    for asked, limit in ((None, 0), (3, 3)):
        request = RecommendRequest(item="i0", max_per_group=asked)
        query = make_query(request, {}, MIRROR, MODEL, SearchDefaults(), None)
        assert (query.per_group, query.mask) == (limit, None)
    groups = MIRROR.index.groups[: len(ITEMS) + 1]
    assert groups.tolist() == [0, attribute_code("Acme"), 0, 0, 0, 0, 0]


def test_a_vector_of_another_length_is_refused() -> None:
    """Before it reaches the batch, where it would take the other queries down with it."""
    request = RecommendRequest(vector=np.ones(3, np.float32))
    with pytest.raises(InvalidQuery, match="vector: has 3 dimensions, the metric 8"):
        make_query(request, {}, MIRROR, MODEL, SearchDefaults(), None)
