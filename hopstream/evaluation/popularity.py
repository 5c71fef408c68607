"""Recommend to everyone what most users did the target behaviour on."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from hopstream.data.dataset import Dataset
from hopstream.evaluation.interaction_matrix import touched_matrix

__all__ = ["Popularity"]

_USERS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Popularity:
    """The popularity baseline.

    Attributes:
        ranking: item codes, the most popular first, i4[items].

    """

    ranking: NDArray[np.int32]

    @classmethod
    def fit(cls, data: Dataset, target: str | None = None) -> Self:
        """Rank all items by the number of users who did ``target`` (by default the data's own) on them."""
        users_per_item = touched_matrix(data, [target or data.target_behavior]).sum(axis=0)
        return cls(np.argsort(-users_per_item, kind="stable").astype(np.int32))

    def recommend(self, users: NDArray[np.integer], k: int, excluded: csr_array) -> NDArray[np.int32]:
        """Give the k most popular items that are not excluded for each user.

        Args:
            users: user codes, integer [n].
            k: how many items.
            excluded: what not to recommend, csr [all users, items]; only where it is not zero matters.

        Returns:
            item codes, the best first, i4[n, k]; -1 where there are no more items.

        """
        by_rank = excluded[users][:, self.ranking]
        chosen = np.full((len(users), k), -1, dtype=np.int32)
        for start in range(0, len(users), _USERS_AT_ONCE):
            block = by_rank[start : start + _USERS_AT_ONCE]
            # Nobody's k best reach further down than k places plus what is excluded for the busiest user.
            reach = min(k + int(np.diff(block.indptr).max(initial=0)), len(self.ranking))
            barred = block[:, :reach].toarray() != 0
            # Sorting false before true, stably, keeps the ranking among what is left.
            places = np.argsort(barred, axis=1, kind="stable")[:, :k]
            free = ~np.take_along_axis(barred, places, axis=1)
            chosen[start : start + len(places), : places.shape[1]] = np.where(free, self.ranking[places], -1)
        return chosen
