import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.filters import FILTER_COLUMNS, attribute_code, filter_of, filter_values, require_room
from engine.filters import Filter
from messages import Item, MalformedMessage, RecommendRequest

names = st.sampled_from(["blue", "round", "Acme", "ω"])
numbers = st.floats(allow_nan=False, allow_infinity=False)
items = st.builds(
    Item,
    st.just("i"),
    tags=st.lists(names, max_size=32).map(tuple),
    number=st.none() | numbers,
    group=st.none() | names,
    timestamp_ms=st.just(1),
)


@given(st.text())
def test_codes_of_names_fit_the_column(name: str) -> None:
    """64 bits with a sign, the same every time, and never the 0 that stands for none."""
    code = attribute_code(name)
    assert np.int64(code) == code != 0
    assert attribute_code(name) == code


@given(st.lists(items, max_size=5))
def test_values_are_of_the_columns_and_tell_everything(catalogue: list[Item]) -> None:
    """As wide as their columns say; a tag, a number and a group that an item has not are 0, NaN and 0."""
    values = filter_values(catalogue)
    assert list(values) == [column.name for column in FILTER_COLUMNS]
    for column in FILTER_COLUMNS:
        assert values[column.name].dtype == np.dtype(column.dtype)
        assert values[column.name].shape == (len(catalogue), column.width)
    for row, item in enumerate(catalogue):
        tags = [attribute_code(tag) for tag in item.tags]
        assert values["attributes"][row].tolist() == tags + [0] * (32 - len(tags))
        np.testing.assert_equal(values["numbers"][row, 0], math.nan if item.number is None else item.number)
        assert values["groups"][row, 0] == (0 if item.group is None else attribute_code(item.group))


@given(st.lists(names).map(tuple), st.lists(names).map(tuple), st.none() | numbers, st.none() | st.floats(0, 1e300))
def test_a_request_filters_by_what_it_names(
    tags: tuple[str, ...], any_tags: tuple[str, ...], low: float | None, above: float | None
) -> None:
    """An end of the range that is left open is infinite; a request that names nothing has no filter."""
    high = above if low is None or above is None else min(low + above, sys.float_info.max)
    request = RecommendRequest(user="u", tags=tags, any_tags=any_tags, min_number=low, max_number=high, max_per_group=1)
    wanted = filter_of(request)
    if wanted is None:
        assert (tags, any_tags, low, high) == ((), (), None, None)
        return
    ends = -math.inf if low is None else low, math.inf if high is None else high
    assert wanted == Filter(tuple(map(attribute_code, tags)), tuple(map(attribute_code, any_tags)), *ends)
    assert wanted.ranged == (low is not None or high is not None)


def test_more_tags_than_fit_are_refused() -> None:
    """Thirty-two fit, with the field's name where they do not."""
    require_room(Item("a", tags=("t",) * 32, timestamp_ms=1))
    with pytest.raises(MalformedMessage, match="tags: more than the 32 that the index holds"):
        require_room(Item("a", tags=("t",) * 33, timestamp_ms=1))
