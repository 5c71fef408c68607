"""What the engine is asked, and what it answers."""

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from engine.errors import InvalidQuery

UNLIMITED = 2**62
"""A budget that no query can spend."""


@dataclass(frozen=True, slots=True)
class SearchParams:
    """How widely and how long one query searches. Every query has its own, in the same step.

    k: results wanted. beam: candidates kept (at least k). width: candidates expanded in one step. pairs: rows scored in
    one round, k if that is more. clusters: directions that a round looks into the whole catalogue for. rounds: of near
    and far by turns, one more with a filter, after which the search only goes on until the beam and the results are
    full; None for as many as it takes by `engine.depth`. budget: metric evaluations that may be spent.
    """

    k: int = 10
    beam: int = 64
    width: int = 64
    pairs: int = 64
    clusters: int = 2
    rounds: int | None = None
    budget: int = UNLIMITED

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        for name in ("k", "beam", "width", "pairs", "clusters", "rounds", "budget"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InvalidQuery(name, f"must be at least 1, is {value}")
        if self.budget > UNLIMITED:
            raise InvalidQuery("budget", f"must be at most {UNLIMITED}, is {self.budget}")
        if self.beam < self.k:
            raise InvalidQuery("beam", f"must be at least k = {self.k}, is {self.beam}")


def _no_rows() -> np.ndarray:
    return np.empty(0, dtype=np.int64)


def _no_codes() -> np.ndarray:
    return np.empty(0, dtype=np.int8)


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One user's question.

    history_rows: int64[H], the rows of distinct items that the user touched, newest first.
    history_codes: int8[H], by which behaviours: 0 = others only, 1 = the target only, 2 = both.
    vector: float32[D] or None, a point in the space of the item vectors that stands for one more touched item.
    excluded: int64[E], rows that must not be returned (they may be walked over).
    mask: bool[rows] or None, the rows that may be returned.
    per_group: at most so many results of one group, 0 for no limit.
    deadline: seconds on the monotonic clock after which the best so far is the answer, or None.
    """

    params: SearchParams = field(default_factory=SearchParams)
    history_rows: np.ndarray = field(default_factory=_no_rows)
    history_codes: np.ndarray = field(default_factory=_no_codes)
    vector: np.ndarray | None = None
    excluded: np.ndarray = field(default_factory=_no_rows)
    mask: np.ndarray | None = None
    per_group: int = 0
    deadline: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if len(self.history_rows) != len(self.history_codes):
            raise InvalidQuery("history_codes", f"{len(self.history_codes)} codes for {len(self.history_rows)} rows")
        if self.per_group < 0:
            raise InvalidQuery("per_group", f"must be 0 or more, is {self.per_group}")


class Stop(StrEnum):
    """Why a query left its lane."""

    CONVERGED = "converged"
    BUDGET = "budget"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The best rows found, best first; ties go to the lowest row.

    rows: int64[n], scores: float32[n], n ≤ k. evaluations: pairs scored for this query. steps: hops taken.
    """

    rows: np.ndarray
    scores: np.ndarray
    evaluations: int
    steps: int
    stop: Stop
