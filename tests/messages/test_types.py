import pickle
from typing import Any

import numpy as np
import pytest

from messages import (
    Behavior,
    HistoryEntry,
    Item,
    MalformedMessage,
    Recommendations,
    RecommendRequest,
    ScoredItem,
    Status,
    decode_request,
    encode,
)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "message: names none of user, history, item and vector"),
        ({"user": "u", "item": "i"}, "item: given beside user"),
        ({"history": (HistoryEntry("a"),), "item": "i"}, "item: given beside history"),
        ({"item": "i", "vector": np.ones(2)}, "vector: given beside item"),
        ({"user": "u", "k": 0}, "k: not in 1..1000"),
        ({"user": "u", "k": True}, "k: expected an integer, got bool"),
        ({"user": "u", "beam": 0}, "beam: not in 1..1048576"),
        ({"user": "u", "budget": 1.5}, "budget: expected an integer, got float"),
        ({"user": "\ud800"}, "user: not valid unicode"),
        ({"user": "u", "history": ["a"]}, "history[0]: expected HistoryEntry, got str"),
        ({"user": "u", "exclude": "abc"}, "exclude: expected a sequence, got str"),
        ({"user": "u", "exclude": ["a"] * 10_001}, "exclude: more than 10000 entries"),
        ({"user": "u", "any_tags": "abc"}, "any_tags: expected a sequence, got str"),
        ({"user": "u", "min_number": float("nan")}, "min_number: not finite"),
        ({"user": "u", "max_number": "9"}, "max_number: expected a number, got str"),
        ({"user": "u", "min_number": 2, "max_number": 1}, "max_number: less than min_number"),
        ({"user": "u", "max_per_group": 0}, "max_per_group: not in 1..1000"),
        ({"user": "u", "exclude_behaviors": ["a", ""]}, "exclude_behaviors[1]: empty"),
        ({"vector": [1.0, 2.0]}, "vector: expected a floating-point array, got list"),
        ({"vector": np.ones(2, np.int32)}, "vector: expected a floating-point array, got ndarray"),
        ({"vector": np.ones((2, 2))}, "vector: not one row of 1..4096 numbers"),
        ({"vector": np.array([1e300])}, "vector: not finite"),
    ],
)
def test_a_request_that_breaks_a_rule_cannot_be_built(fields: dict[str, Any], problem: str) -> None:
    """What a consumer would refuse, a producer cannot make."""
    with pytest.raises(MalformedMessage) as caught:
        RecommendRequest(**fields)
    assert str(caught.value) == problem


def test_a_user_may_bring_a_history() -> None:
    """User and history together are one asker, and lists become tuples."""
    request = RecommendRequest(user="u", history=[HistoryEntry("a", "buy")], exclude=["b"])  # type: ignore[arg-type]
    assert request.history == (HistoryEntry("a", "buy"),)
    assert request.exclude == ("b",)


def test_thousands_of_exclusions_fit() -> None:
    """Ten thousand ids as long as a UUID come back as they went."""
    request = RecommendRequest(user="u", exclude=tuple(f"{n:036}" for n in range(10_000)))
    assert decode_request(encode(request)) == request


def test_the_other_messages_check_themselves_too() -> None:
    """Scores are finite, statuses known, times are times, ids are ids."""
    with pytest.raises(MalformedMessage, match="score: not finite"):
        ScoredItem("a", float("inf"))
    with pytest.raises(MalformedMessage, match="score: not finite"):
        ScoredItem("a", 10**400)
    with pytest.raises(MalformedMessage, match="status: not one of ok, rejected"):
        Recommendations("fine")  # type: ignore[arg-type]
    with pytest.raises(MalformedMessage, match="degraded: expected a boolean, got int"):
        Recommendations(Status.OK, degraded=1)  # type: ignore[arg-type]
    with pytest.raises(MalformedMessage, match="user: empty"):
        Behavior("", "i", "buy", 1)
    with pytest.raises(MalformedMessage, match="tags: more than 256 entries"):
        Item("i", tags=("t",) * 257, timestamp_ms=1)


def test_an_error_survives_a_process_boundary() -> None:
    """A fault keeps its path and words when pickled."""
    again = pickle.loads(pickle.dumps(MalformedMessage("a[1].b", "empty")))  # noqa: S301 (our own bytes)
    assert (again.path, again.problem, str(again)) == ("a[1].b", "empty", "a[1].b: empty")
