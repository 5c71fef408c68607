"""What can be wrong with a shard by itself: pure functions on its columns and ids.

id_out_of_range      an id whose row does not exist
row_of_several_ids   two ids share a row
id_of_freed_row      an id whose row holds no item
row_without_id       an item that no id names
row_never_written    a row in use without a version
link_out_of_range    a link to no row
link_to_freed_row    a link to a row without an item
link_to_itself       a link that leads nowhere
link_repeated        the same link twice
row_without_links    an item from which no other is reached
freed_row_with_links a row without an item, still linked to others
value_not_finite     a NaN or an infinity, but for the NaN of an item without a number
"""

from collections.abc import Iterator, Mapping

import numpy as np

from engine.index import NO_NEIGHBOR


def row_faults(ids: Mapping[str, int], versions: np.ndarray) -> Iterator[tuple[str, str]]:
    """Whether ids and live rows belong to each other one to one. versions: int64[rows]."""
    owner: dict[int, str] = {}
    for item, row in ids.items():
        if not 0 <= row < len(versions):
            yield "id_out_of_range", f"{item!r}: row {row} of {len(versions)}"
        elif row in owner:
            yield "row_of_several_ids", f"row {row}: {owner[row]!r} and {item!r}"
        else:
            owner[row] = item
            if versions[row] <= 0:
                yield "id_of_freed_row", f"{item!r}: row {row}"
    for row in np.flatnonzero(versions > 0).tolist():
        if row not in owner:
            yield "row_without_id", f"row {row}"
    for row in np.flatnonzero(versions == 0).tolist():
        yield "row_never_written", f"row {row}"


def link_faults(neighbors: np.ndarray, live: np.ndarray, *, needed: bool = True) -> Iterator[tuple[str, str]]:
    """Whether the graph leads from items to other items only. neighbors: int32[rows, R], live: bool[rows].

    needed: whether a row that has none is at fault, where there are others.
    """
    used = neighbors != NO_NEIGHBOR
    outside = used & ((neighbors < 0) | (neighbors >= len(live)))
    valid = used & ~outside
    itself = valid & (neighbors == np.arange(len(live))[:, None])
    dead = np.zeros_like(used)
    dead[valid] = ~live[neighbors[valid]]
    for kind, wrong in (
        ("link_out_of_range", outside & live[:, None]),
        ("link_to_freed_row", dead & live[:, None]),
        ("link_to_itself", itself),
        ("link_repeated", _repeated(neighbors) & valid),
    ):
        for row, place in np.argwhere(wrong).tolist():
            yield kind, f"row {row} to {neighbors[row, place]}"
    for row in np.flatnonzero(~live & used.any(axis=1)).tolist():
        yield "freed_row_with_links", f"row {row}"
    if needed and np.count_nonzero(live) > 1:
        for row in np.flatnonzero(live & ~used.any(axis=1)).tolist():
            yield "row_without_links", f"row {row}"


def unlinked_rows(neighbors: np.ndarray, live: np.ndarray) -> np.ndarray:
    """The live rows that no other links to, int64[n]: they can be answers, but are not found by walking."""
    linked = np.zeros(len(live), dtype=bool)
    linked[neighbors[(neighbors >= 0) & (neighbors < len(live))]] = True
    return np.flatnonzero(live & ~linked) if np.count_nonzero(live) > 1 else np.empty(0, dtype=np.int64)


def value_faults(columns: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str]]:
    """Whether what is scored with and filtered by are numbers; columns: [rows, width] each."""
    for name, values in columns.items():
        if values.dtype.kind == "f":
            wrong = np.isinf(values) if name == "numbers" else ~np.isfinite(values)
            for row in np.flatnonzero(wrong.any(axis=1)).tolist():
                yield "value_not_finite", f"{name} of row {row}"


def _repeated(neighbors: np.ndarray) -> np.ndarray:
    """bool[rows, R]: links to what an earlier place of the same row links to."""
    order = np.argsort(neighbors, axis=1, kind="stable")
    ordered = np.take_along_axis(neighbors, order, axis=1)
    again = np.zeros(neighbors.shape, dtype=bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeated = np.zeros_like(again)
    np.put_along_axis(repeated, order, again, axis=1)
    return repeated
