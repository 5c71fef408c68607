"""Reading untrusted msgpack one value at a time.

The kind of a value is known from its first byte before anything is built of it, and a length is compared with its
cap before the first entry is read, so that hostile bytes cost no more memory than their own length.
"""

from collections.abc import Callable
from typing import Any

import msgpack

from messages.errors import MalformedMessage

_MAX_FIELDS = 64  # of one map, unknown ones included


def _kind(first: int) -> str:
    """Say what kind of value begins with the byte `first` (the msgpack specification's table of formats)."""
    ranges = (
        (0x7F, "an integer"), (0x8F, "a map"), (0x9F, "an array"), (0xBF, "a string"), (0xC0, "nil"),
        (0xC1, "an unused code"), (0xC3, "a boolean"), (0xC6, "bytes"), (0xC9, "an extension"),
        (0xCB, "a float"), (0xD3, "an integer"), (0xD8, "an extension"), (0xDB, "a string"),
        (0xDD, "an array"), (0xDF, "a map"), (0xFF, "an integer"),
    )  # fmt: skip
    return next(kind for last, kind in ranges if first <= last)


_KINDS = tuple(_kind(first) for first in range(256))
_SCALARS = frozenset({"an integer", "a string", "nil", "a boolean", "bytes", "a float"})


class Cursor:
    """A place in untrusted bytes.

    Every method raises `MalformedMessage` without a path: whoever knows which field is being read adds it.
    """

    def __init__(self, body: bytes) -> None:
        self._bytes = body
        self._unpacker = msgpack.Unpacker(max_buffer_size=max(len(body), 1))
        self._unpacker.feed(body)

    def kind(self) -> str:
        """Say what comes next."""
        place: int = self._unpacker.tell()
        if place >= len(self._bytes):
            raise MalformedMessage("", "cut off")
        return _KINDS[self._bytes[place]]

    def scalar(self) -> Any:
        """Read one value that is neither array nor map nor extension."""
        if (kind := self.kind()) not in _SCALARS:
            raise MalformedMessage("", f"expected a single value, got {kind}")
        try:
            return self._unpacker.unpack()
        except _FAULTS as fault:
            raise _explained(fault) from None

    def array_length(self, most: int) -> int:
        """Read the head of an array of at most `most` entries."""
        return self._length("an array", self._unpacker.read_array_header, most)

    def map_length(self) -> int:
        """Read the head of a map."""
        return self._length("a map", self._unpacker.read_map_header, _MAX_FIELDS)

    def key(self, seen: set[str]) -> str:
        """Read a map's next key, a string that is not yet in `seen`, and add it there."""
        key = self.scalar()
        if not isinstance(key, str):
            raise MalformedMessage("", f"expected a string for a field name, got {type(key).__name__}")
        if key in seen:
            raise MalformedMessage("", f"field {key[:32]!r} given twice")
        seen.add(key)
        return key

    def skip(self) -> None:
        """Pass over one value of any kind."""
        try:
            self._unpacker.skip()
        except _FAULTS as fault:
            raise _explained(fault) from None

    def end(self) -> None:
        """Require that nothing is left."""
        if self._unpacker.tell() != len(self._bytes):
            raise MalformedMessage("", "more bytes after its end")

    def _length(self, expected: str, read: Callable[[], int], most: int) -> int:
        if (kind := self.kind()) != expected:
            raise MalformedMessage("", f"expected {expected}, got {kind}")
        try:
            length = read()
        except _FAULTS as fault:
            raise _explained(fault) from None
        if length > most:
            raise MalformedMessage("", f"more than {most} entries")
        return length


_FAULTS = (ValueError, msgpack.UnpackException)


def _explained(fault: Exception) -> MalformedMessage:
    if isinstance(fault, msgpack.OutOfData):
        return MalformedMessage("", "cut off")
    if isinstance(fault, msgpack.StackError):
        return MalformedMessage("", "nested too deep")
    if isinstance(fault, UnicodeDecodeError):
        return MalformedMessage("", "not valid UTF-8")
    return MalformedMessage("", "not msgpack")
