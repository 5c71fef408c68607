"""Where the gradients of a beam point: a few middles of them, and the rows farthest in these directions.

Of many lanes at once, in torch, on any device, and in Triton where that runs.
"""

import torch

from engine import gpu_products
from engine.index import ROW_BLOCK, ItemIndex
from engine.kernels.tangents import CLUSTER_ROUNDS
from engine.lanes import NO_ROW

MOST_FLOATS = 2**28
"""Of an intermediate result, as it grows with the lanes: those beyond come later."""

_CENTRES = 64
"""Centres of one product of torch: of a fixed shape, so that nobody's products depend on who else looks far."""


def clustered(
    slopes: torch.Tensor, known: torch.Tensor, clusters: torch.Tensor, most: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """k-means of the known slopes float32[n, b, S] as `engine.kernels.tangents.cluster` does it.

    clusters: int64[n], at most ``most``. Returns centres float32[n, most, S] and which of them are, bool[n, most].
    """
    each, numbers = (torch.arange(count, device=slopes.device) for count in (len(slopes), most))
    chosen, real = [slopes[each, known.long().argmax(dim=1)]], [known.any(dim=1)]
    nearest = torch.full_like(known, torch.inf, dtype=slopes.dtype)
    for number in range(1, most):
        nearest = torch.minimum(nearest, (slopes - chosen[-1][:, None]).square().sum(dim=2))
        gap, outermost = nearest.masked_fill(~known, 0).max(dim=1)
        chosen.append(slopes[each, outermost])
        real.append(real[-1] & (gap > 0) & (number < clusters))
    centres, real_centres = torch.stack(chosen, dim=1), torch.stack(real, dim=1)
    for _ in range(CLUSTER_ROUNDS):
        apart = centres.square().sum(dim=2)[:, None] - 2 * torch.bmm(slopes, centres.transpose(1, 2))
        owner = apart.masked_fill(~real_centres[:, None], torch.inf).argmin(dim=2)
        members = ((owner[:, :, None] == numbers) & known[:, :, None]).to(slopes.dtype)
        counts = members.sum(dim=1)[:, :, None]
        means = torch.bmm(members.transpose(1, 2), slopes) / counts.clamp(min=1)
        centres = torch.where(counts > 0, means, centres)
    return centres, real_centres


def farthest(
    index: ItemIndex, marks: torch.Tensor, mine: torch.Tensor, floors: torch.Tensor, centres: torch.Tensor, keep: int,
    rows: int,
) -> torch.Tensor:  # fmt: skip
    """The unmarked rows farthest in the direction of each of centres float32[n, c, S]: int64[n, c, ≤ keep], −1 behind.

    marks: uint8[lanes, > rows], of which ``mine``, int64[n], are the centres' lanes, with floors int64[n] as in
    `engine.kernels.marks`. The first ``rows`` of the catalogue, whole blocks, are looked at block by block: the
    ``keep`` best lie in the ``keep`` best blocks, which Triton chooses by ten bits of every factor.
    """
    fused = gpu_products.usable(index.state.device)
    floats = max(rows // ROW_BLOCK, keep * ROW_BLOCK) if fused else rows
    step = max(1, MOST_FLOATS // (centres.shape[1] * floats))
    parts = zip(*(torch.split(each, step) for each in (mine, floors, centres)), strict=True)
    find = along_fused if fused else along
    return torch.cat([find(index, marks, who, above, towards, keep, rows) for who, above, towards in parts])


def along(
    index: ItemIndex, marks: torch.Tensor, mine: torch.Tensor, floors: torch.Tensor, centres: torch.Tensor, keep: int,
    rows: int,
) -> torch.Tensor:  # fmt: skip
    """See `farthest`."""
    flat = centres.flatten(0, 1)
    flat = torch.nn.functional.pad(flat, (0, 0, 0, -len(flat) % _CENTRES)).reshape(-1, _CENTRES, flat.shape[1])
    products = torch.bmm(flat, index.state[:rows].T.expand(len(flat), -1, -1)).reshape(-1, rows)
    blocks = products[: centres.shape[0] * centres.shape[1]].reshape(*centres.shape[:2], -1, ROW_BLOCK)
    barred = (marks[mine, :rows] >= floors[:, None]) | (index.versions[:rows] <= 0)
    blocks.masked_fill_(barred.reshape(len(mine), 1, -1, ROW_BLOCK), -torch.inf)
    best = blocks.amax(dim=3).topk(min(keep, blocks.shape[2]), dim=2).indices
    products = blocks.gather(2, best[:, :, :, None].expand(-1, -1, -1, ROW_BLOCK))
    return _best_inside(_rows_of(best), products, keep)


def along_fused(
    index: ItemIndex, marks: torch.Tensor, mine: torch.Tensor, floors: torch.Tensor, centres: torch.Tensor, keep: int,
    rows: int,
) -> torch.Tensor:  # fmt: skip
    """The same: only of the best blocks are there products in memory, made once more, from all bits."""
    maxima = gpu_products.block_maxima(index.state, index.versions, marks, mine, floors, centres, rows)
    inside = _rows_of(maxima.topk(min(keep, maxima.shape[2]), dim=2).indices)
    products = gpu_products.row_products(index.state, inside.flatten(2), torch.nn.functional.pad(centres, (0, 1)))
    barred = (marks[mine[:, None, None, None], inside] >= floors[:, None, None, None]) | (index.versions[inside] <= 0)
    return _best_inside(inside, products.reshape(inside.shape).masked_fill_(barred, -torch.inf), keep)


def _best_inside(rows: torch.Tensor, products: torch.Tensor, keep: int) -> torch.Tensor:
    """Those of rows int64[n, c, b, ROW_BLOCK] with the ``keep`` largest products, of the same shape; −1 for −inf."""
    chosen = products.flatten(2).topk(min(keep, products[0, 0].numel()), dim=2)
    return rows.flatten(2).gather(2, chosen.indices).masked_fill(~torch.isfinite(chosen.values), NO_ROW)


def _rows_of(blocks: torch.Tensor) -> torch.Tensor:
    """int64[…, ROW_BLOCK] of blocks int64[…]."""
    return blocks[..., None] * ROW_BLOCK + torch.arange(ROW_BLOCK, device=blocks.device)
