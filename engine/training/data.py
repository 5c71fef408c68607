"""What training reads: interactions as arrays, and each user's distinct items as one ragged array."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.behavior_codes import BOTH, OTHER_ONLY, TARGET_ONLY
from engine.errors import TrainingError


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """Who did what to which item; parallel integer codes, in any order, duplicates allowed.

    `users`, `items`, `behaviors`: [E] codes; a user code is any non-negative integer, an item code a position
    in `item_ids`, a behaviour code a position in `behavior_names`. `texts` and `tags` belong to `item_ids`,
    or are empty. Items without any interaction are welcome: their vectors come from their content.
    Raises TrainingError where these do not fit together.
    """

    users: npt.NDArray[np.integer]
    items: npt.NDArray[np.integer]
    behaviors: npt.NDArray[np.integer]
    behavior_names: Sequence[str]
    target: str
    item_ids: Sequence[str]
    texts: Sequence[str] = ()
    tags: Sequence[Sequence[str]] = ()

    def __post_init__(self) -> None:
        if not len(self.users) == len(self.items) == len(self.behaviors):
            raise TrainingError(
                f"users, items and behaviors differ in length: {len(self.users)}, {len(self.items)}, "
                f"{len(self.behaviors)}"
            )
        if not len(self.users):
            raise TrainingError("there are no interactions to train on")
        if self.target not in self.behavior_names:
            raise TrainingError(f"target {self.target!r} is none of the behaviours {list(self.behavior_names)}")
        if len(set(self.item_ids)) != len(self.item_ids):
            raise TrainingError("item_ids are not distinct")
        for name, values in (("texts", self.texts), ("tags", self.tags)):
            if len(values) not in (0, len(self.item_ids)):
                raise TrainingError(f"{name} holds {len(values)} entries for {len(self.item_ids)} items")
        for name, codes, end in (
            ("users", self.users, None),
            ("items", self.items, len(self.item_ids)),
            ("behaviors", self.behaviors, len(self.behavior_names)),
        ):
            if codes.ndim != 1 or codes.dtype.kind not in "iu":
                raise TrainingError(f"{name} is not a flat array of integers")
            if codes.min() < 0 or (end is not None and codes.max() >= end):
                raise TrainingError(f"{name} holds a code outside of [0, {end})")


@dataclass(frozen=True, slots=True, eq=False)
class Histories:
    """Each user's distinct items, user by user: user u owns entries offsets[u]:offsets[u + 1].

    `items`: i8[T]; `codes`: i8[T] of OTHER_ONLY, TARGET_ONLY, BOTH; `done`: bool[T, B], which behaviours the
    user showed towards the item.
    """

    offsets: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]
    done: npt.NDArray[np.bool_]
    item_count: int
    target: int

    @classmethod
    def of(cls, interactions: Interactions) -> "Histories":
        """Merge repeated interactions; only users with interactions count, in the order of their codes."""
        item_count = len(interactions.item_ids)
        target = list(interactions.behavior_names).index(interactions.target)
        _, users = np.unique(interactions.users, return_inverse=True)
        pairs, place = np.unique(users * item_count + interactions.items, return_inverse=True)
        done = np.zeros((len(pairs), len(interactions.behavior_names)), dtype=bool)
        done[place, interactions.behaviors] = True
        others = np.delete(done, target, axis=1).any(axis=1)
        codes = np.where(done[:, target], np.where(others, BOTH, TARGET_ONLY), OTHER_ONLY)
        offsets = np.searchsorted(pairs // item_count, np.arange(users.max() + 2))
        return cls(offsets, pairs % item_count, codes, done, item_count, target)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """i8[users]: how many distinct items each user touched."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> npt.NDArray[np.int64]:
        """i8[T]: the user of every entry."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def counts(self) -> npt.NDArray[np.int64]:
        """i8[N, B]: how many users showed each behaviour towards each item."""
        counts = np.zeros((self.item_count, self.done.shape[1]), dtype=np.int64)
        for behavior in range(self.done.shape[1]):
            counts[:, behavior] = np.bincount(self.items[self.done[:, behavior]], minlength=self.item_count)
        return counts
