"""The products for GPUs, on one or else in Triton's interpreter, beside the same in plain torch."""

import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import directions, gpu_products
from engine.index import ROW_BLOCK, ItemIndex
from engine.kernels.marks import STEP
from tests.engine.indexes import DIMENSIONS, METRICS, delete, mlp_metric, random_index

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytest.importorskip("triton", reason="runs Triton's interpreter: pip install triton, which has wheels for Linux alone")


@given(
    seed=st.integers(0, 2**16),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 70)),
    width=st.sampled_from([1, 12, 16, 68]),
)
@settings(max_examples=15, deadline=None)
def test_planes_say_what_they_say_of_gathered_rows(seed: int, shape: tuple[int, int, int], width: int) -> None:
    """Of every row; of none, −inf."""
    rng = np.random.default_rng(seed)
    state, planes = (
        torch.from_numpy(rng.normal(size=size).astype(np.float32)).to(DEVICE)
        for size in ((90, width), (*shape[:2], width + 1))
    )
    rows = torch.from_numpy(rng.integers(-1, 90, shape)).to(DEVICE)
    found = gpu_products.row_products(state, rows, planes)
    expected = (state[rows] * planes[:, :, None, :-1]).sum(dim=3) + planes[:, :, -1:]
    torch.testing.assert_close(found, expected.masked_fill(rows < 0, -torch.inf), rtol=1e-5, atol=1e-5)


class Sought(NamedTuple):
    """What is looked for, in blocks of which some rows are gone, some marked, and some marked for others only."""

    index: ItemIndex
    marks: torch.Tensor
    mine: torch.Tensor
    floors: torch.Tensor
    centres: torch.Tensor

    @classmethod
    def random(cls, name: str, lanes: int, clusters: int) -> "Sought":
        """Of so many lanes."""
        index, rng = random_index(METRICS[name](), rows=300, device=DEVICE), np.random.default_rng(lanes)
        delete(index, rng.choice(300, 100, replace=False))
        floors, mine = STEP * rng.integers(1, 60, lanes), rng.permutation(lanes + 2)[:lanes]
        marks = np.zeros((lanes + 2, index.capacity + 1), np.uint8)
        for lane, floor in zip(mine, floors, strict=True):
            marks[lane] = np.where(rng.random(marks.shape[1]) < 0.4, rng.integers(0, 256, marks.shape[1]), floor - 1)
        centres = rng.normal(size=(lanes, clusters, index.state.shape[1])).astype(np.float32)
        return cls(index, *(torch.from_numpy(array).to(DEVICE) for array in (marks, mine, floors, centres)))


@pytest.mark.parametrize("name", ["mlp", "inner_product"])
@pytest.mark.parametrize(("lanes", "clusters"), [(1, 1), (5, 3), (50, 3)], ids=str)
def test_the_largest_of_each_block_is_found(name: str, lanes: int, clusters: int) -> None:
    """Of the live and unmarked rows, but for what ten bits of a factor leave out; −inf where there is none."""
    sought = Sought.random(name, lanes, clusters)
    index, marks, mine, floors, centres = sought
    marks[mine[-1], 2 * ROW_BLOCK : 3 * ROW_BLOCK] = floors[-1].to(torch.uint8)
    found = gpu_products.block_maxima(index.state, index.versions, *sought[1:], 5 * ROW_BLOCK)
    products = centres @ index.state[: 5 * ROW_BLOCK].T
    free = (marks[mine, : 5 * ROW_BLOCK] < floors[:, None]) & (index.versions[: 5 * ROW_BLOCK] > 0)
    expected = products.masked_fill(~free[:, None], -torch.inf).reshape(lanes, clusters, 5, ROW_BLOCK).amax(dim=3)
    assert torch.isneginf(expected[-1, :, 2]).all()
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=5e-2 if DEVICE.type == "cuda" else 1e-4)


@pytest.mark.parametrize("keep", [2, 9])
@pytest.mark.parametrize("name", ["mlp", "inner_product"])
def test_what_lies_farthest_is_the_same(name: str, keep: int) -> None:
    """In a few of the blocks, or in all."""
    sought = Sought.random(name, lanes=20, clusters=3)
    found, expected = (find(*sought, keep, 5 * ROW_BLOCK) for find in (directions.along_fused, directions.along))
    assert (expected >= 0).all()
    different = int((found != expected).any(dim=2).sum())  # by ten bits two blocks may be as good
    assert different <= (0 if DEVICE.type == "cpu" else 3)


def test_where_all_rows_are_marked_none_is_found() -> None:
    """Instead of one that may not be."""
    index = random_index(mlp_metric(), rows=100, device=DEVICE)
    marks = torch.full((1, index.capacity + 1), STEP, dtype=torch.uint8, device=DEVICE)
    lane, centre = torch.zeros(1, dtype=torch.int64, device=DEVICE), torch.ones(1, 1, DIMENSIONS + 4, device=DEVICE)
    asked = index, marks, lane, lane + STEP, centre, 5, 2 * ROW_BLOCK
    assert (directions.along_fused(*asked) == -1).all()
    assert (directions.along(*asked) == -1).all()


def test_what_triton_is_tried_with_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kernels, on the device that there is; a wrong product is an error."""
    gpu_products._try(DEVICE)
    monkeypatch.setattr(gpu_products, "row_products", lambda *_: torch.zeros(1))
    with pytest.raises(RuntimeError, match=r"4 ones and 1 are 0\.0, 4 ones 4\.0"):
        gpu_products._try(DEVICE)


def test_a_device_that_triton_does_not_serve_is_searched_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU is not; nor is a GPU whose driver does not fit, which is said."""
    assert not gpu_products.usable(torch.device("cpu"))

    def broken(_: torch.device) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(gpu_products, "_try", broken)
    with pytest.warns(UserWarning, match="plain torch, since Triton does not run on cuda:7: Failed to find"):
        assert not gpu_products.usable(torch.device("cuda:7"))


def test_who_searches_on_a_cpu_loads_no_triton() -> None:
    """It takes long to load, and has a page to say when a process ends."""
    searches = "from engine.warm_up import warm_up; from engine.metric import InnerProduct; warm_up(InnerProduct(8))"
    ended = subprocess.run(
        [sys.executable, "-c", f"{searches}; import sys; print('triton' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (ended.stdout, ended.stderr) == ("False\n", "")
