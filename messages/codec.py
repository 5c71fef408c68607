"""Messages to bytes and back: msgpack maps of plain field names, `v: [major, minor]` among them.

Untrusted bytes are read field by field along the schema, never as a whole: nesting deeper than the schema does not
occur, unknown fields are skipped unread (the skip itself stops 1,024 levels down), and every fault has a path. What
the values must be is said once, in `rules`, and checked when the message is built.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from operator import attrgetter
from typing import Any, Generic, TypeVar, cast

import msgpack
import numpy as np

from messages import rules
from messages.cursor import Cursor
from messages.errors import MalformedMessage, UnsupportedSchema
from messages.types import (
    Behavior,
    HistoryEntry,
    Item,
    Message,
    Recommendations,
    RecommendRequest,
    ScoredItem,
)

# 1.1 added numbers, groups and the filters on them, which readers of 1.0 pass over: workers are updated before clients.
MAJOR, MINOR = 1, 1
_VERSION_FIELD = "v"

T = TypeVar("T")
_Read = Callable[[Cursor], Any]


def _vector(cursor: Cursor) -> Any:
    """Read little-endian float32 bytes as f4[D], or nil."""
    value = cursor.scalar()
    if value is None:
        return None
    if not isinstance(value, bytes):
        raise MalformedMessage("", f"expected bytes, got {type(value).__name__}")
    if len(value) % 4:
        raise MalformedMessage("", "not a whole number of float32 values")
    return np.frombuffer(value, dtype="<f4")


def _array(read: _Read, most: int) -> _Read:
    """Return the reader of an array (or nil) of at most `most` entries, each read by `read`."""

    def read_array(cursor: Cursor) -> list[Any] | None:
        if cursor.kind() == "nil":
            cursor.skip()
            return None
        entries: list[Any] = []
        for place in range(cursor.array_length(most)):
            try:
                entries.append(read(cursor))
            except MalformedMessage as fault:
                raise fault.under(f"[{place}]") from None
        return entries

    return read_array


class _Record(Generic[T]):
    """How one dataclass, of two fields or more, is read from a map: by a reader per field, or a single value."""

    def __init__(self, kind: type[T], **readers: _Read) -> None:
        self.kind = kind
        # Every kind is a dataclass; there is no name for that type in typing.
        declared = fields(cast("Any", kind))
        self.names = tuple(field.name for field in declared)
        self._values = attrgetter(*self.names)
        self._readers = {name: readers.get(name, Cursor.scalar) for name in self.names}
        self._required = tuple(field.name for field in declared if field.default is MISSING)

    def __call__(self, cursor: Cursor) -> T:
        seen: set[str] = set()
        values: dict[str, Any] = {}
        for _ in range(cursor.map_length()):
            name = cursor.key(seen)
            read = self._readers.get(name)
            if read is None:
                cursor.skip()
                continue
            try:
                values[name] = read(cursor)
            except MalformedMessage as fault:
                raise fault.under(name) from None
        for name in self._required:
            if name not in values:
                raise MalformedMessage(name, "missing")
        return self.kind(**values)

    def plain(self, message: object) -> dict[str, Any]:
        """Return what `__call__` reads; a field that is None is left out."""
        values = zip(self.names, self._values(message), strict=True)
        return {name: _plain(value) for name, value in values if value is not None}


_HISTORY_ENTRY = _Record(HistoryEntry)
_SCORED_ITEM = _Record(ScoredItem)
_REQUEST = _Record(
    RecommendRequest,
    history=_array(_HISTORY_ENTRY, rules.MAX_HISTORY),
    vector=_vector,
    exclude=_array(Cursor.scalar, rules.MAX_EXCLUDE),
    exclude_behaviors=_array(Cursor.scalar, rules.MAX_BEHAVIORS),
    tags=_array(Cursor.scalar, rules.MAX_TAGS),
    any_tags=_array(Cursor.scalar, rules.MAX_TAGS),
)
_RECOMMENDATIONS = _Record(Recommendations, items=_array(_SCORED_ITEM, rules.MAX_K))
_ITEM = _Record(Item, tags=_array(Cursor.scalar, rules.MAX_TAGS), vector=_vector)
_BEHAVIOR = _Record(Behavior)

_RECORDS: Mapping[type, _Record[Any]] = {
    record.kind: record for record in (_HISTORY_ENTRY, _SCORED_ITEM, _REQUEST, _RECOMMENDATIONS, _ITEM, _BEHAVIOR)
}
_MAX_BYTES: Mapping[type, int] = {
    RecommendRequest: 512 * 1024,
    Recommendations: 512 * 1024,
    Item: 256 * 1024,
    Behavior: 4 * 1024,
}


def _plain(value: Any) -> Any:
    convert = _CONVERSIONS.get(type(value))
    return value if convert is None else convert(value)


_CONVERSIONS: Mapping[type, Callable[[Any], Any]] = {
    np.ndarray: np.ndarray.tobytes,  # canonical little-endian float32 since the message was built
    tuple: lambda entries: [_plain(entry) for entry in entries],
    **{kind: record.plain for kind, record in _RECORDS.items()},
}


def encode(message: Message) -> bytes:
    """Return the body of `message`; raises `MalformedMessage` when it is longer than its decoder accepts."""
    record = _RECORDS[type(message)]
    body: bytes = msgpack.packb({_VERSION_FIELD: (MAJOR, MINOR), **record.plain(message)})
    _check_size(body, _MAX_BYTES[type(message)])
    return body


def decode_request(body: bytes) -> RecommendRequest:
    """Read a request of at most 512 KiB. Raises `MalformedMessage` and `UnsupportedSchema`."""
    return _decode(_REQUEST, body)


def decode_recommendations(body: bytes) -> Recommendations:
    """Read an answer of at most 512 KiB. Raises `MalformedMessage` and `UnsupportedSchema`."""
    return _decode(_RECOMMENDATIONS, body)


def decode_item(body: bytes) -> Item:
    """Read an item of at most 256 KiB. Raises `MalformedMessage` and `UnsupportedSchema`."""
    return _decode(_ITEM, body)


def decode_behavior(body: bytes) -> Behavior:
    """Read a behaviour of at most 4 KiB. Raises `MalformedMessage` and `UnsupportedSchema`."""
    return _decode(_BEHAVIOR, body)


def _decode(record: _Record[T], body: bytes) -> T:
    _check_size(body, _MAX_BYTES[record.kind])
    _check_version(Cursor(body))
    cursor = Cursor(body)
    message = record(cursor)
    cursor.end()
    return message


def _check_size(body: bytes, most: int) -> None:
    if len(body) > most:
        raise MalformedMessage("", f"longer than {most} bytes")


def _check_version(cursor: Cursor) -> None:
    """Find `v`, wherever it stands: a newer schema may have changed what stands before it."""
    seen: set[str] = set()
    for _ in range(cursor.map_length()):
        if cursor.key(seen) == _VERSION_FIELD:
            break
        cursor.skip()
    else:
        raise MalformedMessage(_VERSION_FIELD, "missing")
    try:
        major = _read_version(cursor)
    except MalformedMessage as fault:
        raise fault.under(_VERSION_FIELD) from None
    if major > MAJOR:
        raise UnsupportedSchema(major)


def _read_version(cursor: Cursor) -> int:
    numbers = [cursor.scalar() for _ in range(cursor.array_length(2))]
    if len(numbers) != 2:
        raise MalformedMessage("", "not two numbers")
    rules.integer("[1]", numbers[1], 0, rules.MAX_COUNT)
    return rules.integer("[0]", numbers[0], 1, rules.MAX_COUNT)
