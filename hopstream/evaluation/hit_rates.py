"""Quality against held-out behaviour, per held-out (user, item) pair."""

import numpy as np
from numpy.typing import NDArray

from hopstream.data.dataset import HeldOut

__all__ = ["hit_rate", "ndcg", "places"]


def places(recommended: NDArray[np.integer], held_out: HeldOut) -> NDArray[np.int64]:
    """Find the place of every held-out item in its user's list.

    Args:
        recommended: item codes, the best first, integer [U, k], a row per user of ``held_out.users``.
        held_out: the pairs to find.

    Returns:
        0 for the first place, k where the item is not in the list, i8[pairs].

    Raises:
        ValueError: there is not one list per user.

    """
    if recommended.ndim != 2 or len(recommended) != len(held_out.users):
        problem = f"expected lists for {len(held_out.users)} users, got an array of shape {recommended.shape}"
        raise ValueError(problem)
    found = recommended[held_out.rows] == held_out.items[:, None]
    place: NDArray[np.int64] = np.where(found.any(axis=1), found.argmax(axis=1), recommended.shape[1])
    return place


def hit_rate(recommended: NDArray[np.integer], held_out: HeldOut, k: int | None = None) -> float:
    """Give HR@k: the share of held-out pairs whose item is among the first k (by default all) of its list."""
    k = recommended.shape[1] if k is None else k
    return _mean(places(recommended[:, :k], held_out) < min(k, recommended.shape[1]))


def ndcg(recommended: NDArray[np.integer], held_out: HeldOut, k: int | None = None) -> float:
    """Give NDCG@k with each held-out pair on its own: 1 / log2(2 + place), 0 beyond the first k."""
    k = recommended.shape[1] if k is None else k
    place = places(recommended[:, :k], held_out)
    return _mean(np.where(place < min(k, recommended.shape[1]), 1.0 / np.log2(2.0 + place), 0.0))


def _mean(values: NDArray[np.bool_] | NDArray[np.float64]) -> float:
    """Give the mean; 0 when there is nothing to measure."""
    return float(np.mean(values)) if len(values) else 0.0
