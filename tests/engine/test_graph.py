from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import graph
from engine import neighbors as plain
from engine.errors import InvalidColumns
from engine.graph import GraphParams, plan_delete, plan_insert
from engine.index import NO_NEIGHBOR, ItemIndex
from engine.kernels import neighbors as compiled
from engine.metric import InnerProduct
from engine.relevance import plan_forget, plan_relevant
from tests.engine.indexes import DIMENSIONS, METRICS, delete, insert, mlp_metric, random_index


def check_adjacency(index: ItemIndex) -> None:
    """No row links to itself, twice to another, or to a row without an item, with either kind of link."""
    live = index.versions[: index.rows].numpy() > 0
    kinds = (index.neighbors[: index.rows].tolist(), index.relevant[: index.rows].tolist())
    for row, links in (pair for kind in kinds for pair in enumerate(kind)):
        present = [link for link in links if link != NO_NEIGHBOR]
        assert row not in present
        assert len(set(present)) == len(present)
        assert all(live[link] for link in present)
        assert links == present + [NO_NEIGHBOR] * (len(links) - len(present))


def reachable(index: ItemIndex) -> int:
    """How many rows a walk from the seeds can come to."""
    seen = set(index.seeds.tolist())
    frontier = seen
    while frontier:
        links = {link for row in frontier for link in index.neighbors[row].tolist() if link != NO_NEIGHBOR}
        frontier = links - seen
        seen = seen | links
    return len(seen)


def clusters(rng: np.random.Generator) -> np.ndarray:
    """Twenty tight crowds far from each other, in no order."""
    centres = 20 * rng.normal(size=(20, DIMENSIONS))
    return rng.permutation(np.repeat(centres, 60, axis=0) + rng.normal(size=(1200, DIMENSIONS)))


def gauss(rng: np.random.Generator) -> np.ndarray:
    """One wide crowd."""
    return rng.normal(size=(1200, DIMENSIONS))


@pytest.mark.parametrize("points", [gauss, clusters])
@pytest.mark.parametrize("batch", [1, 7, 400])
def test_every_item_can_be_reached(points: Callable[[np.random.Generator], np.ndarray], batch: int) -> None:
    """Inserted one by one or hundreds at once, crowded or not: a walk from the seeds comes to nearly every item."""
    vectors = points(np.random.default_rng(5)).astype(np.float32)[:: 3 if batch == 1 else 1]
    index = ItemIndex(InnerProduct(DIMENSIONS), degree=12)
    none = np.zeros((len(vectors), 0), dtype=np.float32)
    for version, start in enumerate(range(0, len(vectors), batch), start=1):
        rows = np.arange(start, min(start + batch, len(vectors)))
        insert(index, rows, vectors[rows], none[rows], version, GraphParams(candidates=32))
    check_adjacency(index)
    assert reachable(index) >= 0.99 * len(vectors)


@pytest.mark.parametrize("name", sorted(METRICS))
@pytest.mark.parametrize("exact_below", [50_000, 0])
@pytest.mark.parametrize("arithmetic", [plain, compiled])
def test_a_built_graph_is_sound(
    name: str, exact_below: int, arithmetic: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether candidates come from comparing or from walking, in torch or compiled: sound, nearly all reachable."""
    monkeypatch.setattr(graph, "arithmetic", lambda _: arithmetic)
    params = GraphParams(candidates=24, exact_below=exact_below)
    index = random_index(METRICS[name](), rows=400, batch=40, params=params)
    check_adjacency(index)
    assert reachable(index) >= 0.98 * index.rows


@given(st.integers(0, 2**32), st.integers(1, 60))
@settings(max_examples=20, deadline=None)
def test_nothing_links_to_a_deleted_row(seed: int, count: int) -> None:
    """After a planned delete is applied no row links to what is gone, and the rest stays sound."""
    rng = np.random.default_rng(seed)
    index = random_index(mlp_metric(), rows=150)
    gone = rng.choice(150, count, replace=False)
    delete(index, gone)
    check_adjacency(index)
    assert (index.links[torch.from_numpy(gone)] == NO_NEIGHBOR).all()


@pytest.mark.parametrize("left", [1, 2, 20])
def test_whoever_survives_a_mass_deletion_is_linked(left: int) -> None:
    """Rows that lost all their neighbours, and those neighbours' neighbours, are linked to others that stay."""
    index = random_index(mlp_metric(), rows=1000)
    staying = np.random.default_rng(3).choice(1000, left, replace=False)
    delete(index, np.setdiff1d(np.arange(1000), staying))
    check_adjacency(index)
    links = index.neighbors[torch.from_numpy(staying)]
    assert (links != NO_NEIGHBOR).any(dim=1).all() == (left > 1)
    assert reachable(index) == left


def test_a_plan_touches_nothing() -> None:
    """Planning reads the index and leaves every column as it was."""
    index = random_index(mlp_metric(), rows=100)
    before = [column.clone() for column in (index.versions, index.links, index.state)]
    plan_insert(index, np.array([100, 101]), torch.randn(2, DIMENSIONS), GraphParams())
    plan_delete(index, np.array([3]), GraphParams())
    plan_relevant(index, np.array([5, 99]))
    plan_forget(index, np.array([3]))
    after = (index.versions, index.links, index.state)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_the_nearest_row_is_linked() -> None:
    """An item next to another one is linked with it, both ways."""
    index = random_index(mlp_metric(), rows=200)
    beside = index.points[17:18] + 1e-3
    change = plan_insert(index, np.array([200]), beside, GraphParams(candidates=24))
    adjacency = dict(zip(change.rows.tolist(), change.neighbors.tolist(), strict=True))
    assert adjacency[200][0] == 17
    assert adjacency[17][0] == 200


def test_an_update_in_place_is_linked_anew() -> None:
    """A row whose vector moved gets the neighbours of its new place."""
    index = random_index(mlp_metric(), rows=200)
    change = plan_insert(index, np.array([4]), index.points[90:91] + 1e-3, GraphParams(candidates=24))
    adjacency = dict(zip(change.rows.tolist(), change.neighbors.tolist(), strict=True))
    assert adjacency[4][0] == 90
    assert 4 not in adjacency[4]


def test_graph_parameters_are_checked() -> None:
    """α below 1 would prune everything."""
    with pytest.raises(InvalidColumns, match="alpha"):
        GraphParams(alpha=0.5)
