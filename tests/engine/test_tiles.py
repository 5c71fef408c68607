import torch
from hypothesis import given
from hypothesis import strategies as st

from engine import tiles

counts_of_lines = st.lists(st.integers(0, 200), min_size=1, max_size=8)


def pairs(counts: list[int]) -> torch.Tensor:
    """Lines of so many rows, all different, −1 behind them."""
    rows = torch.full((len(counts), max(counts)), -1)
    for line, count in enumerate(counts):
        rows[line, :count] = torch.arange(count) + 1_000 * line
    return rows


@given(counts_of_lines)
def test_joining_undoes_cutting(counts: list[int]) -> None:
    """Every pair comes out once, in its place, whatever the lines' lengths; also with something behind each."""
    rows = pairs(counts)
    cut = tiles.cut(rows)
    assert torch.equal(cut.join(cut.rows, -1), rows)
    twice = torch.stack([cut.rows, cut.rows + 1], dim=2)
    assert torch.equal(cut.join(twice, -1)[:, :, 1], torch.where(rows >= 0, rows + 1, -1))


@given(counts_of_lines)
def test_a_tile_holds_one_line(counts: list[int]) -> None:
    """All the pairs of a tile belong to the line that the tile names."""
    cut = tiles.cut(pairs(counts))
    named = cut.lines[:, None].expand_as(cut.rows)
    assert torch.equal(cut.rows[cut.real] // 1_000, named[cut.real])
    assert cut.rows.shape[1] == tiles.TILE_ROWS
