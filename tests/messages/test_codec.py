import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from messages import (
    Behavior,
    HistoryEntry,
    Item,
    MalformedMessage,
    Recommendations,
    RecommendRequest,
    ScoredItem,
    Status,
    UnsupportedSchema,
    decode_behavior,
    decode_item,
    decode_recommendations,
    decode_request,
    encode,
)

identifiers = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=64)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
names = st.lists(identifiers, max_size=5).map(tuple)
vectors = hnp.arrays(
    np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)
times = st.integers(0, 4_102_444_800_000)
histories = st.lists(st.builds(HistoryEntry, identifiers, st.none() | identifiers), min_size=1, max_size=5).map(tuple)
askers = st.one_of(
    st.fixed_dictionaries({"user": identifiers}, optional={"history": histories}),
    st.fixed_dictionaries({"history": histories}),
    st.fixed_dictionaries({"item": identifiers}),
    st.fixed_dictionaries({"vector": vectors}),
)
scores = numbers = st.floats(allow_nan=False, allow_infinity=False)
ranges = st.tuples(st.none() | numbers, st.none() | numbers).filter(lambda ends: None in ends or ends[0] <= ends[1])
requests = st.builds(
    lambda asker, ends, **rest: RecommendRequest(**asker, min_number=ends[0], max_number=ends[1], **rest),
    askers,
    ranges,
    k=st.integers(1, 1000),
    exclude=names,
    exclude_behaviors=st.none() | names,
    tags=names,
    any_tags=names,
    max_per_group=st.none() | st.integers(1, 1000),
    beam=st.none() | st.integers(1, 1 << 20),
    width=st.none() | st.integers(1, 4096),
    budget=st.none() | st.integers(1, (1 << 63) - 1),
)
recommendations = st.builds(
    Recommendations,
    st.sampled_from(Status),
    items=st.lists(st.builds(ScoredItem, identifiers, scores), max_size=5).map(tuple),
    reason=st.none() | texts,
    metric_version=identifiers,
    index_version=identifiers,
    evaluations=st.integers(0, (1 << 63) - 1),
    degraded=st.booleans(),
    retry_after_ms=st.none() | st.integers(0, 60_000),
)
items = st.builds(
    Item,
    identifiers,
    text=texts,
    tags=names,
    number=st.none() | numbers,
    group=st.none() | identifiers,
    vector=st.none() | vectors,
    timestamp_ms=times,
)
behaviors = st.builds(Behavior, identifiers, identifiers, identifiers, times)

KINDS = [
    (decode_request, requests),
    (decode_recommendations, recommendations),
    (decode_item, items),
    (decode_behavior, behaviors),
]
DECODERS = [decode for decode, _ in KINDS]
Decode = Callable[[bytes], Any]
ITEM = {"v": [1, 0], "id": "i1", "timestamp_ms": 1}


def outcome(decode: Decode, body: bytes) -> Exception | None:
    """Return what the decoder raises on `body`, if anything."""
    try:
        decode(body)
    except (MalformedMessage, UnsupportedSchema) as fault:
        return fault
    return None


def refusal(decode: Decode, body: bytes) -> str:
    """Return what the decoder says against `body`."""
    with pytest.raises(MalformedMessage) as caught:
        decode(body)
    return str(caught.value)


def refusal_of(decode: Decode, fields: object) -> str:
    """Return what the decoder says against these fields."""
    return refusal(decode, msgpack.packb(fields))


@pytest.mark.parametrize(("decode", "messages"), KINDS)
@given(data=st.data())
def test_a_message_comes_back_as_it_went(decode: Decode, messages: st.SearchStrategy[Any], data: st.DataObject) -> None:
    """Encoding and decoding returns an equal message with an equal hash."""
    message = data.draw(messages)
    again = decode(encode(message))
    assert again == message
    assert hash(again) == hash(message)


@pytest.mark.parametrize("decode", DECODERS)
@given(body=st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_and_nothing_else(decode: Decode, body: bytes) -> None:
    """Whatever the bytes, only this room's two errors come out."""
    with pytest.raises((MalformedMessage, UnsupportedSchema)):
        decode(body)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(max_size=5)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=5) | st.integers(0, 9), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.parametrize(("decode", "messages"), KINDS)
@given(data=st.data())
def test_a_replaced_field_is_accepted_or_named(
    decode: Decode, messages: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    """A field replaced by any value either makes another message or a fault whose path is a field of it."""
    fields = msgpack.unpackb(encode(data.draw(messages)))
    name = data.draw(st.sampled_from(sorted(fields)))
    fields[name] = data.draw(json_like)
    fault = outcome(decode, msgpack.packb(fields))
    if isinstance(fault, UnsupportedSchema):
        assert name == "v"
    elif isinstance(fault, MalformedMessage):
        about_several = {"", "history", "item", "vector", "max_number"}
        assert fault.path.startswith(name) or fault.path in about_several


@pytest.mark.parametrize(("decode", "messages"), KINDS)
@given(data=st.data())
def test_a_cut_body_is_refused(decode: Decode, messages: st.SearchStrategy[Any], data: st.DataObject) -> None:
    """No proper prefix of a body is a body, and neither is a body with bytes after it."""
    body = encode(data.draw(messages))
    assert "cut off" in refusal(decode, body[: data.draw(st.integers(0, len(body) - 1))])
    assert refusal(decode, body + b"\xc0") == "message: more bytes after its end"


@pytest.mark.parametrize(
    ("decode", "fields", "missing"),
    [
        (decode_item, ITEM, ["v", "id", "timestamp_ms"]),
        (decode_behavior, {"v": [1, 0], "user": "u", "item": "i", "behavior": "b", "timestamp_ms": 1},
         ["v", "user", "item", "behavior", "timestamp_ms"]),
        (decode_recommendations, {"v": [1, 0], "status": "ok"}, ["v", "status"]),
    ],
)  # fmt: skip
def test_a_missing_field_is_named(decode: Decode, fields: dict[str, Any], missing: list[str]) -> None:
    """Every field without a default is required, by name."""
    decode(msgpack.packb(fields))
    for name in missing:
        rest = {key: value for key, value in fields.items() if key != name}
        assert refusal_of(decode, rest) == f"{name}: missing"


def test_the_path_leads_inside() -> None:
    """A fault deep inside is named by its whole path."""
    history = [{"item": "a"}] * 3 + [{"item": "x" * 257}]
    assert refusal_of(decode_request, {"v": [1, 0], "history": history}) == "history[3].item: longer than 256 bytes"
    assert refusal_of(decode_request, {"v": [1, 0], "history": [{}]}) == "history[0].item: missing"
    assert refusal_of(decode_item, ITEM | {"tags": ["a", 7]}) == "tags[1]: expected a string, got int"
    answer = {"v": [1, 0], "status": "ok", "items": [{"item": "a", "score": float("nan")}]}
    assert refusal_of(decode_recommendations, answer) == "items[0].score: not finite"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"timestamp_ms": True}, "timestamp_ms: expected an integer, got bool"),
        ({"timestamp_ms": 1.0}, "timestamp_ms: expected an integer, got float"),
        ({"timestamp_ms": -1}, "timestamp_ms: not in 0..253402300799999"),
        ({"id": ""}, "id: empty"),
        ({"id": b"i1"}, "id: expected a string, got bytes"),
        ({"id": "a\nb"}, "id: holds a control character"),
        ({"id": "é" * 129}, "id: longer than 256 bytes"),
        ({"id": None}, "id: expected a string, got NoneType"),
        ({"id": ["i1"]}, "id: expected a single value, got an array"),
        ({"id": msgpack.ExtType(1, b"i1")}, "id: expected a single value, got an extension"),
        ({"text": "x" * 65_537}, "text: longer than 65536 bytes"),
        ({"tags": "a"}, "tags: expected an array, got a string"),
        ({"tags": ["a"] * 257}, "tags: more than 256 entries"),
        ({"number": "7"}, "number: expected a number, got str"),
        ({"number": float("nan")}, "number: not finite"),
        ({"group": ""}, "group: empty"),
        ({"vector": b""}, "vector: not one row of 1..4096 numbers"),
        ({"vector": b"12345"}, "vector: not a whole number of float32 values"),
        ({"vector": bytes(4 * 4097)}, "vector: not one row of 1..4096 numbers"),
        ({"vector": struct.pack("<2f", 1, float("inf"))}, "vector: not finite"),
        ({"vector": [1.0]}, "vector: expected a single value, got an array"),
        ({"v": 1}, "v: expected an array, got an integer"),
        ({"v": [0, 0]}, "v[0]: not in 1..9223372036854775807"),
        ({"v": [1, -1]}, "v[1]: not in 0..9223372036854775807"),
        ({"v": [1]}, "v: not two numbers"),
        ({f"x{n}": n for n in range(64)}, "message: more than 64 entries"),
    ],
)
def test_a_broken_item_says_how(change: dict[str, Any], problem: str) -> None:
    """Each rule has its own words, and the field's path before them."""
    assert refusal_of(decode_item, ITEM | change) == problem


def test_what_msgpack_lets_pass_is_refused() -> None:
    """Duplicate keys, keys that are no strings and invalid UTF-8 are faults."""
    head = b"\x84" + msgpack.packb("v") + msgpack.packb([1, 0]) + msgpack.packb("id") + msgpack.packb("a")
    tail = msgpack.packb("timestamp_ms") + msgpack.packb(1)
    assert (
        refusal(decode_item, head + msgpack.packb("id") + msgpack.packb("b") + tail)
        == "message: field 'id' given twice"
    )
    assert "for a field name, got int" in refusal(decode_item, head + msgpack.packb(5) + msgpack.packb("b") + tail)
    assert refusal(decode_item, head + msgpack.packb("text") + b"\xa1\xff" + tail) == "text: not valid UTF-8"


def test_a_body_is_measured_before_it_is_read() -> None:
    """Bytes beyond the cap of their kind are refused unseen, and cannot be sent either."""
    assert refusal(decode_behavior, bytes(4097)) == "message: longer than 4096 bytes"
    many = tuple(ScoredItem("é" * 128, 1.0) for _ in range(1000))
    assert len(encode(Recommendations(Status.OK, items=many))) < 512 * 1024
    entries = tuple(HistoryEntry("x" * 256, "y" * 256) for _ in range(1000))
    with pytest.raises(MalformedMessage, match="longer than 524288 bytes"):
        encode(RecommendRequest(history=entries))


def field(name: str, value: bytes) -> bytes:
    """Return a request body whose one field beside the version is these bytes."""
    head: bytes = b"\x82" + msgpack.packb("v") + msgpack.packb([1, 0]) + msgpack.packb(name)
    return head + value


SPACE = 512 * 1024 - 40
BOMBS = {
    "empty maps": b"\xdd" + struct.pack(">I", SPACE) + b"\x80" * SPACE,
    "nested arrays": b"\x91" * SPACE,
    "nested maps": b"\x81\xa0" * (SPACE // 2),
    "wide nested arrays": b"\xdc\xff\xff" * (SPACE // 3),
    "claimed array": b"\xdd\xff\xff\xff\xff",
    "claimed map": b"\xdf\xff\xff\xff\xff",
    "claimed string": b"\xdb\xff\xff\xff\xff",
    "tiny strings": b"\xdd" + struct.pack(">I", SPACE // 3) + b"\xa2ab" * (SPACE // 3),
}


@pytest.mark.parametrize("name", ["history", "exclude", "user", "unknown"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_hostile_bytes_cost_no_more_than_their_length(bomb: str, name: str) -> None:
    """Reading bytes made to blow up takes a small multiple of their length, wherever in the message they stand."""
    body = field(name, BOMBS[bomb])
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage):
            decode_request(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(body) + 200_000


def test_vectors_are_equal_by_value_and_cannot_be_changed() -> None:
    """Messages with vectors compare and hash, keep a copy of their own, and are unequal to anything else."""
    numbers = np.array([1.0, 2.0])
    item = Item("i1", vector=numbers, timestamp_ms=1)
    numbers[0] = 9.0
    assert item.vector is not None
    assert item.vector.dtype == np.dtype("<f4")
    assert item == Item("i1", vector=np.array([1, 2], np.float32), timestamp_ms=1)
    assert len({item, Item("i1", vector=np.array([1, 3], np.float32), timestamp_ms=1), item}) == 2
    assert item != Item("i1", timestamp_ms=1)
    assert item != "i1"
    with pytest.raises(ValueError, match="read-only"):
        item.vector[0] = 3.0
