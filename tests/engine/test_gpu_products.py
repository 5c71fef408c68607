"""The products for GPUs, on one or else in Triton's interpreter, beside the same in plain torch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import directions, gpu_products
from engine.index import ROW_BLOCK
from engine.kernels.marks import STEP
from tests.engine.indexes import DIMENSIONS, METRICS, delete, mlp_metric, random_index

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.skipif(gpu_products.gpu is None, reason="there is no Triton here: install triton")


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


@pytest.mark.parametrize("name", ["mlp", "inner_product"])
@pytest.mark.parametrize(("lanes", "clusters"), [(1, 1), (5, 3), (10, 4)])
def test_what_lies_farthest_is_the_same(name: str, lanes: int, clusters: int) -> None:
    """With rows that are gone, and rows that are marked, some of them for others."""
    index, rng = random_index(METRICS[name](), rows=300, device=DEVICE), np.random.default_rng(lanes)
    delete(index, rng.choice(300, 100, replace=False))
    floors = STEP * rng.integers(1, 60, lanes)
    marks = np.zeros((lanes + 2, index.capacity + 1), np.uint8)
    mine = rng.permutation(lanes + 2)[:lanes]
    for lane, floor in zip(mine, floors, strict=True):
        marks[lane] = np.where(rng.random(marks.shape[1]) < 0.4, rng.integers(0, 256, marks.shape[1]), floor - 1)
    centres = rng.normal(size=(lanes, clusters, index.state.shape[1])).astype(np.float32)
    given = (torch.from_numpy(array).to(DEVICE) for array in (marks, mine, floors, centres))
    asked = (index, *given, 9, 5 * ROW_BLOCK)
    found, expected = directions.along_fused(*asked), directions.along(*asked)
    assert (expected >= 0).all()
    different = (found != expected).any(dim=2).sum()  # blocks are chosen by ten bits, and two may be as good by these
    assert different <= 0.1 * lanes * clusters


def test_nothing_that_is_left_is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all rows are marked, none is found."""
    index = random_index(mlp_metric(), rows=100, device=DEVICE)
    marks = torch.full((1, index.capacity + 1), STEP, dtype=torch.uint8, device=DEVICE)
    lane, centre = torch.zeros(1, dtype=torch.int64, device=DEVICE), torch.ones(1, 1, DIMENSIONS + 4, device=DEVICE)
    asked = index, marks, lane, lane + STEP, centre, 5, 2 * ROW_BLOCK
    assert (directions.along_fused(*asked) == -1).all()
    assert (directions.along(*asked) == -1).all()


def test_a_device_that_triton_does_not_serve_is_searched_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU is not; nor is a GPU whose driver does not fit, which is said."""
    assert not gpu_products.usable(torch.device("cpu"))

    def broken(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(gpu_products, "row_products", broken)
    monkeypatch.setattr(torch, "ones", lambda *_, **__: None)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    with pytest.warns(UserWarning, match="plain torch, since Triton does not run on cuda:7: Failed to find"):
        assert not gpu_products.usable(torch.device("cuda:7"))
