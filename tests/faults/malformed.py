"""Bodies that are no message: everything a broken or hostile producer was seen to send, drawn from a seed."""

from collections.abc import Callable, Mapping
from typing import Any

import msgpack
import numpy as np

Fields = dict[str, bytes]
"""The fields of a message in their order, each value packed already: what msgpack would not pack can stand there."""

_WRONG_TYPES = (True, 3.5, float("nan"), b"\xff", {"a": 1}, msgpack.ExtType(5, b"extension"))
_NOT_UTF8 = b"\xa3\xff\xfe\xfd"
_TOO_DEEP = b"\x91" * 2000 + b"\xc0"


class MalformedBodies:
    """Makes bodies out of good ones, no two alike in what is wrong with them for long."""

    def __init__(self, rng: np.random.Generator, *, required: tuple[str, ...], too_long: int) -> None:
        """``required`` fields must be there, and bodies of ``too_long`` bytes are longer than the codec reads."""
        self._rng, self._required, self._too_long = rng, required, too_long
        self._makers: tuple[Callable[[Fields], bytes], ...] = (
            self._noise, self._truncated, self._continued, self._of_a_wrong_type, self._incomplete, self._doubled,
            self._not_utf8, self._nested,
        )  # fmt: skip

    def make(self, good: Mapping[str, Any]) -> bytes:
        """A body that resembles this message, and is none."""
        fields = {name: bytes(msgpack.packb(value)) for name, value in good.items()}
        return self._makers[int(self._rng.integers(len(self._makers)))](fields)

    def oversize(self, good: Mapping[str, Any]) -> bytes:
        """A body that is right but for its length."""
        return bytes(msgpack.packb({**good, "padding": b"\0" * self._too_long}))

    def _noise(self, _: Fields) -> bytes:
        return self._rng.bytes(int(self._rng.integers(1, 200)))

    def _truncated(self, fields: Fields) -> bytes:
        body = _pack(fields)
        return body[: int(self._rng.integers(len(body)))]

    def _continued(self, fields: Fields) -> bytes:
        return _pack(fields) + self._rng.bytes(3)

    def _of_a_wrong_type(self, fields: Fields) -> bytes:
        wrong = _WRONG_TYPES[int(self._rng.integers(len(_WRONG_TYPES)))]
        return _pack({**fields, self._one_of(tuple(fields)): bytes(msgpack.packb(wrong))})

    def _incomplete(self, fields: Fields) -> bytes:
        missing = self._one_of(self._required)
        return _pack({name: value for name, value in fields.items() if name != missing})

    def _doubled(self, fields: Fields) -> bytes:
        name = self._one_of(tuple(fields))
        return _pack(fields, extra=bytes(msgpack.packb(name)) + fields[name])

    def _not_utf8(self, fields: Fields) -> bytes:
        return _pack({**fields, self._one_of(tuple(fields)): _NOT_UTF8})

    def _nested(self, fields: Fields) -> bytes:
        return _pack({**fields, "unknown": _TOO_DEEP})

    def _one_of(self, names: tuple[str, ...]) -> str:
        return names[int(self._rng.integers(len(names)))]


def _pack(fields: Fields, extra: bytes = b"") -> bytes:
    """A map of these fields, and of one more pair where there is one."""
    header = msgpack.Packer().pack_map_header(len(fields) + bool(extra))
    return bytes(header) + b"".join(bytes(msgpack.packb(name)) + value for name, value in fields.items()) + extra
