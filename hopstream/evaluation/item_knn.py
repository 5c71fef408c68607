"""Item k-nearest-neighbours with BM25 weights: the baseline that learned metrics have to beat.

Sarwar, Karypis, Konstan, Riedl: Item-based collaborative filtering recommendation algorithms (WWW 2001); the
weights are those of Robertson and Walker (SIGIR 1994) as the library `implicit` applies them, each item being a
document and its users the words.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from hopstream.data.dataset import Dataset
from hopstream.evaluation.interaction_matrix import weight_matrix

__all__ = ["ItemKnn", "bm25"]

_ROWS_AT_ONCE = 1024
_SparseRow = tuple[NDArray[np.int32], NDArray[np.float32]]  # columns, values


@dataclass(frozen=True, slots=True, eq=False)
class ItemKnn:
    """The item k-NN baseline.

    Attributes:
        histories: weights of what users did, f4 csr [users, items].
        similarities: to every item its K most similar ones, f4 csr [items, items].

    """

    histories: csr_array
    similarities: csr_array

    @classmethod
    def fit(cls, data: Dataset, neighbors: int = 200, target: str | None = None) -> Self:
        """Find every item's neighbours; the target behaviour weighs 2, every other one 1."""
        target = target or data.target_behavior
        histories = weight_matrix(data, {name: 2.0 if name == target else 1.0 for name in data.behaviors})
        return cls(histories, _nearest(bm25(histories.T.tocsr()), neighbors))

    def recommend(self, users: NDArray[np.integer], k: int, excluded: csr_array) -> NDArray[np.int32]:
        """Give the k items most similar to each user's history that are not excluded.

        Args:
            users: user codes, integer [n].
            k: how many items.
            excluded: what not to recommend, csr [all users, items]; only where it is not zero matters.

        Returns:
            item codes, the best first, i4[n, k]; -1 where no further item is similar to the history.

        """
        barred = excluded[users]
        lists = [
            _largest(scores, k, zeroed=barred.indices[barred.indptr[row] : barred.indptr[row + 1]])
            for row, scores in enumerate(_rows_of_product(self.histories[users], self.similarities))
        ]
        chosen = np.full((len(users), k), -1, dtype=np.int32)
        for row, (items, _) in enumerate(lists):
            chosen[row, : len(items)] = items
        return chosen


def bm25(weights: csr_array, k1: float = 1.2, b: float = 0.75) -> csr_array:
    """Weigh a matrix of documents (rows) and words (columns) by BM25: f4 csr of the same shape."""
    n_documents, n_words = weights.shape
    documents = np.repeat(np.arange(n_documents), np.diff(weights.indptr))
    rarity = np.log(n_documents) - np.log1p(np.bincount(weights.indices, minlength=n_words))
    lengths = np.asarray(weights.sum(axis=1)).ravel()
    norms = k1 * (1.0 - b + b * lengths / max(lengths.mean(), 1e-12))
    data = weights.data * (k1 + 1.0) / (norms[documents] + weights.data) * rarity[weights.indices]
    return csr_array((data.astype(np.float32), weights.indices, weights.indptr), shape=weights.shape)


def _nearest(items: csr_array, k: int) -> csr_array:
    """Keep, of all inner products between rows, the k largest of every row (its own with itself among them)."""
    neighbors = [_largest(products, k) for products in _rows_of_product(items, items.T.tocsr())]
    indptr = np.cumsum([0, *(len(columns) for columns, _ in neighbors)])
    indices = np.concatenate([columns for columns, _ in neighbors])
    data = np.concatenate([values for _, values in neighbors])
    return csr_array((data, indices, indptr), shape=(items.shape[0], items.shape[0]))


def _rows_of_product(left: csr_array, right: csr_array) -> Iterator[_SparseRow]:
    """Multiply two matrices a block at a time, so that memory holds but one block; yield row by row."""
    for start in range(0, left.shape[0], _ROWS_AT_ONCE):
        block = left[start : start + _ROWS_AT_ONCE] @ right
        for begin, end in itertools.pairwise(block.indptr):
            yield block.indices[begin:end], block.data[begin:end]


def _largest(row: _SparseRow, k: int, zeroed: NDArray[np.int32] | None = None) -> _SparseRow:
    """Give the k largest positive values of a row, the largest first, without the columns of ``zeroed``."""
    columns, values = row
    keep = values > 0
    if zeroed is not None and len(zeroed):
        keep &= ~np.isin(columns, zeroed)
    columns, values = columns[keep], values[keep]
    if len(values) > k:
        best = np.argpartition(values, len(values) - k)[-k:]
        columns, values = columns[best], values[best]
    order = np.lexsort((columns, -values))
    return columns[order], values[order]
