"""What a query may return, by the tags and the number of an item."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from engine.errors import InvalidQuery
from engine.kernels import filtering
from engine.kernels.threads import over_lanes


@dataclass(frozen=True, slots=True)
class Filter:
    """Lets through the items that carry every tag of `all_of` and one of `any_of`, with a number from `low` to `high`.

    Tags are hashes, int64, never 0; without any, tags do not matter. Both ends of the range are in it; a range of all
    numbers lets items without one through as well, any other does not. Raises `InvalidQuery`.
    """

    all_of: tuple[int, ...] = ()
    any_of: tuple[int, ...] = ()
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        """Refuse what cannot be looked for."""
        for name in ("all_of", "any_of"):
            if 0 in getattr(self, name):
                raise InvalidQuery(name, "0 stands for no tag")
        for name in ("low", "high"):
            if math.isnan(getattr(self, name)):
                raise InvalidQuery(name, "is not a number")

    @property
    def ranged(self) -> bool:
        """Whether an item must have a number."""
        return self.low > -math.inf or self.high < math.inf


def compiled_mask(
    wanted: Filter, versions: torch.Tensor, numbers: torch.Tensor, attributes: torch.Tensor
) -> np.ndarray:
    """bool[n]: which of n rows hold an item that the filter lets through; the columns of an index on a CPU."""
    mask = np.empty(len(versions), dtype=bool)
    all_of, any_of = np.array(wanted.all_of, np.int64), np.array(wanted.any_of, np.int64)
    over_lanes(
        filtering.match, len(mask), versions.numpy(), numbers.numpy(), attributes.numpy(), all_of,
        filtering.table(any_of) if len(any_of) else any_of, wanted.ranged, wanted.low, wanted.high, mask,
    )  # fmt: skip
    return mask


def plain_mask(wanted: Filter, versions: torch.Tensor, numbers: torch.Tensor, attributes: torch.Tensor) -> np.ndarray:
    """The same on any device."""
    mask = versions > 0
    if wanted.ranged:
        mask &= (numbers >= wanted.low) & (numbers <= wanted.high)
    for tag in wanted.all_of:
        mask &= (attributes == tag).any(dim=1)
    if wanted.any_of:
        mask &= torch.isin(attributes, torch.tensor(wanted.any_of, device=attributes.device)).any(dim=1)
    found: np.ndarray = mask.cpu().numpy()
    return found
