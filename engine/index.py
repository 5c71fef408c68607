"""A shard in memory: columns over rows, changed between two steps only."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from engine.errors import InvalidColumns
from engine.filters import Filter, compiled_mask, plain_mask
from engine.kernels.byte_products import GROUPS
from engine.kernels.columns import ItemColumns
from engine.kernels.instructions import LANES
from engine.kernels.products import padded
from engine.metric import Metric
from engine.sketch import Sketch

Writes = Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]
"""Column name → [(rows int64[n], values [n, width]), …], in the order in which they apply."""

NO_NEIGHBOR = -1
ROW_BLOCK = GROUPS * LANES
"""The columns have room for whole blocks of rows."""

DEFAULT_SEEDS = 32
"""Rows that a search starts from beside its user's own: the best by prior, and points spread over the space."""

BEST_SEEDS = 2
"""Rows that are best by prior from which every search starts: the prior is a part of δ that no gradient of a user's own
items points at. These rows' own gradients point at the others that are good by prior."""


class ItemIndex:
    """The columns of a shard as the search needs them, each with room (`capacity`) for more rows than in use (`rows`).

    versions: int64[rows], 0 for a row never used, positive for a live item, negative for a deleted one. A row's version
    changes whenever the item in it does.
    state: float32[rows, S], points: float32[rows, G]. links: int32[rows, R + M], of each row its neighbors, nearest
    first, and its relevant rows, most relevant first (see `engine.relevance`); −1 for empty, behind the others of its
    kind. relevant_counts: int16[rows] on the host, how many relevant ones a row has.
    attributes: int64[rows, T], hashes of the tags of an item, then 0. numbers: float64[rows], NaN for none. groups:
    int64[rows], hashes, 0 for none. sketch: the state in bytes, where compiled code searches. seeds: int64[≤
    DEFAULT_SEEDS] and best: int64[≤ BEST_SEEDS], on the host, rows that searches start from.
    """

    def __init__(
        self,
        metric: Metric,
        degree: int,
        attribute_width: int = 1,
        device: torch.device | str = "cpu",
        *,
        relevant: int = 0,
    ) -> None:
        self.metric = metric
        self.degree = degree
        self.device = torch.device(device)
        self.rows = 0
        self.versions = torch.zeros(0, dtype=torch.int64, device=self.device)
        self.links = torch.zeros(0, degree + relevant, dtype=torch.int32, device=self.device)
        self.relevant_counts = np.zeros(0, np.int16)
        self.attributes = torch.zeros(0, attribute_width, dtype=torch.int64, device=self.device)
        self.numbers = torch.zeros(0, dtype=torch.float64, device=self.device)
        self.groups = torch.zeros(0, dtype=torch.int64, device=self.device)
        self.state = metric.encode_items(
            torch.zeros(0, metric.dimensions, device=self.device),
            torch.zeros(0, metric.bias_width, device=self.device),
        )
        self.sketch = Sketch(self.state.shape[1]) if metric.compiled and self.device.type == "cpu" else None
        self.seeds, self.best = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        self._columns: ItemColumns | None = None
        self.capacity = 0
        self._reserve(1)

    @property
    def points(self) -> torch.Tensor:
        """What the graph is built on, float32[capacity, G]."""
        return self.metric.item_vectors(self.state)

    @property
    def neighbors(self) -> torch.Tensor:
        """int32[capacity, R], the first of the links."""
        return self.links[:, : self.degree]

    @property
    def relevant(self) -> torch.Tensor:
        """int32[capacity, M], the links behind them."""
        return self.links[:, self.degree :]

    @property
    def live(self) -> torch.Tensor:
        """bool[capacity]: which rows hold an item."""
        return self.versions > 0

    @property
    def on_device(self) -> tuple[torch.Tensor, ...]:
        """The columns that a search reads, on the device; each is another tensor when it has become larger."""
        return self.versions, self.groups, self.links, self.state

    @property
    def columns(self) -> ItemColumns:
        """The columns as compiled code wants them; others when they have become larger.

        Raises TypeError for an index that compiled code does not search.
        """
        if self.sketch is None:
            raise TypeError("this index is not searched in compiled code")
        if self._columns is None:
            versions, groups, links = (each.numpy() for each in (self.versions, self.groups, self.links))
            codes, interleaved, scales = self.sketch.codes, self.sketch.interleaved, self.sketch.scales
            self._columns = ItemColumns(versions, groups, links, codes, interleaved, scales)
        return self._columns

    def load(self, columns: Mapping[str, np.ndarray]) -> None:
        """Take over whole columns, all of one length.

        `vectors`, `biases`, `neighbors`, `relevant`, `attributes`, `numbers`, `groups`, `versions`: [rows, width] each.
        """
        self.rows = 0
        self.versions.zero_()
        rows = np.arange(len(columns["versions"]))
        self.apply({name: [(rows, values)] for name, values in columns.items()}, len(rows))

    def apply(self, writes: Writes, rows: int) -> None:
        """Write changed rows; ``rows`` is the number of rows from now on.

        Raises InvalidColumns when a value does not fit: a search over a broken index is worse than none.
        """
        if rows < self.rows:
            raise InvalidColumns(f"rows went from {self.rows} to {rows}: rows are never given up")
        self._reserve(rows)
        self.rows = rows
        try:
            self._write(writes)
        except (IndexError, RuntimeError, ValueError) as error:
            raise InvalidColumns(f"a change does not fit the index: {error}") from error
        if "versions" in writes:
            self.seeds, self.best = self._choose_seeds()

    def matching(self, wanted: Filter) -> np.ndarray:
        """bool[rows]: the live rows whose items the filter lets through."""
        mask = plain_mask if self.sketch is None else compiled_mask
        return mask(wanted, self.versions[: self.rows], self.numbers[: self.rows], self.attributes[: self.rows])

    def _write(self, writes: Writes) -> None:
        for name, column in (("neighbors", self.neighbors), ("relevant", self.relevant)):
            for rows, values in writes.get(name, ()):
                if values.size and not NO_NEIGHBOR <= values.min() <= values.max() < self.rows:
                    raise InvalidColumns(f"{name} outside of the {self.rows} rows")
                column[self._rows(rows)] = self._tensor(values, torch.int32)
        for rows, values in writes.get("relevant", ()):
            self.relevant_counts[rows] = np.count_nonzero(values != NO_NEIGHBOR, axis=1)
        self._write_state(writes.get("vectors", ()), writes.get("biases", ()))
        for rows, values in writes.get("attributes", ()):
            self.attributes[self._rows(rows)] = self._tensor(values, torch.int64)
        for rows, values in writes.get("numbers", ()):
            self.numbers[self._rows(rows)] = self._tensor(values.reshape(-1), torch.float64)
        for rows, values in writes.get("groups", ()):
            self.groups[self._rows(rows)] = self._tensor(values.reshape(-1), torch.int64)
        for rows, values in writes.get("versions", ()):
            self.versions[self._rows(rows)] = self._tensor(values.reshape(-1), torch.int64)

    def _write_state(
        self,
        vectors: Sequence[tuple[np.ndarray, np.ndarray]],
        biases: Sequence[tuple[np.ndarray, np.ndarray]],
    ) -> None:
        if not self.metric.bias_width:
            biases = [(rows, np.zeros((len(rows), 0), dtype=np.float32)) for rows, _ in vectors]
        for (rows, values), (bias_rows, bias_values) in zip(vectors, biases, strict=True):
            if not np.array_equal(rows, bias_rows):
                raise InvalidColumns("vectors and biases of different rows: an item has both or neither")
            if not (np.isfinite(values).all() and np.isfinite(bias_values).all()):
                raise InvalidColumns("vectors or biases that are not finite")
            self.state[self._rows(rows)] = self.metric.encode_items(
                self._tensor(values, torch.float32), self._tensor(bias_values, torch.float32)
            )
            if self.sketch is not None:
                self.sketch.write(self.state, rows)

    def _rows(self, rows: np.ndarray) -> torch.Tensor:
        return self._tensor(rows, torch.int64)

    def _tensor(self, values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        moved: torch.Tensor = torch.as_tensor(np.ascontiguousarray(values)).to(device=self.device, dtype=dtype)
        return moved

    def _reserve(self, rows: int) -> None:
        """Grow the columns to hold ``rows``, by half more than needed so that growing stays rare."""
        if rows <= self.capacity:
            return
        self._columns = None
        self.capacity = capacity = padded(max(1024, rows + rows // 2), ROW_BLOCK)
        self.versions = _grown(self.versions, capacity, 0)
        self.links = _grown(self.links, capacity, NO_NEIGHBOR)
        self.relevant_counts = np.pad(self.relevant_counts, (0, capacity - len(self.relevant_counts)))
        self.attributes = _grown(self.attributes, capacity, 0)
        self.numbers = _grown(self.numbers, capacity, math.nan)
        self.groups = _grown(self.groups, capacity, 0)
        self.state = _grown(self.state, capacity, 0)
        if self.sketch is not None:
            self.sketch.reserve(capacity)

    def _choose_seeds(self) -> tuple[np.ndarray, np.ndarray]:
        """Seeds, half the best rows by prior, half evenly spread over the live rows; and the first of the best.

        Never the newest row for its being new: what was just inserted is to be found by walking to it.
        """
        live, prior = torch.nonzero(self.live[: self.rows])[:, 0], self.metric.prior(self.state)
        best = live[:0]
        if prior is not None:
            best = live[torch.topk(prior[live], min(DEFAULT_SEEDS // 2, len(live))).indices]
        chosen, spread = live, DEFAULT_SEEDS - len(best)
        if len(live) > DEFAULT_SEEDS:
            spread_out = live[torch.arange(spread, device=self.device) * len(live) // spread]
            chosen = torch.unique(torch.cat([best, spread_out]))
        return chosen.cpu().numpy(), best[:BEST_SEEDS].cpu().numpy()


def _grown(column: torch.Tensor, capacity: int, fill: float) -> torch.Tensor:
    grown = torch.full((capacity, *column.shape[1:]), fill, dtype=column.dtype, device=column.device)
    grown[: len(column)] = column
    return grown
