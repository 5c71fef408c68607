"""The rules that every value of a message obeys, whether it was decoded or built in Python.

Each function takes the field's path and the value, returns the value in its one canonical form and raises
`MalformedMessage` with that path. Types are exact: a bool is not an int, an int is not a str.
"""

import math
import re
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from messages.errors import MalformedMessage

Vector = npt.NDArray[np.float32]
Value = TypeVar("Value")

MAX_ID_BYTES = 256
MAX_TEXT_BYTES = 64 * 1024
MAX_DIMENSIONS = 4096
MAX_K = 1000
MAX_HISTORY = 1000
MAX_EXCLUDE = 10_000  # so many fit into a body where ids take up to 50 bytes, as UUIDs do
MAX_TAGS = 256
MAX_BEHAVIORS = 64  # kinds of behaviour one request can name
MAX_BEAM = 1 << 20
MAX_WIDTH = 4096
MAX_COUNT = (1 << 63) - 1
MAX_TIMESTAMP_MS = 253_402_300_799_999  # the last millisecond of the year 9999

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def identifier(path: str, value: object) -> str:
    """Return `value` if it is a name of 1 to 256 bytes of UTF-8 without control characters."""
    if isinstance(value, str) and 0 < len(value) <= MAX_ID_BYTES and value.isascii() and value.isprintable():
        return value  # nearly every one, and requests carry hundreds
    name = text(path, value, MAX_ID_BYTES)
    if not name:
        raise MalformedMessage(path, "empty")
    if _CONTROL.search(name):
        raise MalformedMessage(path, "holds a control character")
    return name


def text(path: str, value: object, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return `value` if it is a str, possibly empty, of at most `max_bytes` bytes of UTF-8."""
    if not isinstance(value, str):
        raise _unexpected(path, "a string", value)
    if value.isascii():
        size = len(value)
    elif _SURROGATE.search(value):
        raise MalformedMessage(path, "not valid unicode")
    else:
        size = len(value.encode())
    if size > max_bytes:
        raise MalformedMessage(path, f"longer than {max_bytes} bytes")
    return value


def integer(path: str, value: object, low: int, high: int) -> int:
    """Return `value` if it is an int (no bool) in `low..high`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise _unexpected(path, "an integer", value)
    if not low <= value <= high:
        raise MalformedMessage(path, f"not in {low}..{high}")
    return value


def boolean(path: str, value: object) -> bool:
    """Return `value` if it is a bool."""
    if not isinstance(value, bool):
        raise _unexpected(path, "a boolean", value)
    return value


def number(path: str, value: object) -> float:
    """Return `value` as a finite float if it is a float or an int (no bool)."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _unexpected(path, "a number", value)
    try:
        converted = float(value)
    except OverflowError:
        converted = math.inf
    if not math.isfinite(converted):
        raise MalformedMessage(path, "not finite")
    return converted


def vector(path: str, value: object) -> Vector:
    """Return a read-only copy f4[D] (little-endian) of a floating-point `value`: 1..4096 finite entries."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise _unexpected(path, "a floating-point array", value)
    if value.ndim != 1 or not 1 <= value.size <= MAX_DIMENSIONS:
        raise MalformedMessage(path, f"not one row of 1..{MAX_DIMENSIONS} numbers")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused as such
        copy = np.array(value, "<f4")
    if not np.isfinite(copy).all():
        raise MalformedMessage(path, "not finite")
    copy.setflags(write=False)
    return copy


def optional(rule: Callable[[str, object], Value], path: str, value: object) -> Value | None:
    """Return None for None, and what `rule` returns otherwise."""
    return None if value is None else rule(path, value)


def sequence(rule: Callable[[str, object], Value], path: str, values: object, max_length: int) -> tuple[Value, ...]:
    """Return a tuple of at most `max_length` values, each as `rule` returns it."""
    if not isinstance(values, (tuple, list)):
        raise _unexpected(path, "a sequence", values)
    if len(values) > max_length:
        raise MalformedMessage(path, f"more than {max_length} entries")
    checked: list[Value] = []
    for value in values:
        try:
            checked.append(rule("", value))
        except MalformedMessage as fault:
            raise fault.under(f"{path}[{len(checked)}]") from None
    return tuple(checked)


def instance(kind: type[Value]) -> Callable[[str, object], Value]:
    """Return the rule that a value is a `kind`, which has checked itself when it was built."""

    def rule(path: str, value: object) -> Value:
        if not isinstance(value, kind):
            raise _unexpected(path, kind.__name__, value)
        return value

    return rule


def _unexpected(path: str, expected: str, value: object) -> MalformedMessage:
    return MalformedMessage(path, f"expected {expected}, got {type(value).__name__}")
