import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages import (
    DeadLetter,
    MalformedMessage,
    RequestHeaders,
    format_dead_letter,
    format_request,
    format_response,
    parse_correlation_id,
    parse_dead_letter,
    parse_request,
)

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FULL = RequestHeaders("c1", "shop.replies.web-1", reply_partition=3, timeout_ms=250, traceparent=TRACE)
identifiers = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=64)
topics = st.from_regex(r"[A-Za-z0-9_-]{1,60}", fullmatch=True)
request_headers = st.builds(
    RequestHeaders,
    identifiers,
    topics,
    st.none() | st.integers(0, (1 << 31) - 1),
    st.none() | st.integers(1, 3_600_000),
    st.sampled_from([None, TRACE]),
)
dead_letters = st.builds(
    DeadLetter,
    topics,
    st.integers(0, 100),
    st.integers(0, 1 << 60),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    st.integers(1, 9),
)
names = st.sampled_from(["correlation_id", "reply_to", "reply_partition", "timeout_ms", "content-type", "x"])
pairs = st.lists(st.tuples(names, st.none() | st.binary(max_size=12)), max_size=8)


@given(headers=request_headers, letter=dead_letters, others=pairs)
def test_headers_come_back_as_they_went(headers: RequestHeaders, letter: DeadLetter, others: Any) -> None:
    """Every kind of header is read back from what was written; strangers among them do not matter."""
    assert parse_request([("x", None), *format_request(headers)]) == headers
    assert parse_correlation_id(format_response(headers)) == headers.correlation_id
    assert parse_dead_letter(format_dead_letter(others, letter)) == letter
    assert format_dead_letter(others, letter)[: len(others)] == others


@given(headers=st.none() | pairs)
def test_arbitrary_headers_are_read_or_refused(headers: Any) -> None:
    """Whatever the pairs, only `MalformedMessage` comes out."""
    for parse in (parse_request, parse_correlation_id, parse_dead_letter):
        with contextlib.suppress(MalformedMessage):
            parse(headers)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("correlation_id", None, "correlation_id: has no value"),
        ("correlation_id", b"", "correlation_id: empty"),
        ("correlation_id", b"\xff", "correlation_id: not valid UTF-8"),
        ("reply_to", b"a topic", "reply_to: not a topic's name"),
        ("reply_partition", b"-1", "reply_partition: not a decimal number"),
        ("reply_partition", "٣".encode(), "reply_partition: not a decimal number"),
        ("reply_partition", b"2147483648", "reply_partition: not in 0..2147483647"),
        ("timeout_ms", b"0", "timeout_ms: not in 1..3600000"),
        ("timeout_ms", b"1" * 5000, "timeout_ms: not a decimal number"),
        ("content-type", b"application/json", "content-type: not application/msgpack"),
    ],
)
def test_a_broken_header_is_named(name: str, value: bytes | None, problem: str) -> None:
    """A fault in a header is named by the header."""
    headers: list[tuple[str, bytes | None]] = [(key, old) for key, old in format_request(FULL) if key != name]
    with pytest.raises(MalformedMessage) as caught:
        parse_request([*headers, (name, value)])
    assert str(caught.value) == problem


def test_what_must_be_there_once_is_there_once() -> None:
    """A missing or repeated header is a fault, and so are more headers than anyone needs."""
    with pytest.raises(MalformedMessage, match="reply_to: missing"):
        parse_request([("correlation_id", b"c1")])
    with pytest.raises(MalformedMessage, match="correlation_id: given twice"):
        parse_request([*format_request(FULL), ("correlation_id", b"c2")])
    with pytest.raises(MalformedMessage, match="headers: more than 100"):
        parse_request([*format_request(FULL), *[("x", b"")] * 100])


def test_an_ill_formed_trace_costs_the_trace_only() -> None:
    """A broken trace parent is left out; the request is read."""
    headers = [pair for pair in format_request(FULL) if pair[0] != "traceparent"]
    assert parse_request([*headers, ("traceparent", b"nonsense")]).traceparent is None


def test_a_long_reason_is_cut() -> None:
    """A reason of any length and content makes a dead letter, cut between two characters."""
    assert DeadLetter("a.items", 0, 5, "x" + "é" * 1000).reason == "x" + "é" * 511
    assert DeadLetter("a.items", 0, 5, "\ud800").reason == "?"


def test_a_second_death_replaces_the_first() -> None:
    """A dead letter that was replayed and failed again carries one origin, the newest."""
    first = format_dead_letter([("x", b"1")], DeadLetter("a.items", 0, 5, "empty"))
    second = DeadLetter("a.items", 1, 9, "cut off", attempt=2)
    assert parse_dead_letter(format_dead_letter(first, second)) == second
