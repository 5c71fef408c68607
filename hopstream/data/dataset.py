"""A data set in memory: what is known of items once, behaviours as arrays of codes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Dataset", "HeldOut", "Interactions"]

LIKELY_TARGETS = ("buy", "purchase")


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """Behaviours of users on items, one per row; the order of the rows says nothing.

    Attributes:
        users: user codes, i4[n].
        items: item codes, i4[n].
        behaviors: behaviour codes, i4[n].
        timestamps: seconds since the epoch, f8[n]; None where the data have no times.

    """

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    behaviors: NDArray[np.int32]
    timestamps: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.users)

    def where(self, mask: NDArray[np.bool_]) -> "Interactions":
        """Select the rows where ``mask`` (bool [n]) is true."""
        timestamps = None if self.timestamps is None else self.timestamps[mask]
        return Interactions(self.users[mask], self.items[mask], self.behaviors[mask], timestamps)


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Distinct (user, item) pairs to measure with; pair i is (users[rows[i]], items[i]).

    Attributes:
        users: user codes to ask for, distinct, ascending, i4[U].
        rows: for every pair, the index of its user in ``users``, i4[m].
        items: for every pair, its item code, i4[m].

    """

    users: NDArray[np.int32]
    rows: NDArray[np.int32]
    items: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.items)

    def where(self, mask: NDArray[np.bool_]) -> "HeldOut":
        """Select pairs (bool [m]) and leave the users as they are, so that ``rows`` keep their meaning."""
        return HeldOut(self.users, self.rows[mask], self.items[mask])


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """One data set. Codes are positions in ``users``, ``items`` and ``behaviors``.

    Users and items stand in the order of a hash of their ids: a code carries no information, so that nothing
    can profit from ids that were given out in a telling order.

    Attributes:
        name: what its files are called.
        users: user ids.
        items: item ids.
        behaviors: names of the behaviours, the most frequent in training first.
        texts: one text per item; empty for an item known only from interactions.
        tags: the tags of every item, at most 32 each.
        numbers: one finite number per item, such as a price; None where it has none.
        groups: one group per item, such as a brand; None where it has none.
        train: the behaviours to learn from.
        test: the behaviours to measure with.
        lines: data lines read, by file name.
        notes: what the reader did that its caller may want to know, in sentences.

    """

    name: str
    users: tuple[str, ...]
    items: tuple[str, ...]
    behaviors: tuple[str, ...]
    texts: tuple[str, ...]
    tags: tuple[tuple[str, ...], ...]
    numbers: tuple[float | None, ...]
    groups: tuple[str | None, ...]
    train: Interactions
    test: Interactions
    lines: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def target_behavior(self) -> str:
        """The behaviour to recommend for: a purchase where there is one, else the most frequent."""
        return next((name for name in LIKELY_TARGETS if name in self.behaviors), self.behaviors[0])

    def held_out(self) -> HeldOut:
        """Give the distinct (user, item) pairs of ``test``, whatever the behaviour."""
        pairs = np.unique(self.test.users.astype(np.int64) * len(self.items) + self.test.items)
        by_user, items = np.divmod(pairs, len(self.items))
        users, rows = np.unique(by_user, return_inverse=True)
        return HeldOut(users.astype(np.int32), rows.astype(np.int32), items.astype(np.int32))
