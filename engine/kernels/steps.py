"""What a step does beside scoring, in compiled code: the functions of `engine.rounds`, on CPUs."""

import numpy as np
import torch

from engine.index import ItemIndex
from engine.kernels import merging, rounds
from engine.kernels.byte_products import matrix_unit
from engine.lanes import Lanes

_NO_TANGENTS = np.empty((0, 0, 0), np.float32)


def choose(index: ItemIndex, lanes: Lanes, chosen: np.ndarray, table: torch.Tensor, counts: torch.Tensor) -> None:
    """See `engine.rounds.choose`."""
    rounds.choose(chosen, index.rows, index.columns, lanes.columns, matrix_unit(), table.numpy(), counts.numpy())


def merge(
    index: ItemIndex, lanes: Lanes, chosen: np.ndarray, table: torch.Tensor, counts: torch.Tensor, scores: torch.Tensor,
    tangents: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """See `engine.rounds.merge`."""
    done = np.zeros(len(chosen), dtype=np.uint8)
    known = _NO_TANGENTS if tangents is None else tangents.numpy()
    pairs = (table.numpy(), counts.numpy(), scores.numpy(), known)
    merging.merge(chosen, index.columns, lanes.columns, *pairs, done)
    return torch.from_numpy(done)
