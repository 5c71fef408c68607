import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine import tiles


@given(st.lists(st.integers(0, 200), min_size=1, max_size=8))
def test_joining_undoes_cutting(counts: list[int]) -> None:
    """Every pair comes out once, in its place, whatever the lanes' sizes."""
    offsets = np.concatenate([[0], np.cumsum(counts)])
    rows = torch.arange(offsets[-1]) + 7
    cut = tiles.cut(rows, offsets)
    assert torch.equal(cut.join(cut.rows.float()), rows.float())


@given(st.lists(st.integers(0, 200), min_size=1, max_size=8))
def test_a_tile_holds_one_lane(counts: list[int]) -> None:
    """All the pairs of a tile belong to the lane that the tile names."""
    offsets = np.concatenate([[0], np.cumsum(counts)])
    lane_of_pair = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    cut = tiles.cut(lane_of_pair, offsets)
    named = torch.from_numpy(cut.lanes)[:, None].expand_as(cut.rows)
    assert torch.equal(cut.rows[cut.real], named[cut.real])


@given(st.integers(0, 1000))
def test_operands_have_few_lengths(needed: int) -> None:
    """An operand is long enough and never so short that a library changes its routine."""
    assert tiles.operand_length(needed) >= max(8, needed)
    assert tiles.operand_length(needed) % 8 == 0
