"""Where the gradients of a beam point: a few middles of them, and the rows farthest in these directions.

Of many lanes at once, in plain torch, on any device.
"""

import torch

from engine.index import ROW_BLOCK, ItemIndex
from engine.kernels.tangents import CLUSTER_ROUNDS
from engine.lanes import NO_ROW

MOST_FLOATS = 2**28
"""Of an intermediate result, as it grows with the lanes: those beyond come later."""

_CENTRES = 64
"""Centres of one product: of a fixed shape, so that nobody's products depend on who else looks far."""


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
    ``keep`` best lie in the ``keep`` best blocks.
    """
    clusters = centres.shape[1]
    across, gone = index.state[:rows].T, index.versions[:rows] <= 0
    step = max(1, MOST_FLOATS // (clusters * rows))
    found = []
    parts = (torch.split(each, step) for each in (centres, mine, floors[:, None]))
    for part, who, floor in zip(*parts, strict=True):
        flat = part.flatten(0, 1)
        flat = torch.nn.functional.pad(flat, (0, 0, 0, -len(flat) % _CENTRES)).reshape(-1, _CENTRES, flat.shape[1])
        products = torch.bmm(flat, across.expand(len(flat), -1, -1)).reshape(-1, rows)[: len(who) * clusters]
        barred = (marks[who, :rows] >= floor) | gone
        blocks = products.reshape(len(who), clusters, -1, ROW_BLOCK)
        blocks.masked_fill_(barred.reshape(len(who), 1, -1, ROW_BLOCK), -torch.inf)
        best = blocks.amax(dim=3).topk(min(keep, blocks.shape[2]), dim=2).indices
        inside = blocks.gather(2, best[:, :, :, None].expand(-1, -1, -1, ROW_BLOCK)).flatten(2)
        chosen = inside.topk(min(keep, inside.shape[2]), dim=2)
        block = best.gather(2, chosen.indices // ROW_BLOCK)
        row = block * ROW_BLOCK + chosen.indices % ROW_BLOCK
        found.append(row.masked_fill(~torch.isfinite(chosen.values), NO_ROW))
    return torch.cat(found)
