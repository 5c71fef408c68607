from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch

from engine import neighbors as plain
from engine.index import NO_NEIGHBOR, ItemIndex
from engine.kernels import neighbors as compiled
from engine.metric import InnerProduct
from engine.neighbors import Candidates, Points
from tests.engine.indexes import DIMENSIONS, mlp_metric, random_index

BOTH = [plain, compiled]


@pytest.fixture
def threads() -> Iterator[None]:
    """Whatever a test makes of torch's threads is undone."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def recall(found: Candidates, truth: Candidates) -> float:
    """Share of the true rows that were found."""
    pairs = zip(found.rows.tolist(), truth.rows.tolist(), strict=True)
    return float(np.mean([len(set(mine) & set(true)) / len(true) for mine, true in pairs]))


@pytest.mark.parametrize("among", [0, 3, 300, 20_000])
def test_both_compare_with_every_row(among: int) -> None:
    """The same nearest from torch and from the kernel, over several blocks too, without the unusable and oneself."""
    rng = torch.Generator().manual_seed(among)
    points, usable = torch.randn(among, 9, generator=rng), torch.rand(among, generator=rng) < 0.7
    targets = torch.cat([points[:2], torch.randn(300, 9, generator=rng)])
    own = torch.arange(len(targets)).masked_fill(torch.arange(len(targets)) >= min(2, among), NO_NEIGHBOR)
    expected, found = (arithmetic.exact(targets, points, usable, own, 12) for arithmetic in BOTH)
    assert torch.equal(found.rows, expected.rows)
    assert torch.allclose(found.distances, expected.distances, atol=1e-4)
    assert usable[found.rows[found.rows >= 0]].all()
    assert not (found.rows == own[:, None].masked_fill(own[:, None] < 0, -2)).any()


def pools(rng: np.random.Generator, rows: int, count: int, width: int) -> torch.Tensor:
    """Candidates int32[count, width] with repeats and gaps."""
    return torch.from_numpy(rng.integers(-1, rows, (count, width)).astype(np.int32))


@pytest.mark.parametrize(("dimensions", "width", "degree"), [(3, 5, 8), (12, 90, 16), (70, 200, 64), (1, 40, 4)])
def test_both_choose_the_same_links(dimensions: int, width: int, degree: int) -> None:
    """From the same pools the same links, at the same distances, ties to the lowest row.

    Coordinates are small integers and α² is exact: every sum is, in whatever order.
    """
    rng = np.random.default_rng(width)
    stored = torch.from_numpy(rng.integers(-4, 5, (150, dimensions + 3)).astype(np.float32))[:, :dimensions]
    fresh = torch.from_numpy(rng.integers(-4, 5, (20, dimensions)).astype(np.float32))
    place = torch.zeros(160, dtype=torch.int32)
    place[140:] = torch.arange(1, 21, dtype=torch.int32)
    points, rows = Points(stored, fresh, place), torch.from_numpy(rng.choice(160, 120))
    pool = pools(rng, 160, len(rows), width)
    expected, found = (arithmetic.pruned(points, rows, pool, degree, 1.5) for arithmetic in BOTH)
    assert torch.equal(found.rows, expected.rows)
    assert torch.equal(found.distances, expected.distances)
    assert (found.rows != rows[:, None]).all()


@pytest.mark.parametrize(("dimensions", "chosen", "degree"), [(3, 5, 8), (12, 16, 16), (70, 64, 64)])
def test_both_link_back_alike(dimensions: int, chosen: int, degree: int) -> None:
    """Rows that more of a batch chose than they have places for, and rows that nobody chose, get the same links."""
    rng = np.random.default_rng(chosen)
    points = Points(
        torch.from_numpy(rng.integers(-4, 5, (150, dimensions)).astype(np.float32)),
        torch.from_numpy(rng.integers(-4, 5, (100, dimensions)).astype(np.float32)),
        torch.cat([torch.zeros(150, dtype=torch.int32), torch.arange(1, 101, dtype=torch.int32)]),
    )
    new = torch.arange(150, 250)
    links = plain.pruned(points, new, pools(rng, 90, len(new), chosen), degree, 1.5)
    rows = torch.cat([torch.arange(0, 100), new])
    before = plain.pruned(points, rows, pools(rng, 150, len(rows), degree), degree, 1.5).rows
    expected, found = before.clone(), before.clone()
    for arithmetic, adjacency in zip(BOTH, (expected, found), strict=True):
        arithmetic.link_back(points, rows, adjacency, new, links, 1.5)
    assert torch.equal(found, expected)
    assert torch.equal(found[90:], before[90:])
    assert not torch.equal(found[:90], before[:90])


@pytest.mark.parametrize("rows", [0, 1, 700])
def test_both_find_who_links_to_some(rows: int) -> None:
    """Of rows with gaps among their links, in a column beside another one; nobody links to what is not there."""
    rng = np.random.default_rng(rows)
    links = torch.from_numpy(rng.integers(-1, max(rows, 1), (rows, 9)).astype(np.int32))[:, 4:]
    wanted = torch.from_numpy(rng.random(rows) < 0.05)
    chosen = set(wanted.nonzero()[:, 0].tolist())
    expected = [bool(chosen & set(line)) for line in links.tolist()]
    for arithmetic in BOTH:
        assert arithmetic.linking_to(links, wanted).tolist() == expected


@pytest.mark.parametrize("arithmetic", BOTH)
def test_the_walk_finds_the_nearest(arithmetic: ModuleType) -> None:
    """A walk of the graph comes to nearly all of the true nearest, whichever code walks."""
    index = random_index(mlp_metric(), rows=1500, batch=500, degree=16)
    targets = torch.randn(300, DIMENSIONS, generator=torch.Generator().manual_seed(1))
    nobody, everyone = torch.full((300,), NO_NEIGHBOR), torch.ones(index.rows, dtype=torch.bool)
    truth = plain.exact(targets, index.points[: index.rows], everyone, nobody, 24)
    found = arithmetic.walked(index, targets, 24)
    assert recall(found, truth) > 0.9
    assert (found.distances.diff(dim=1) >= 0).all()
    true_distances = (index.points[found.rows] - targets[:, None]).square().sum(dim=2)
    assert torch.allclose(found.distances, true_distances, rtol=1e-4)


@pytest.mark.parametrize("arithmetic", BOTH)
def test_a_walk_of_an_empty_index_finds_nothing(arithmetic: ModuleType) -> None:
    """Without seeds there is nowhere to begin."""
    found = arithmetic.walked(ItemIndex(InnerProduct(DIMENSIONS), degree=8), torch.zeros(3, DIMENSIONS), 10)
    assert (found.rows == NO_NEIGHBOR).all()


@pytest.mark.usefixtures("threads")
def test_threads_change_nothing() -> None:
    """Walks and links are equal to the bit on one thread and on three."""
    index = random_index(mlp_metric(), rows=800, batch=400)
    rng = np.random.default_rng(2)
    points = Points.of(index, torch.zeros(0, dtype=torch.int64), index.points[:0])
    pool, rows = pools(rng, 800, 800, 60), torch.arange(800)
    answers = []
    for count in (1, 3):
        torch.set_num_threads(count)
        walked = compiled.walked(index, index.points[:800] + 0.1, 20)
        pruned = compiled.pruned(points, rows, pool, 8, 1.2)
        few, adjacency = Candidates(pruned.rows[600:], pruned.distances[600:]), pruned.rows.clone()
        compiled.link_back(points, rows, adjacency, rows[600:], few, 1.2)
        answers.append((walked.rows, walked.distances, pruned.rows, pruned.distances, adjacency))
    assert all(torch.equal(one, other) for one, other in zip(*answers, strict=True))
