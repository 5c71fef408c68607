"""Kafka headers: their names, and what they say, read from untrusted pairs and written back."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from messages import rules
from messages.errors import MalformedMessage

Headers = Sequence[tuple[str, bytes | None]]

CORRELATION_ID = "correlation_id"
REPLY_TO = "reply_to"
REPLY_PARTITION = "reply_partition"
TIMEOUT_MS = "timeout_ms"
TRACEPARENT = "traceparent"
CONTENT_TYPE = "content-type"

ORIGIN_TOPIC = "dlt-origin-topic"
ORIGIN_PARTITION = "dlt-origin-partition"
ORIGIN_OFFSET = "dlt-origin-offset"
REASON = "dlt-reason"
ATTEMPT = "dlt-attempt"

MSGPACK = "application/msgpack"

_MAX_HEADERS = 100
_MAX_TIMEOUT_MS = 3_600_000
_MAX_REASON_BYTES = 1024
_MAX_PARTITION = (1 << 31) - 1
_DIGITS = re.compile(r"[0-9]{1,19}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """How to answer a request: where to, under which id, and by when.

    `timeout_ms` counts from the record's broker timestamp; None leaves it to the worker.
    Raises `MalformedMessage`.
    """

    correlation_id: str
    reply_to: str
    reply_partition: int | None = None
    timeout_ms: int | None = None
    traceparent: str | None = None
    content_type: str = MSGPACK

    def __post_init__(self) -> None:
        rules.identifier(CORRELATION_ID, self.correlation_id)
        _topic(REPLY_TO, self.reply_to)
        if self.reply_partition is not None:
            rules.integer(REPLY_PARTITION, self.reply_partition, 0, _MAX_PARTITION)
        if self.timeout_ms is not None:
            rules.integer(TIMEOUT_MS, self.timeout_ms, 1, _MAX_TIMEOUT_MS)
        if self.traceparent is not None and not _is_traceparent(self.traceparent):
            raise MalformedMessage(TRACEPARENT, "not a W3C trace parent")
        if self.content_type != MSGPACK:
            raise MalformedMessage(CONTENT_TYPE, f"not {MSGPACK}")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Where a record came from and why it could not be read; `attempt` counts from 1.

    A reason longer than 1,024 bytes is cut: better half a reason than a record lost for want of a short one.
    """

    topic: str
    partition: int
    offset: int
    reason: str
    attempt: int = 1

    def __post_init__(self) -> None:
        _topic(ORIGIN_TOPIC, self.topic)
        rules.integer(ORIGIN_PARTITION, self.partition, 0, _MAX_PARTITION)
        rules.integer(ORIGIN_OFFSET, self.offset, 0, rules.MAX_COUNT)
        if not isinstance(self.reason, str):
            raise MalformedMessage(REASON, f"expected a string, got {type(self.reason).__name__}")
        reason = self.reason.encode(errors="replace")[:_MAX_REASON_BYTES].decode(errors="ignore")
        object.__setattr__(self, "reason", reason)
        rules.integer(ATTEMPT, self.attempt, 1, rules.MAX_COUNT)


def parse_request(headers: Headers | None) -> RequestHeaders:
    """Read a request's headers; unknown ones are ignored. Raises `MalformedMessage`."""
    values = _values(headers)
    traceparent = values.get(TRACEPARENT)
    return RequestHeaders(
        correlation_id=_required(values, CORRELATION_ID),
        reply_to=_required(values, REPLY_TO),
        reply_partition=_number(values, REPLY_PARTITION),
        timeout_ms=_number(values, TIMEOUT_MS),
        # An ill-formed trace is the tracer's fault, not the request's: W3C has the receiver start a new one.
        traceparent=traceparent if traceparent and _is_traceparent(traceparent) else None,
        content_type=values.get(CONTENT_TYPE, MSGPACK),
    )


def format_request(headers: RequestHeaders) -> list[tuple[str, bytes]]:
    """Write what `parse_request` reads."""
    return _pairs(
        (CORRELATION_ID, headers.correlation_id),
        (REPLY_TO, headers.reply_to),
        (REPLY_PARTITION, headers.reply_partition),
        (TIMEOUT_MS, headers.timeout_ms),
        (TRACEPARENT, headers.traceparent),
        (CONTENT_TYPE, headers.content_type),
    )


def format_response(request: RequestHeaders) -> list[tuple[str, bytes]]:
    """Write the headers of the answer to a request with these headers."""
    return _pairs(
        (CORRELATION_ID, request.correlation_id),
        (TRACEPARENT, request.traceparent),
        (CONTENT_TYPE, MSGPACK),
    )


def parse_correlation_id(headers: Headers | None) -> str:
    """Read which request an answer belongs to. Raises `MalformedMessage`."""
    return rules.identifier(CORRELATION_ID, _required(_values(headers), CORRELATION_ID))


def format_dead_letter(original: Headers | None, letter: DeadLetter) -> list[tuple[str, bytes | None]]:
    """Write a dead letter's headers: the original ones, less those of an earlier death, and its own."""
    kept = [(name, value) for name, value in original or () if name not in _DEAD_LETTER]
    return kept + _pairs(
        (ORIGIN_TOPIC, letter.topic),
        (ORIGIN_PARTITION, letter.partition),
        (ORIGIN_OFFSET, letter.offset),
        (REASON, letter.reason),
        (ATTEMPT, letter.attempt),
    )


def parse_dead_letter(headers: Headers | None) -> DeadLetter:
    """Read where a dead letter came from. Raises `MalformedMessage`."""
    values = _values([(name, value) for name, value in headers or () if name in _DEAD_LETTER])
    return DeadLetter(
        topic=_required(values, ORIGIN_TOPIC),
        partition=int(_digits(ORIGIN_PARTITION, _required(values, ORIGIN_PARTITION))),
        offset=int(_digits(ORIGIN_OFFSET, _required(values, ORIGIN_OFFSET))),
        reason=_required(values, REASON),
        attempt=int(_digits(ATTEMPT, _required(values, ATTEMPT))),
    )


_DEAD_LETTER = frozenset({ORIGIN_TOPIC, ORIGIN_PARTITION, ORIGIN_OFFSET, REASON, ATTEMPT})
_REQUEST = frozenset({CORRELATION_ID, REPLY_TO, REPLY_PARTITION, TIMEOUT_MS, TRACEPARENT, CONTENT_TYPE})


def _values(headers: Headers | None) -> dict[str, str]:
    """Return the headers of ours as text; raises for one that comes twice, has no value or is not UTF-8."""
    pairs = headers or ()
    if len(pairs) > _MAX_HEADERS:
        raise MalformedMessage("headers", f"more than {_MAX_HEADERS}")
    values: dict[str, str] = {}
    for name, value in pairs:
        if name not in _REQUEST and name not in _DEAD_LETTER:
            continue
        if name in values:
            raise MalformedMessage(name, "given twice")
        if value is None:
            raise MalformedMessage(name, "has no value")
        try:
            values[name] = value.decode()
        except UnicodeDecodeError:
            raise MalformedMessage(name, "not valid UTF-8") from None
    return values


def _required(values: dict[str, str], name: str) -> str:
    if name not in values:
        raise MalformedMessage(name, "missing")
    return values[name]


def _number(values: dict[str, str], name: str) -> int | None:
    return int(_digits(name, values[name])) if name in values else None


def _digits(name: str, value: str) -> str:
    if not _DIGITS.fullmatch(value):
        raise MalformedMessage(name, "not a decimal number")
    return value


def _topic(path: str, value: object) -> str:
    name = rules.text(path, value)
    if not _TOPIC.fullmatch(name) or name in {".", ".."}:
        raise MalformedMessage(path, "not a topic's name")
    return name


def _is_traceparent(value: object) -> bool:
    return isinstance(value, str) and _TRACEPARENT.fullmatch(value) is not None


def _pairs(*pairs: tuple[str, str | int | None]) -> list[tuple[str, bytes]]:
    return [(name, str(value).encode()) for name, value in pairs if value is not None]
