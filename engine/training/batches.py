"""What one step of training sees: a few users' histories and the items they are ranked against."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from engine.training.data import Histories


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The histories of U users, T entries in all, against C candidate items.

    candidates: i8[C] item rows, distinct, the batch's own first; weights: f4[C], 1 / probability of being drawn;
    user, place, code: i8[T], the entry's user in the batch, the position of its item in `candidates`, its code;
    done: bool[T, B]; importance: f4[T], the entry's weight in the loss;
    pair_history, pair_item: i8[P], every ordered pair of two entries of one user.
    """

    candidates: torch.Tensor
    weights: torch.Tensor
    user: torch.Tensor
    place: torch.Tensor
    code: torch.Tensor
    done: torch.Tensor
    importance: torch.Tensor
    pair_history: torch.Tensor
    pair_item: torch.Tensor
    users: int


def user_groups(lengths: np.ndarray, users: int, entries: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Cut the users, in random order, into groups of at most `users`, and about `entries` history entries."""
    order = rng.permutation(len(lengths))
    start = held = 0
    for end, length in enumerate(lengths[order]):
        if end > start and (end - start == users or held + length > entries):
            yield order[start:end]
            start, held = end, 0
        held += length
    yield order[start:]


def make_batch(
    histories: Histories,
    users: np.ndarray,
    *,
    longest: int,
    negatives: int,
    length_discount: float,
    rng: np.random.Generator,
) -> Batch:
    """Gather `users`' histories, of longer ones `longest` entries drawn at random, and draw the negatives.

    Negatives are uniform over the items outside of the batch; each stands for as many as were not drawn.
    """
    entries = [_entries(histories, user, longest, rng) for user in users]
    lengths = np.array([len(each) for each in entries])
    entry = np.concatenate(entries)
    own, place = np.unique(histories.items[entry], return_inverse=True)
    drawn = np.setdiff1d(
        rng.choice(histories.item_count, size=min(negatives, histories.item_count), replace=False), own
    )
    outside = histories.item_count - len(own)
    weights = np.ones(len(own) + len(drawn), dtype=np.float32)
    weights[len(own) :] = outside / max(len(drawn), 1)
    starts = np.cumsum(lengths) - lengths
    per_entry = np.repeat(lengths, lengths)
    first = np.repeat(np.arange(len(entry)), per_entry)
    within = np.arange(len(first)) - np.repeat(np.cumsum(per_entry) - per_entry, per_entry)
    second = np.repeat(np.repeat(starts, lengths), per_entry) + within
    distinct = first != second
    return Batch(
        candidates=torch.from_numpy(np.concatenate([own, drawn])),
        weights=torch.from_numpy(weights),
        user=torch.from_numpy(np.repeat(np.arange(len(users)), lengths)),
        place=torch.from_numpy(place),
        code=torch.from_numpy(histories.codes[entry]),
        done=torch.from_numpy(histories.done[entry]),
        importance=torch.from_numpy(np.repeat(lengths.astype(np.float32) ** -length_discount, lengths)),
        pair_history=torch.from_numpy(first[distinct]),
        pair_item=torch.from_numpy(second[distinct]),
        users=len(users),
    )


def _entries(histories: Histories, user: int, longest: int, rng: np.random.Generator) -> np.ndarray:
    start, end = histories.offsets[user], histories.offsets[user + 1]
    if end - start <= longest:
        return np.arange(start, end)
    return np.sort(rng.choice(np.arange(start, end), size=longest, replace=False))
