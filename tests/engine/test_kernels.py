import math
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import njit

from engine import kernels
from engine.kernels import config, fingerprint
from engine.kernels.byte_products import CENTRES, matrix_unit
from engine.kernels.columns import ItemColumns
from engine.kernels.exponentials import exp, log
from engine.kernels.float_products import QUAD
from engine.kernels.instructions import LANES
from engine.kernels.marks import HIGHEST_FLOOR, STEP, VISITED
from engine.kernels.products import PANEL, ROWS, multiply, multiply_rows, padded
from engine.kernels.ranking import key_of, number_of, order_of, row_of, select, sort, value_of
from engine.kernels.rounds import take_best
from engine.kernels.scan import ROOM, SPARE, ZERO, Scanned, centre_bytes, find_along, scan
from engine.kernels.tangents import cluster, estimate_neighbors
from engine.sketch import Sketch

UNITS = {"vectors": None} | ({"matrix unit": matrix_unit()} if matrix_unit() is not None else {})
"""By what a scan multiplies: the matrix unit where there is one, which the head of a run tells."""


@njit
def product(a, b, rows):
    """``multiply`` for Python."""
    out = np.zeros((len(a), b.shape[1]), np.float32)
    multiply(a, b, np.zeros(b.shape[1], np.float32), out, rows)
    return out


@njit
def exponentials(values):
    """``exp`` of each."""
    out = np.empty_like(values)
    for i in range(len(values)):
        out[i] = exp(values[i])
    return out


@njit
def logarithms(values):
    """``log`` of each."""
    out = np.empty_like(values)
    for i in range(len(values)):
        out[i] = log(values[i])
    return out


@njit
def products_of_rows(table, rows, others, quads, count):
    """``multiply_rows`` for Python."""
    out = np.zeros((QUAD * len(quads), LANES), np.float32)
    multiply_rows(table, rows, others, quads, count, out)
    return out[:count]


def test_what_was_compiled_is_known_by_all_sources(tmp_path: Path) -> None:
    """A change of any file, a new one or another name: another fingerprint. The same again: the same."""
    seen = set()
    for name, text in (("a.py", "1"), ("a.py", "2"), ("b.py", "2"), ("b.py", ""), ("note.txt", "no source")):
        (tmp_path / name).write_text(text)
        seen.add(fingerprint(tmp_path))
    assert len(seen) == 4
    assert config.CACHE_DIR.endswith(fingerprint(Path(kernels.__file__).parent))


def sketch_of(vectors: np.ndarray) -> Sketch:
    """All of these vectors in bytes."""
    sketch = Sketch(vectors.shape[1])
    sketch.write(torch.from_numpy(vectors), np.arange(len(vectors)))
    return sketch


@pytest.mark.parametrize("depth", [1, 8, 64, 193])
@pytest.mark.parametrize("rows", [ROWS, 5 * ROWS])
@pytest.mark.parametrize("width", [PANEL, 6 * PANEL, 11 * PANEL])
def test_a_product_is_the_product(depth: int, rows: int, width: int) -> None:
    """Of every shape that its padding allows; rows beyond those asked for stay untouched."""
    rng = np.random.default_rng(depth)
    a = rng.normal(size=(rows + ROWS, depth)).astype(np.float32)
    b = rng.normal(size=(depth, width)).astype(np.float32)
    out = product(a, b, rows)
    np.testing.assert_allclose(out[:rows], a[:rows] @ b, rtol=2e-5, atol=2e-5)
    assert not out[rows:].any()


def test_a_rows_bits_do_not_depend_on_the_others() -> None:
    """Equal rows give equal bits at any place, beside any other rows, whatever their number."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(6 * ROWS, 64)).astype(np.float32)
    b = rng.normal(size=(64, PANEL)).astype(np.float32)
    alone = np.zeros((ROWS, 64), np.float32)
    expected = product(a, b, len(a))
    for row in range(len(a)):
        alone[:] = 0
        alone[row % ROWS] = a[row]
        np.testing.assert_array_equal(product(alone, b, ROWS)[row % ROWS], expected[row])


def test_exponentials_are_within_two_units_of_the_last_place() -> None:
    """From where float32 has no smaller numbers worth keeping to the largest; below that 0."""
    values = np.linspace(-86.99, 88, 400_001, dtype=np.float32)
    exact = np.exp(values.astype(np.float64))
    assert (np.abs(exponentials(values) - exact) <= 2.4e-7 * exact).all()
    assert not exponentials(np.array([-88, -1e30, -np.inf], np.float32)).any()


def test_logarithms_are_within_two_units_of_the_last_place() -> None:
    """Of what sums of exponentials can be, and of everything else that is normal."""
    values = np.concatenate([np.linspace(0.5, 130, 400_001), np.geomspace(1.2e-38, 3e38, 100_001)]).astype(np.float32)
    exact = np.log(values.astype(np.float64))
    assert (np.abs(logarithms(values) - exact) <= 2.4e-7 * np.maximum(np.abs(exact), 0.1)).all()
    assert logarithms(np.ones(1, np.float32)) == 0


@pytest.mark.parametrize("dimensions", [4, 12, 64, 256])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 9, 14, 23])
def test_products_of_rows_are_the_products(dimensions: int, count: int) -> None:
    """Of any rows of a table with others; a row's bits depend on neither its place nor the rows beside it."""
    rng = np.random.default_rng(dimensions)
    table = rng.normal(size=(LANES + 1, dimensions + 3)).astype(np.float32)
    others = np.zeros((padded(count, QUAD), padded(dimensions, PANEL)), np.float32)
    others[:, :dimensions] = rng.normal(size=(len(others), dimensions))
    fours = others[:, :dimensions].reshape(-1, QUAD, dimensions // QUAD, QUAD)
    others, quads = others[:count], np.ascontiguousarray(fours.transpose(0, 2, 1, 3))
    rows = 1 + rng.permutation(LANES)  # the last among them, behind which there is nothing to read
    found = products_of_rows(table, rows, others, quads, count)
    expected = others[:, :dimensions].astype(np.float64) @ table[rows, :dimensions].T
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(products_of_rows(table, rows[::-1].copy(), others, quads, count), found[:, ::-1])
    np.testing.assert_array_equal(
        products_of_rows(table, np.repeat(rows[:1], LANES), others, quads, count), found[:, :1].repeat(LANES, 1)
    )


VALUES = st.integers(-5, 5) | st.sampled_from([-(2**31), 2**31 - 1])


@settings(deadline=None)  # the first call compiles
@given(st.lists(VALUES, max_size=60), st.data())
def test_the_largest_come_to_the_front(values: list[int], data: st.DataObject) -> None:
    """Of a part of a line, as many as are kept, each still with its row; what is around it stays untouched."""
    first = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(first, len(values)))
    keep = data.draw(st.integers(0, stop - first))
    lines = np.full((3, 60), 99)
    before = lines[1, : len(values)] = [key_of(value, row) for row, value in enumerate(values)]
    select(lines, 1, first, stop, keep)
    assert lines[1, :first].tolist() == before[:first]
    assert lines[1, stop : len(values)].tolist() == before[stop:]
    front, part = lines[1, first : first + keep].tolist(), sorted(before[first:stop], reverse=True)
    assert sorted(front, reverse=True) == part[:keep]
    assert sorted(lines[1, first:stop].tolist(), reverse=True) == part
    assert (lines[[0, 2]] == 99).all()


@settings(deadline=None)  # the first call compiles
@given(st.lists(VALUES, max_size=60))
def test_the_largest_are_sorted_first(values: list[int]) -> None:
    """Of equal values the lowest row is."""
    lines = np.full((3, 60), 99)
    lines[1, : len(values)] = [key_of(value, row) for row, value in enumerate(values)]
    sort(lines, 1, len(values), np.empty(60, np.int64))
    found = [(value_of(key), row_of(key)) for key in lines[1, : len(values)].tolist()]
    assert found == sorted(zip(values, range(len(values)), strict=True), key=lambda pair: (-pair[0], pair[1]))
    assert (lines[[0, 2]] == 99).all()


@settings(deadline=None)  # the first call compiles
@example([-np.inf, -0.0, 0.0, np.inf])
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2))
def test_keys_order_as_their_floats_do(floats: list[float]) -> None:
    """Infinities too; of two zeros the negative one is less."""
    keys = [order_of(np.float32(number)) for number in floats]
    assert all(-(2**31) <= key < 2**31 for key in keys)
    signed = [(number, math.copysign(1, number)) for number in floats]
    for a, b in combinations(range(len(floats)), 2):
        assert (keys[a] < keys[b]) == (signed[a] < signed[b])


def test_keys_that_are_all_equal_are_chosen_from_in_little_time() -> None:
    """A hundred thousand equal ones and one less: were each step to drop one of them, this would take minutes."""
    keys = np.ones((1, 100_001), np.int64)
    keys[0, 0] = 0
    select(keys, 0, 0, 100_001, 50_000)
    assert keys[0, :50_000].all()


@pytest.mark.parametrize("rows", [1, 40, 5_003])
@pytest.mark.parametrize("dimensions", [5, 64, 70])
@pytest.mark.parametrize("keep", [1, 20])
@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_a_scan_finds_the_best_unmarked_rows_of_every_centre(
    rows: int, dimensions: int, keep: int, unit: np.ndarray | None
) -> None:
    """Compared with all products of the same bytes, the best half at least; padding centres find nothing."""
    rng = np.random.default_rng(rows)
    vectors = rng.normal(size=(rows, dimensions)).astype(np.float32)
    sketch = sketch_of(vectors)
    width = 4 * sketch.interleaved.shape[1]
    versions = np.where(rng.random(rows) < 0.8, 7, -7)
    centres = np.zeros((2 * CENTRES, width), np.int8)
    wanted = rng.normal(size=(11, dimensions)).astype(np.float32)
    for centre in range(11):
        centre_bytes(wanted, centre, sketch.scales, centres, centre)
    lanes = np.where(np.arange(2 * CENTRES) < 11, np.arange(2 * CENTRES) % 3, -1)
    shape, floors = (3, len(sketch.interleaved) * LANES + 7), np.array([STEP, 100, HIGHEST_FLOOR])
    marks = np.where(rng.random(shape) < 0.3, rng.integers(0, 256, shape), 0).astype(np.uint8)
    keys, sizes, keeps = np.empty((len(lanes), ROOM * keep), np.int64), np.empty_like(lanes), np.full(len(lanes), keep)
    scan(Scanned(sketch.interleaved, versions, rows, centres, lanes, marks, floors), keeps, keys, sizes, unit, SPARE)

    codes = sketch.interleaved.transpose(0, 2, 1, 3).reshape(-1, width)[:rows].astype(np.int64)
    np.testing.assert_array_equal(codes[:, :dimensions], sketch.codes[:rows, :dimensions])
    for centre, lane in enumerate(lanes.tolist()):
        if lane < 0:
            assert sizes[centre] == 0
            continue
        free = (marks[lane, :rows] < floors[lane]) & (versions > 0)
        every = np.where(free, codes @ centres[centre].astype(np.int64), -(2**40))
        expected = np.sort(every[free])[::-1][:keep]
        size = sizes[centre]
        assert len(expected) // 2 <= size <= len(expected)
        found = [row_of(key) for key in keys[centre, :size].tolist()]
        np.testing.assert_array_equal([value_of(key) for key in keys[centre, :size].tolist()], expected[:size])
        ordered = np.lexsort((np.arange(rows), -every))  # of equal ones the lowest rows
        assert found == ordered[:size].tolist()


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_a_scan_with_enough_to_spare_misses_nothing(unit: np.ndarray | None) -> None:
    """The best of a centre side by side, where a sample has them all: the floor that it gives is too high for them."""
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(6_000, 16)).astype(np.float32)
    vectors[:40] = 4 + 0.1 * rng.normal(size=(40, 16))
    sketch, keep = sketch_of(vectors), 60
    centres = np.zeros((CENTRES, 4 * sketch.interleaved.shape[1]), np.int8)
    centre_bytes(np.ones((1, 16), np.float32), 0, sketch.scales, centres, 0)
    owners, marks = np.where(np.arange(CENTRES) == 0, 0, -1), np.zeros((1, len(sketch.interleaved) * LANES), np.uint8)
    floors = np.full(1, STEP)
    scanned = Scanned(sketch.interleaved, np.ones(6_000, np.int64), 6_000, centres, owners, marks, floors)
    keys, sizes = np.empty((CENTRES, ROOM * keep), np.int64), np.zeros(CENTRES, np.int64)
    scan(scanned, np.full(CENTRES, keep), keys, sizes, unit, SPARE)
    assert sizes[0] < keep
    scan(scanned, np.full(CENTRES, keep), keys, sizes, unit, keep)
    assert sizes[0] == keep
    found = np.full((1, keep), -1)
    # The index's own columns: what is compiled is kept with its types, and others are to load it without the tests.
    versions, links = np.ones(6_000, np.int64), np.full((6_000, 1), -1, np.int32)
    items = ItemColumns(versions, versions, links, sketch.codes, sketch.interleaved, sketch.scales)
    find_along(0, 1, np.ones((1, 16), np.float32), np.array([7]), items, 6_000, unit, found)
    assert (found >= 0).all()
    assert set(range(40)) - {7} <= set(found[0].tolist())
    assert 7 not in found


def test_bytes_keep_the_order_of_clearly_different_products() -> None:
    """The best 10 of 2,000 by bytes hold at least 8 of the best 10 by floats, though nothing sets these apart."""
    rng = np.random.default_rng(3)
    vectors = (rng.normal(size=(2_000, 64)) * rng.uniform(0.1, 3, 64)).astype(np.float32)
    sketch = sketch_of(vectors)
    wanted = rng.normal(size=(CENTRES, 64)).astype(np.float32)
    centres = np.zeros((CENTRES, 64), np.int8)
    for centre in range(CENTRES):
        centre_bytes(wanted, centre, sketch.scales, centres, centre)
    keys, sizes = np.empty((CENTRES, ROOM * 10), np.int64), np.empty(CENTRES, np.int64)
    marks, versions = np.zeros((1, len(sketch.interleaved) * LANES), np.uint8), np.ones(2_000, np.int64)
    lanes, keeps = np.zeros(CENTRES, np.int64), np.full(CENTRES, 10)
    scanned = Scanned(sketch.interleaved, versions, 2_000, centres, lanes, marks, np.full(1, STEP))
    scan(scanned, keeps, keys, sizes, matrix_unit(), SPARE)
    exact = np.argsort(-(wanted @ vectors.T), axis=1)[:, :10]
    found = [{row_of(key) for key in line} for line in keys[:, :10].tolist()]
    assert all(len(mine & set(best)) >= 8 for mine, best in zip(found, exact.tolist(), strict=True))


class Neighbourhood(NamedTuple):
    """Of the columns of items those that an estimate reads."""

    codes: np.ndarray
    scales: np.ndarray
    links: np.ndarray


@settings(deadline=None)
@given(seed=st.integers(0, 2**16), parents=st.integers(1, 12))
def test_estimates_are_what_the_tangents_of_parents_say(seed: int, parents: int) -> None:
    """Of every neighbour, by the tangent, in bytes, of every parent that links to it."""
    rng = np.random.default_rng(seed)
    count, dimensions, degree = 90, 8, 6
    sketch = sketch_of(rng.normal(size=(count, dimensions)).astype(np.float32))
    neighbors = rng.integers(-1, count, (count, degree)).astype(np.int32)
    rows = rng.choice(count, parents, replace=False)
    tangents = rng.normal(size=(parents, dimensions + 1)).astype(np.float32)
    found = np.empty((1, parents * degree), np.int64)
    columns = Neighbourhood(sketch.codes, sketch.scales, neighbors)
    slope = np.zeros((1, sketch.codes.shape[1]), np.int8)
    size = estimate_neighbors(columns, rows, tangents, parents, slope, found)
    expected = []
    for place, parent in enumerate(rows):
        step = centre_bytes(tangents, place, sketch.scales, slope, 0)
        for row in neighbors[parent].tolist():
            if row >= 0:
                product = slope[0, :dimensions].astype(int) @ (sketch.codes[row, :dimensions].astype(int) - ZERO)
                expected.append((row, float(step * product + tangents[place, -1])))
    assert [row_of(key) for key in found[0, :size].tolist()] == [row for row, _ in expected]
    estimates = [number_of(value_of(key)) for key in found[0, :size].tolist()]
    np.testing.assert_allclose(estimates, [estimate for _, estimate in expected], rtol=1e-4, atol=1e-4)


class Offered(NamedTuple):
    """Of the columns of items and lanes those that are read and written as rows are taken."""

    versions: np.ndarray
    wanted: np.ndarray
    budgets: np.ndarray
    evaluations: np.ndarray
    marks: np.ndarray
    floors: np.ndarray


@settings(deadline=None)  # the first call compiles
@given(
    seed=st.integers(0, 2**16),
    several=st.integers(0, 400),
    wanted=st.integers(0, 60),
    left=st.integers(0, 60),
    marked=st.floats(0, 1),
    floor=st.integers(1, HIGHEST_FLOOR // STEP).map(lambda step: step * STEP),
)
def test_the_best_rows_are_taken_once_each(
    seed: int, several: int, wanted: int, left: int, marked: float, floor: int
) -> None:
    """Those of the largest keys that are live and unmarked, as far as the budget goes; each is visited then.

    What was marked for others, below the lane's floor, is unmarked.
    """
    rng, count = np.random.default_rng(seed), 80
    rows, values = rng.integers(0, count, several), rng.integers(-50, 50, several)
    found = np.array(
        [[key_of(value, row) for value, row in zip(values.tolist(), rows.tolist(), strict=True)]], np.int64
    )
    marks = np.zeros((2, count), np.uint8)
    marks[1] = np.where(rng.random(count) < marked, floor + rng.integers(1, STEP, count), rng.integers(0, floor, count))
    versions = np.where(rng.random(count) < 0.9, 1, -1)
    before, numbers = marks.copy(), (np.array([0, wanted]), np.array([0, 3 + left]), np.array([0, 3]))
    columns = Offered(versions, *numbers, marks, np.array([STEP, floor]))
    table = np.full((1, 60), -1)
    taken = take_best(columns, columns, 1, found, several, table, 0)
    best_first = dict.fromkeys(rows[np.lexsort((rows, -values))].tolist())
    expected = [row for row in best_first if before[1, row] < floor and versions[row] > 0]
    expected = expected[: min(wanted, left)]
    assert sorted(table[0, :taken].tolist()) == sorted(expected)
    assert (table[0, taken:] == -1).all()
    assert np.flatnonzero((marks != before)[1]).tolist() == sorted(expected)
    assert (marks[1, expected] == floor | VISITED).all()


def test_clusters_are_what_far_groups_have_in_the_middle() -> None:
    """Each centre is the mean of one group; equal gradients make one centre, however many are asked for."""
    rng = np.random.default_rng(4)
    groups = np.eye(4, 16, dtype=np.float32) * 50
    gradients = np.concatenate([group + rng.normal(size=(7, 16)).astype(np.float32) for group in groups])
    centres = np.zeros((4, 16), np.float32)
    assert cluster(gradients, centres) == 4
    means = gradients.reshape(4, 7, 16).mean(axis=1)
    np.testing.assert_allclose(sorted(centres.tolist()), sorted(means.tolist()), rtol=1e-4, atol=1e-4)
    assert cluster(np.repeat(gradients[:1], 9, axis=0), centres) == 1
    np.testing.assert_allclose(centres[0], gradients[0], rtol=1e-5)


def test_a_sketch_follows_its_state() -> None:
    """Rows written one after another, larger and larger, are within half a step of the state, whatever was there."""
    rng = np.random.default_rng(8)
    state = torch.zeros(70, 6)
    sketch = Sketch(6)
    for size in (1.0, 1.1, 40.0, 0.01):
        rows = rng.choice(70, 20, replace=False)
        state[rows] = torch.from_numpy(rng.normal(size=(20, 6)).astype(np.float32) * size)
        sketch.write(state, rows)
        steps = sketch.codes[:, :6].astype(np.float32) - ZERO
        assert (np.abs(steps * sketch.scales - state.numpy()) <= sketch.scales * 0.501).all()
