"""Marks: what a lane knows of rows that it has met, and forgets all at once when the next query comes.

A mark is a floor and bits above it. Every query of a lane has a higher floor than the one before, so that what lies
below was left by others and means nothing: the marks of a lane are undone only when there is no higher floor.
"""

from numba import njit

VISITED, BARRED = 1, 2
"""Bits of a mark: the row was scored, it may not be returned."""

STEP = 4
"""From one floor to the next: so many marks have their bits between."""

HIGHEST_FLOOR = 256 - STEP


@njit(nogil=True, cache=True, inline="always")
def mark_of(lanes, lane, row):
    """The bits of a row's mark, 0 for what was left by others. lanes: of `engine.kernels.columns`."""
    mark = lanes.marks[lane, row]
    return mark if mark >= lanes.floors[lane] else 0


@njit(nogil=True, cache=True, inline="always")
def visit(lanes, lane, row):
    """Mark a row as scored."""
    lanes.marks[lane, row] = max(lanes.marks[lane, row], lanes.floors[lane]) | VISITED
