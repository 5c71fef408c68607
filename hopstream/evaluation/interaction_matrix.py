"""Interactions as a sparse user x item matrix."""

from collections.abc import Iterable, Mapping

import numpy as np
from scipy.sparse import csr_array

from hopstream.data.dataset import Dataset

__all__ = ["touched_matrix", "weight_matrix"]


def weight_matrix(data: Dataset, weights: Mapping[str, float]) -> csr_array:
    """Sum, for every user and item, the weights of the behaviours in training: f4 csr [users, items].

    Behaviours that ``weights`` does not name count nothing. One that is recorded twice counts once.
    """
    weight_of_code = np.array([weights.get(name, 0.0) for name in data.behaviors], dtype=np.float32)
    # One number per (behaviour, user, item), to see each but once.
    train, n_items = data.train, len(data.items)
    keys = (train.behaviors.astype(np.int64) * len(data.users) + train.users) * n_items + train.items
    behaviors, pairs = np.divmod(np.unique(keys), len(data.users) * n_items)
    users, items = np.divmod(pairs, n_items)
    matrix = csr_array((weight_of_code[behaviors], (users, items)), shape=(len(data.users), n_items))
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def touched_matrix(data: Dataset, behaviors: Iterable[str] | None = None) -> csr_array:
    """Mark what every user did in training, by the named behaviours or any: f4 csr [users, items] of ones."""
    matrix = weight_matrix(data, dict.fromkeys(data.behaviors if behaviors is None else behaviors, 1.0))
    matrix.data[:] = 1.0
    return matrix
