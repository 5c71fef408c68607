"""What a step does beside scoring, in compiled code, on several cores: the functions of `engine.rounds`, on CPUs."""

from collections.abc import Callable

import numpy as np
import torch

from engine.directions import CLUSTER_ROUNDS
from engine.index import ItemIndex
from engine.kernels import merging, rounds
from engine.kernels.columns import ItemColumns
from engine.kernels.byte_products import CENTRES, matrix_unit
from engine.kernels.products import padded
from engine.kernels.scan import ROOM, scan
from engine.kernels.threads import over_lanes
from engine.lanes import Lanes
from engine.rounds import EXTRA_FOUND, Choose
from engine.sketch import Sketch

_NO_TANGENTS = np.empty((0, 0, 0), np.float32)


def _by_lane(kernel: Callable[..., None]) -> Choose:
    """A choice that a kernel makes for one lane after the other."""

    def choose(
        index: ItemIndex, lanes: Lanes, chosen: np.ndarray, lines: np.ndarray, table: torch.Tensor, counts: torch.Tensor
    ) -> None:
        given = (chosen, lines, _items(index), lanes.columns, table.numpy(), counts.numpy())
        over_lanes(kernel, len(chosen), *given)

    return choose


choose_given = _by_lane(rounds.choose_given)
choose_near = _by_lane(rounds.choose_near)
choose_linked = _by_lane(rounds.choose_linked)


def choose_far(
    index: ItemIndex, lanes: Lanes, chosen: np.ndarray, lines: np.ndarray, table: torch.Tensor, counts: torch.Tensor
) -> None:
    """See `engine.rounds.choose_far`: from bytes, each block of rows read once for all lanes of a core."""
    sketch, columns = _sketch(index), lanes.columns
    room = int(lanes.clusters[chosen].max())
    centres = np.zeros((len(chosen) * room, 4 * sketch.groups.shape[1]), np.int8)
    owners = np.full(len(centres), -1)
    over_lanes(
        rounds.make_centres, len(chosen), chosen, CLUSTER_ROUNDS, sketch.scales, columns, room, centres, owners
    )  # fmt: skip
    # A lane whose gradients agree has few centres: they stand close together, and no scan is made for gaps.
    made = np.flatnonzero(owners >= 0)
    several = np.bincount(made // room, minlength=len(chosen))
    ends = np.cumsum(several)
    places = padded(len(made), CENTRES)
    centres, owners = _lengthened(centres[made], places, 0), _lengthened(owners[made], places, -1)
    shares = -(-lanes.pairs[chosen] // np.maximum(several, 1)) * np.where(several > 1, EXTRA_FOUND, 1)
    keeps = _lengthened(np.repeat(shares, several), places, 1)
    most = ROOM * int(keeps.max(initial=1))
    products, found, sizes = (
        np.empty((places, most), np.int32),
        np.empty((places, most), np.int32),
        np.zeros(places, int),
    )

    def scan_part(first: int, last: int) -> None:
        part = slice(first * CENTRES, last * CENTRES)
        scan(
            sketch.groups, index.versions.numpy(), index.rows, centres[part], owners[part], keeps[part], columns.marks,
            products[part], found[part], sizes[part], matrix_unit(),
        )  # fmt: skip

    over_lanes(scan_part, places // CENTRES)
    over_lanes(
        rounds.choose_far, len(chosen), chosen, lines, _items(index), columns, ends, found, sizes, table.numpy(),
        counts.numpy(),
    )  # fmt: skip


def merge(
    index: ItemIndex, lanes: Lanes, chosen: np.ndarray, table: torch.Tensor, counts: torch.Tensor, scores: torch.Tensor,
    tangents: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """See `engine.rounds.merge`."""
    columns = lanes.columns
    done = np.zeros(len(chosen), dtype=np.uint8)
    over_lanes(
        merging.merge, len(chosen), chosen, _items(index), columns, table.numpy(), counts.numpy(), scores.numpy(),
        tangents.numpy() if tangents is not None else _NO_TANGENTS, done,
    )  # fmt: skip
    return torch.from_numpy(done)


def _lengthened(column: np.ndarray, length: int, filling: int) -> np.ndarray:
    """A column that is at least so long, with a filling behind its end."""
    longer = np.full((length, *column.shape[1:]), filling, column.dtype)
    longer[: len(column)] = column
    return longer


def _items(index: ItemIndex) -> ItemColumns:
    sketch = _sketch(index)
    versions, groups, neighbors = (column.numpy() for column in (index.versions, index.groups, index.neighbors))
    return ItemColumns(versions, groups, neighbors, sketch.codes, sketch.scales)


def _sketch(index: ItemIndex) -> Sketch:
    if index.sketch is None:
        raise TypeError("this index is not searched in compiled code")
    return index.sketch
