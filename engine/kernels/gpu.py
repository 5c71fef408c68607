"""Products that are used up where they are made, for GPUs, in Triton: `engine.gpu_products` calls them."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["each"])
def row_products(rows, planes, state, out, each, width: tl.constexpr, padded: tl.constexpr, together: tl.constexpr):
    """What plane p of float32[planes, width + 1] says of states float32[…, width] of rows int64[planes, each].

    out: float32[planes, each], −inf for no row. Programs: a plane, and so many of its rows together. padded: width or
    more, a power of two.
    """
    plane, place = tl.program_id(0).to(tl.int64), tl.program_id(1) * together + tl.arange(0, together)
    d, real = tl.arange(0, padded), place < each
    row = tl.load(rows + plane * each + place, mask=real, other=-1)
    known, inside = row >= 0, d < width
    items = tl.load(state + row[:, None] * width + d[None, :], mask=known[:, None] & inside[None, :], other=0.0)
    slope = tl.load(planes + plane * (width + 1) + d, mask=inside, other=0.0)
    worth = tl.sum(items * slope[None, :], axis=1) + tl.load(planes + plane * (width + 1) + width)
    tl.store(out + plane * each + place, tl.where(known, worth, float("-inf")), mask=real)


@triton.jit(do_not_specialize=["count", "stride", "blocks"])  # they change as a catalogue grows
def block_maxima(
    centres, state, versions, marks, mine, floors, out, count, stride, blocks,
    clusters: tl.constexpr, width: tl.constexpr, tile: tl.constexpr, together: tl.constexpr, depth: tl.constexpr,
):  # fmt: skip
    """The largest product of each of ``count`` centres float32[…, width] with the rows of each block, so many together.

    out: float32[count, blocks]. ``clusters`` centres after each other are of one lane, mine: int64[…]. Rows do not
    count whose marks, uint8[lanes, stride], are no lower than the lane's floor, int64[…], or whose version is not
    positive. Programs: a block, and a tile of centres. depth: dimensions that tensor cores multiply at a time.
    """
    block = tl.program_id(0).to(tl.int64)
    centre, row = tl.program_id(1) * tile + tl.arange(0, tile), block * together + tl.arange(0, together)
    real, lane = centre < count, centre // clusters
    products = tl.zeros((tile, together), tl.float32)
    for first in tl.static_range(0, width, depth):
        d = first + tl.arange(0, depth)
        inside = d < width
        slopes = tl.load(
            centres + centre[:, None] * width + d[None, :], mask=real[:, None] & inside[None, :], other=0.0
        )
        items = tl.load(state + row[None, :] * width + d[:, None], mask=inside[:, None], other=0.0)
        products = tl.dot(slopes, items, products, input_precision="tf32")
    owner, floor = tl.load(mine + lane, mask=real, other=0), tl.load(floors + lane, mask=real, other=0)
    mark = tl.load(marks + owner[:, None] * stride + row[None, :], mask=real[:, None], other=0)
    free = (mark < floor[:, None]) & (tl.load(versions + row) > 0)[None, :]
    largest = tl.max(tl.where(free, products, float("-inf")), axis=1)
    tl.store(out + centre.to(tl.int64) * blocks + block, largest, mask=real)
