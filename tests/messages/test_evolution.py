import msgpack  # type: ignore[import-untyped]
import pytest

from messages import Item, RecommendRequest, UnsupportedSchema, decode_item, decode_request

ITEM = {"v": [1, 0], "id": "i1", "timestamp_ms": 1}


def test_unknown_fields_are_ignored_and_a_newer_major_is_not_guessed() -> None:
    """A newer minor is read; a newer major is unsupported even where its other fields make no sense to us."""
    newer = ITEM | {"v": [1, 7], "colour": {"deep": [1, msgpack.ExtType(9, b"")]}}
    assert decode_item(msgpack.packb(newer)) == Item("i1", timestamp_ms=1)
    with pytest.raises(UnsupportedSchema) as caught:
        decode_item(msgpack.packb({"id": {"now": "a map"}, "v": [2, 0]}))
    assert caught.value.major == 2


def test_a_minor_version_adds_what_an_older_one_leaves_out() -> None:
    """A body of version 1.0, without numbers and groups, is read as one that has none of them."""
    old = {"v": [1, 0], "item": "i1", "tags": ["a"]}
    assert decode_request(msgpack.packb(old)) == RecommendRequest(item="i1", tags=("a",))
    assert (decode_item(msgpack.packb(ITEM)).number, decode_item(msgpack.packb(ITEM)).group) == (None, None)
