import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidQuery
from engine.filters import Filter, compiled_mask
from engine.index import ItemIndex
from engine.metric import InnerProduct

TAGS = 6
some_tags = st.integers(-3, 9).filter(bool)
some_numbers = st.sampled_from([-math.inf, -2.0, 0.0, 0.5, 7.0, math.inf])
filters = st.builds(
    Filter,
    st.lists(some_tags, max_size=3).map(tuple),
    st.lists(some_tags, max_size=9).map(tuple),
    some_numbers,
    some_numbers,
)
items = st.tuples(
    st.sampled_from([3, 3, 3, -3, 0]),
    st.none() | some_numbers.filter(math.isfinite),
    st.lists(some_tags, max_size=TAGS),
)
Items = list[tuple[int, float | None, list[int]]]


def index_of(rows: Items, *, compiled: bool) -> ItemIndex:
    """An index of items with a version, a number and tags each."""
    index = ItemIndex(InnerProduct(4, compiled=compiled), degree=2, attribute_width=TAGS)
    columns = {
        "versions": np.array([version for version, _, _ in rows], np.int64).reshape(-1, 1),
        "numbers": np.array([math.nan if number is None else number for _, number, _ in rows]).reshape(-1, 1),
        "attributes": np.array([tags + [0] * (TAGS - len(tags)) for *_, tags in rows], np.int64).reshape(-1, TAGS),
    }
    index.load(columns)
    return index


def passes(wanted: Filter, version: int, number: float | None, tags: list[int]) -> bool:
    """What a filter says of one item, as its words have it."""
    in_range = number is not None and wanted.low <= number <= wanted.high
    everything = (wanted.low, wanted.high) == (-math.inf, math.inf)
    return (
        version > 0
        and (everything or in_range)
        and set(wanted.all_of) <= set(tags)
        and (not wanted.any_of or bool(set(wanted.any_of) & set(tags)))
    )


@settings(deadline=None)  # the first call compiles
@given(filters, st.lists(items, max_size=40))
def test_compiled_and_plain_filters_let_the_same_through(wanted: Filter, rows: Items) -> None:
    """Both what the filter says of every item by itself; rows that were freed or never used do not pass."""
    expected = [passes(wanted, *row) for row in rows]
    for compiled in (True, False):
        mask = index_of(rows, compiled=compiled).matching(wanted)
        assert mask.dtype == np.bool_
        assert mask.tolist() == expected


@pytest.mark.parametrize("threads", [1, 3])
def test_many_rows_are_the_same_as_few(threads: int) -> None:
    """Blocks and threads do not show."""
    rng = np.random.default_rng(0)
    versions, numbers = rng.integers(-1, 5, 5_000), rng.normal(size=5_000)
    tags = rng.integers(1, 9, (5_000, TAGS))
    wanted = Filter(all_of=(3,), any_of=(5, 7), low=-0.5)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        mask = compiled_mask(wanted, *map(torch.from_numpy, (versions, numbers, tags)))
    finally:
        torch.set_num_threads(before)
    assert mask.any()
    np.testing.assert_array_equal(
        mask, (versions > 0) & (numbers >= -0.5) & (tags == 3).any(axis=1) & np.isin(tags, (5, 7)).any(axis=1)
    )


def test_a_row_that_is_written_again_has_the_new_number_and_group() -> None:
    """Rows start without either; what an item had before does not stay."""
    index = ItemIndex(InnerProduct(4), degree=2)
    row = [np.array([1])]
    index.apply({"versions": [(*row, np.ones((1, 1), np.int64))]}, rows=2)
    assert index.numbers.isnan().all()
    assert not index.groups.any()
    for number, group in ((2.5, 77), (math.nan, 0)):
        index.apply({"numbers": [(*row, np.array([[number]]))], "groups": [(*row, np.array([[group]]))]}, rows=2)
        np.testing.assert_array_equal(index.numbers[:2].numpy(), [math.nan, number])
        assert index.groups[:2].tolist() == [0, group]
        assert index.matching(Filter(low=0)).tolist() == [False, number > 0]


@pytest.mark.parametrize(
    ("field", "value"), [("all_of", (1, 0)), ("any_of", (0,)), ("low", math.nan), ("high", math.nan)]
)
def test_what_cannot_be_looked_for_is_refused(field: str, value: object) -> None:
    """The hash that stands for no tag, and an end that is not a number."""
    with pytest.raises(InvalidQuery, match=field):
        Filter(**{field: value})
