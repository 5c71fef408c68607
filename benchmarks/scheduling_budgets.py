"""What "budgets mixed 1 : 30" can mean."""

from enum import StrEnum

import numpy as np

SMALL, RANGE = 50, 30
"""The smallest budget, in metric evaluations, and how many times as large the largest is."""


class Mixture(StrEnum):
    """How unlike the budgets of one load are.

    HALVES: two budgets, as many queries of each; thirty parts in thirty-one of the work are the large ones'. ONE_IN_31:
    two budgets and so few large ones that both do half of the work. LOG_UNIFORM: everything between, no size preferred.
    """

    HALVES = "halves"
    LOG_UNIFORM = "log-uniform"
    ONE_IN_31 = "one in 31"

    def budgets(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """int64[count], in random order; the shares of the two are as exact as the count allows."""
        if self is Mixture.LOG_UNIFORM:
            budgets: np.ndarray = (SMALL * np.exp(rng.uniform(0, np.log(RANGE), count))).astype(np.int64)
            return budgets
        large = count / 2 if self is Mixture.HALVES else count / (RANGE + 1)
        return rng.permutation(np.where(np.arange(count) < round(large), RANGE * SMALL, SMALL))

    @property
    def suffix(self) -> str:
        """For the names of figures."""
        return "_" + self.value.replace("-", "_").replace(" ", "_")
