"""Rounds of a search: which rows a lane should score next, judged by the gradients of those that it has scored.

*Near*: the graph neighbours of the best, by the first-order estimates of those who know them. *Far*: the rows of the
whole catalogue that lie farthest in the direction of a few middles of the gradients. By turns they find what a walk
alone does not reach, for a fraction of its evaluations.
"""

import numpy as np
import torch

from engine.index import NO_NEIGHBOR, ItemIndex
from engine.kernels import rounds as kernels
from engine.kernels.instructions import CENTRES
from engine.kernels.products import padded
from engine.kernels.scan import scan
from engine.kernels.threads import over_lanes
from engine.lanes import NO_ROW, Lanes
from engine.sketch import Sketch

_CLUSTER_ROUNDS = 4
_EXTRA_FOUND = 2
"""How many times its share a centre finds, since two may find the same."""


def choose_near(index: ItemIndex, lanes: Lanes, chosen: torch.Tensor) -> torch.Tensor:
    """Rows int64[n, p] for lanes int64[n], −1 for none: neighbours of the best unexpanded entries, now expanded."""
    table = _table(lanes, chosen)
    if index.sketch is None:
        _near_plain(index, lanes, chosen, table)
    elif len(chosen):
        over_lanes(
            kernels.choose_near, len(chosen), chosen.numpy(), lanes.pairs.numpy(), lanes.widths.numpy(),
            lanes.beam.rows.numpy(), lanes.slots.numpy(), lanes.unexpanded.numpy(), lanes.tangents.numpy(),
            index.sketch.codes, index.sketch.scales, index.neighbors.numpy(), lanes.marks.numpy(), table.numpy(),
        )  # fmt: skip
    return table


def choose_far(index: ItemIndex, lanes: Lanes, chosen: torch.Tensor) -> torch.Tensor:
    """Rows int64[n, p] for lanes int64[n], −1 for none: the unmarked rows that clusters of gradients point at."""
    table = _table(lanes, chosen)
    if index.sketch is None:
        _far_plain(index, lanes, chosen, table)
    elif len(chosen):
        _far_compiled(index, index.sketch, lanes, chosen, table)
    return table


def _table(lanes: Lanes, chosen: torch.Tensor) -> torch.Tensor:
    widest = int(lanes.pairs[chosen].max()) if len(chosen) else 0
    return torch.full((len(chosen), widest), NO_ROW, dtype=torch.int64, device=chosen.device)


def _far_compiled(index: ItemIndex, sketch: Sketch, lanes: Lanes, chosen: torch.Tensor, table: torch.Tensor) -> None:
    mine, pairs, clusters = chosen.numpy(), lanes.pairs.numpy(), lanes.clusters.numpy()
    room, threads = int(clusters[mine].max()), torch.get_num_threads()
    places = padded(len(mine) * room, CENTRES * threads)
    centres = np.zeros((places, 4 * sketch.groups.shape[1]), np.int8)
    owners = np.full(places, -1)
    over_lanes(
        kernels.make_centres, len(mine), mine, clusters, _CLUSTER_ROUNDS, lanes.beam.rows.numpy(),
        lanes.slots.numpy(), lanes.tangents.numpy(), sketch.scales, centres, owners,
    )  # fmt: skip
    keep = _EXTRA_FOUND * -(-table.shape[1] // room)
    products, found, sizes = (
        np.empty((places, keep), np.int32),
        np.empty((places, keep), np.int32),
        np.zeros(places, int),
    )

    def scan_part(first: int, last: int) -> None:
        part = slice(first * CENTRES, last * CENTRES)
        scan(
            sketch.groups, index.versions.numpy(), index.rows, centres[part], owners[part], lanes.marks.numpy(),
            products[part], found[part], sizes[part],
        )  # fmt: skip

    over_lanes(scan_part, places // CENTRES)
    given = len(mine) * room
    over_lanes(kernels.choose_far, len(mine), mine, pairs, owners[:given], found, sizes, table.numpy())


def _near_plain(index: ItemIndex, lanes: Lanes, chosen: torch.Tensor, table: torch.Tensor) -> None:
    """The same without compiled code, and with the state as it is instead of in bytes."""
    for line, lane in enumerate(chosen.tolist()):
        known = lanes.unexpanded[lane] & (lanes.slots[lane] >= 0) & (lanes.beam.rows[lane] != NO_ROW)
        places = torch.nonzero(known)[: int(lanes.widths[lane]), 0]
        lanes.unexpanded[lane, places] = False
        tangents = lanes.tangents[lane, lanes.slots[lane, places]]
        neighbors = index.neighbors[lanes.beam.rows[lane, places]].long()
        states = index.state[neighbors.clamp(min=0)]
        estimates = (states * tangents[:, None, :-1]).sum(dim=2) + tangents[:, -1:]
        best = torch.full((len(index.versions),), -torch.inf, device=index.device)
        real = neighbors != NO_NEIGHBOR
        best.scatter_reduce_(0, neighbors[real], estimates[real], "amax")
        _write_best(table[line], best.masked_fill_(lanes.marks[lane] != 0, -torch.inf), int(lanes.pairs[lane]))


def _far_plain(index: ItemIndex, lanes: Lanes, chosen: torch.Tensor, table: torch.Tensor) -> None:
    for line, lane in enumerate(chosen.tolist()):
        known = (lanes.slots[lane] >= 0) & (lanes.beam.rows[lane] != NO_ROW)
        slopes = lanes.tangents[lane, lanes.slots[lane][known], :-1]
        if len(slopes) == 0:
            continue
        centres = _clustered(slopes, int(lanes.clusters[lane]))
        barred = (lanes.marks[lane] != 0) | (index.versions <= 0)
        taken = 0
        for number, centre in enumerate(centres):
            share = (int(lanes.pairs[lane]) - taken) // (len(centres) - number)
            products = (index.state @ centre).masked_fill(barred, -torch.inf)
            found = _write_best(table[line, taken:], products, share)
            barred[found] = True
            taken += len(found)


def _write_best(line: torch.Tensor, values: torch.Tensor, count: int) -> torch.Tensor:
    """Write the rows of the largest finite values, at most ``count``, best first; returns them."""
    best = values.topk(min(count, len(values)))
    found = best.indices[torch.isfinite(best.values)]
    line[: len(found)] = found
    return found


def _clustered(slopes: torch.Tensor, clusters: int) -> torch.Tensor:
    """k-means as `engine.kernels.tangents.cluster` does it; float32[≤ clusters, S]."""
    centres = slopes[:1]
    while len(centres) < min(clusters, len(slopes)):
        nearest = (slopes[:, None] - centres[None]).square().sum(dim=2).amin(dim=1)
        farthest = int(nearest.argmax())
        if nearest[farthest] == 0:
            break
        centres = torch.cat([centres, slopes[farthest][None]])
    for _ in range(_CLUSTER_ROUNDS):
        owner = (slopes[:, None] - centres[None]).square().sum(dim=2).argmin(dim=1)
        members = torch.nn.functional.one_hot(owner, len(centres)).to(slopes.dtype)
        counts = members.sum(dim=0)
        centres = torch.where(counts[:, None] > 0, members.T @ slopes / counts.clamp(min=1)[:, None], centres)
    return centres
