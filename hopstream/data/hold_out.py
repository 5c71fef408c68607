"""Which (user, item) pairs are kept back for measuring: a seeded share of every large enough basket.

The draw depends on the ids and the seed alone, so that neither the order of a file nor a library's random
generator can change it.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

__all__ = ["HOLD_OUT_SEED", "hold_out", "stable_hashes"]

HOLD_OUT_SEED = 1


def stable_hashes(ids: Sequence[str], seed: int) -> NDArray[np.uint64]:
    """Give every id a 64-bit number that is the same on every machine: u8[len(ids)]."""
    salt = seed.to_bytes(16, "little")
    digests = b"".join(blake2b(text.encode(), digest_size=8, salt=salt).digest() for text in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def hold_out(
    users: NDArray[np.integer],
    items: NDArray[np.integer],
    user_ids: Sequence[str],
    item_ids: Sequence[str],
    *,
    share: float = 0.1,
    smallest_basket: int = 10,
    seed: int = HOLD_OUT_SEED,
) -> NDArray[np.bool_]:
    """Draw the interactions to hold out: ``share`` of the distinct items of every large enough basket.

    A basket is the distinct items that one user touched by any behaviour. A held-out pair is held out with
    all its behaviours, so every row of one pair gets the same answer.

    Args:
        users: user code of every interaction, integer [n].
        items: item code of every interaction, integer [n].
        user_ids: the id of every user code.
        item_ids: the id of every item code.
        share: part of a basket to hold out, rounded down, but at least one item.
        smallest_basket: baskets of fewer distinct items are left whole.
        seed: another seed draws other items.

    Returns:
        bool [n], true where the interaction is held out.

    """
    pairs, pair_of_row = np.unique(users.astype(np.int64) * len(item_ids) + items, return_inverse=True)
    pair_users, pair_items = np.divmod(pairs, max(len(item_ids), 1))
    keys = _mixed(stable_hashes(user_ids, seed)[pair_users] ^ stable_hashes(item_ids, seed + 1)[pair_items])
    order = np.lexsort((keys, pair_users))
    basket_sizes = np.bincount(pair_users, minlength=len(user_ids))
    starts = np.cumsum(basket_sizes) - basket_sizes
    rank_in_basket = np.empty(len(pairs), dtype=np.int64)
    rank_in_basket[order] = np.arange(len(pairs)) - starts[pair_users[order]]
    # The small number keeps 0.1 * 30 from being rounded down to 2.
    quota = np.maximum(np.floor(basket_sizes * share + 1e-9), 1) * (basket_sizes >= smallest_basket)
    held_out: NDArray[np.bool_] = (rank_in_basket < quota[pair_users])[pair_of_row]
    return held_out


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply the finaliser of splitmix64: every bit of the input moves every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
