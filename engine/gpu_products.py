"""Products on a GPU that are used up where they are made, instead of written to memory by torch and read again.

`engine.rounds` and `engine.directions` do the same in plain torch on devices that Triton does not serve. Triton comes
with torch where that is built for CUDA; it is loaded on a GPU only, as it is large and talks when a process ends.
"""

import warnings
from functools import cache

import torch

from engine.index import ROW_BLOCK
from engine.kernels.products import power_of_two

_CENTRES, _FEWEST_CENTRES = 128, 16
"""Centres that are multiplied with one block of rows, and the fewest that a tensor core takes."""

_DEPTH = 16
"""Dimensions that it multiplies at a time, at least."""

_ROWS = 32
"""Rows that are gathered together."""


@cache
def usable(device: torch.device) -> bool:
    """Whether Triton serves a device: tried once, as it needs a driver that fits, and a C compiler for its launcher."""
    if device.type != "cuda":
        return False
    try:
        _try(device)
    except Exception as error:  # noqa: BLE001 - whatever is missing, torch does the same
        warnings.warn(f"searching in plain torch, since Triton does not run on {device}: {error}", stacklevel=2)
        return False
    return True


def _try(device: torch.device) -> None:
    """Raise what keeps Triton from multiplying there."""
    state, lane = torch.ones(ROW_BLOCK, 4, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    marks = torch.zeros(1, ROW_BLOCK, dtype=torch.uint8, device=device)
    products = row_products(state, lane[None, None], torch.ones(1, 1, 5, device=device))
    maxima = block_maxima(state, lane.expand(ROW_BLOCK) + 1, marks, lane, lane + 1, state[None, :1], ROW_BLOCK)
    if (found := (products.item(), maxima.item())) != (5.0, 4.0):
        raise RuntimeError(f"4 ones and 1 are {found[0]}, 4 ones {found[1]}")


def row_products(state: torch.Tensor, rows: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    """What planes float32[n, w, S + 1] say of states float32[…, S] of rows int64[n, w, R]: float32[n, w, R].

    No row, −1, is worth −inf.
    """
    from engine.kernels import gpu

    lanes, several, each = rows.shape
    out = torch.empty(rows.shape, device=state.device)
    with torch.cuda.device_of(state):  # type: ignore[no-untyped-call]  # where Triton runs what it runs
        gpu.row_products[lanes * several, -(-each // _ROWS)](
            rows.contiguous(), planes.contiguous(), state, out, each,
            width=state.shape[1], padded=power_of_two(state.shape[1]), together=_ROWS,
        )  # fmt: skip
    return out


def block_maxima(
    state: torch.Tensor, versions: torch.Tensor, marks: torch.Tensor, mine: torch.Tensor, floors: torch.Tensor,
    centres: torch.Tensor, rows: int,
) -> torch.Tensor:  # fmt: skip
    """The largest product of each centre with a live and unmarked row of each block: float32[n, c, rows / ROW_BLOCK].

    Made of factors of ten bits, as tensor cores take them: good enough to choose blocks by. centres: float32[n, c, S];
    the rest as in `engine.directions.farthest`. −inf where there is no such row.
    """
    from engine.kernels import gpu

    lanes, clusters, width = centres.shape
    count, blocks = lanes * clusters, rows // ROW_BLOCK
    out = torch.empty(lanes, clusters, blocks, device=state.device)
    tile = max(_FEWEST_CENTRES, min(_CENTRES, power_of_two(count)))
    with torch.cuda.device_of(state):  # type: ignore[no-untyped-call]
        gpu.block_maxima[blocks, -(-count // tile)](
            centres.contiguous(), state, versions, marks, mine, floors, out, count, marks.stride(0), blocks,
            clusters=clusters, width=width, tile=tile, together=ROW_BLOCK, depth=_DEPTH,
        )  # fmt: skip
    return out
