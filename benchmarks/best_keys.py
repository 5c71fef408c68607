"""The best rows of a whole catalogue for many queries, kept while its blocks are scored one after the other."""

from typing import NamedTuple, Self

import numpy as np
from numba import njit

from engine.kernels.ranking import key_of, number_of, order_of, row_of, select, value_of


class BestKeys(NamedTuple):
    """For every query keys int64[Q, 2 · K] (`engine.kernels.ranking`), of which the first sizes int64[Q] are in use.

    What is worth less than floors float32[Q], the K-th best when last chosen among them, is not among the best K.
    """

    keys: np.ndarray
    sizes: np.ndarray
    floors: np.ndarray

    @classmethod
    def of(cls, queries: int, count: int) -> Self:
        """Those of so many queries that want so many rows each; nothing is kept yet."""
        keys, sizes = np.zeros((queries, 2 * count), np.int64), np.zeros(queries, np.int64)
        return cls(keys, sizes, np.full(queries, -np.inf, np.float32))

    def rows(self) -> np.ndarray:
        """The best rows so far in any order: int64[Q, K], −1 behind the last."""
        count = self.keys.shape[1] // 2
        found = np.full((len(self.keys), count), -1)
        for line, keys, size in zip(found, self.keys, self.sizes.tolist(), strict=True):
            best = np.sort(keys[:size])[::-1][:count]
            line[: len(best)] = [row_of(key) for key in best.tolist()]
        return found


@njit(nogil=True, cache=True)
def keep_best(scores, lines, first, keys, sizes, floors):  # type: ignore[no-untyped-def]
    """Take in rows scored float32[q, n], from row ``first`` on, into lines int64[q] of the columns of `BestKeys`."""
    count = keys.shape[1] // 2
    for i in range(len(scores)):
        line = lines[i]
        for place in range(scores.shape[1]):
            if scores[i, place] < floors[line]:
                continue
            keys[line, sizes[line]] = key_of(order_of(scores[i, place]), first + place)
            sizes[line] += 1
            if sizes[line] == keys.shape[1]:
                select(keys, line, 0, sizes[line], count)
                sizes[line] = count
                floors[line] = number_of(value_of(keys[line, :count].min()))
