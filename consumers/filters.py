"""What requests filter by: the columns that an item gets for it, and the filter that a request asks for."""

import math
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from engine.filters import Filter
from index_store import Column
from messages import Item, MalformedMessage, RecommendRequest

ATTRIBUTE_WIDTH = 32
"""Tags that an item can have; one with more is refused."""

FILTER_COLUMNS = (
    Column("attributes", "<i8", ATTRIBUTE_WIDTH),
    Column("numbers", "<f8", 1),
    Column("groups", "<i8", 1),
)

_ANYTHING = Filter()


def attribute_code(name: str) -> int:
    """A tag or a group as 64 bits, the same in every process; never 0."""
    code = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)
    return code or 1


def require_room(item: Item) -> None:
    """Raise `MalformedMessage` for an item that has more tags than fit."""
    if len(item.tags) > ATTRIBUTE_WIDTH:
        raise MalformedMessage("tags", f"more than the {ATTRIBUTE_WIDTH} that the index holds")


def filter_values(items: Sequence[Item]) -> dict[str, np.ndarray]:
    """The values of `FILTER_COLUMNS` for these items, [n, width] each: 0 for no tag and no group, NaN for no number."""
    attributes = np.zeros((len(items), ATTRIBUTE_WIDTH), dtype=np.int64)
    for row, item in zip(attributes, items, strict=True):
        row[: len(item.tags)] = [attribute_code(tag) for tag in item.tags]
    numbers = [math.nan if item.number is None else item.number for item in items]
    groups = [0 if item.group is None else attribute_code(item.group) for item in items]
    return {
        "attributes": attributes,
        "numbers": np.array(numbers, dtype=np.float64).reshape(-1, 1),
        "groups": np.array(groups, dtype=np.int64).reshape(-1, 1),
    }


def filter_of(request: RecommendRequest) -> Filter | None:
    """What an item must be like for this request; None where anything will do."""
    low, high = request.min_number, request.max_number
    wanted = Filter(
        all_of=tuple(map(attribute_code, request.tags)),
        any_of=tuple(map(attribute_code, request.any_tags)),
        low=-math.inf if low is None else low,
        high=math.inf if high is None else high,
    )
    return None if wanted == _ANYTHING else wanted
