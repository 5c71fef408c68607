"""What queries and steps cost: learned from those that are over, so that the next ones can be planned."""

from dataclasses import dataclass, fields
from functools import lru_cache
from operator import attrgetter

from engine.query import Answer, Query, SearchParams, Stop

_FIRST_EVALUATIONS = 1_000
_FIRST_PAIRS = 100
_SMOOTHING = 0.05

_sizes = attrgetter(*(field.name for field in fields(SearchParams)))


@dataclass(frozen=True, slots=True)
class Cost:
    """What one query is expected to take. pairs: metric evaluations in each of its steps."""

    evaluations: int
    pairs: float

    @property
    def steps(self) -> float:
        """Steps from its admission to its answer, at least 1."""
        return max(1.0, self.evaluations / self.pairs)


class QueryCosts:
    """The costs of queries by their kind, that is by parameters of about the same size.

    What is learned is the share of its budget that a query spends: right where the budget ends searches, whatever it
    is, and where they converge far below it. A kind that was never seen costs what all queries cost on average.
    """

    def __init__(self) -> None:
        self._kinds: dict[tuple[int, ...], _Learned] = {}
        self._evaluations = _Mean(_FIRST_EVALUATIONS)
        self._any_pairs = _Mean(_FIRST_PAIRS)

    def expected(self, query: Query) -> Cost:
        """What a query will take."""
        known, budget = self._kinds.get(_kind(query)), query.params.budget
        if known is not None:
            return Cost(max(1, round(known.share.value * budget)), known.pairs.value)
        return Cost(max(1, min(budget, round(self._evaluations.value))), self._any_pairs.value)

    def learn(self, query: Query, answer: Answer) -> None:
        """Take in what a query took.

        Of one that was cut short nothing is known but that it would have taken more: twice as much is the guess, where
        that is above what was expected. Without it a kind that is always cut short would be tried for ever.
        """
        evaluations = answer.evaluations
        if answer.stop is Stop.DEADLINE:
            evaluations = min(2 * evaluations, query.params.budget)
            if evaluations <= self.expected(query).evaluations:
                return
        kind, pairs = _kind(query), max(1.0, answer.evaluations / answer.steps)
        if (known := self._kinds.get(kind)) is None:
            known = self._kinds[kind] = _Learned()
        known.share.add(evaluations / query.params.budget)
        known.pairs.add(pairs)
        self._evaluations.add(evaluations)
        self._any_pairs.add(pairs)


class StepTimes:
    """How long a step and what is done behind it take: a line over the pairs expected, fitted to the last steps.

    The line goes through their means, so it is right where the engine works now, however little the load varies.
    """

    def __init__(self) -> None:
        self._pairs, self._seconds = _Mean(), _Mean()
        self._variance, self._covariance = _Mean(), _Mean()

    def expected(self, pairs: float) -> float:
        """Seconds for a step of so many pairs; 0 while nothing is known."""
        if self._pairs.value == 0:
            return 0.0
        proportional = self._seconds.value / self._pairs.value
        fitted = self._covariance.value / self._variance.value if self._variance.value > 0 else proportional
        slope = min(max(fitted, 0.0), proportional)
        return self._seconds.value + slope * (pairs - self._pairs.value)

    def learn(self, pairs: float, seconds: float) -> None:
        """Take in a step that was made."""
        apart = pairs - self._pairs.value
        self._variance.add(apart * apart)
        self._covariance.add(apart * (seconds - self._seconds.value))
        self._pairs.add(pairs)
        self._seconds.add(seconds)


class _Mean:
    """A mean of numbers in which old ones fade; ``first`` is its value until there is one."""

    def __init__(self, first: float = 0.0) -> None:
        self.value = first
        self._count = 0

    def add(self, number: float) -> None:
        self._count += 1
        self.value += max(_SMOOTHING, 1 / self._count) * (number - self.value)


class _Learned:
    """What is known of a kind: the share of their budgets that its queries spend, and the pairs of each step."""

    def __init__(self) -> None:
        self.share, self.pairs = _Mean(), _Mean()


def _kind(query: Query) -> tuple[int, ...]:
    """Parameters of the same number of bits, with or without a filter, and with something to start from or without."""
    return (*_bits(query.params), query.mask is not None, len(query.history_rows) > 0 and query.vector is None)


@lru_cache(maxsize=4_096)
def _bits(params: SearchParams) -> tuple[int, ...]:
    return tuple((size or 0).bit_length() for size in _sizes(params))
