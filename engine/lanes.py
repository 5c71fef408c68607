"""The running batch: what every lane holds between two steps."""

from enum import IntEnum

import numpy as np
import torch

from engine.index import ItemIndex
from engine.kernels.merging import BARRED
from engine.query import Query

NO_ROW = -1
NO_SLOT = -1
SLOTS = 256
"""Tangents that a lane keeps: of the first rows that it scores."""


class Stage(IntEnum):
    """What a lane does in its next step."""

    SEEDS = 0
    NEAR = 1
    FAR = 2
    FILL = 3


class Ranking:
    """For every lane its best rows so far, best first, ties to the lowest row: float32 and int64[lanes, width].

    Empty places hold −inf and −1. Memory follows the largest request seen so far, work that of the lanes at hand.
    """

    def __init__(self, lanes: int, device: torch.device) -> None:
        self.scores = torch.full((lanes, 0), -torch.inf, device=device)
        self.rows = torch.full((lanes, 0), NO_ROW, dtype=torch.int64, device=device)
        self.sizes = torch.zeros(lanes, dtype=torch.int64, device=device)

    def open_lane(self, lane: int, size: int) -> None:
        """Empty one lane and let it hold ``size`` rows from now on."""
        missing = size - self.scores.shape[1]
        if missing > 0:
            self.scores = torch.nn.functional.pad(self.scores, (0, missing), value=-torch.inf)
            self.rows = torch.nn.functional.pad(self.rows, (0, missing), value=NO_ROW)
        self.scores[lane] = -torch.inf
        self.rows[lane] = NO_ROW
        self.sizes[lane] = size

    def merge(self, lanes: torch.Tensor, scores: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Take new rows in: lanes int64[a], scores float32[a, m], rows int64[a, m] (−1 and −inf for none).

        Returns places int64[a, width]: where each kept entry stood before in [old | new], the old ``width`` wide.
        """
        width = int(self.sizes[lanes].max())
        all_scores = torch.cat([self.scores[lanes, :width], scores], dim=1)
        all_rows = torch.cat([self.rows[lanes, :width], rows], dim=1)
        by_row = all_rows.argsort(dim=1, stable=True)
        by_score = all_scores.gather(1, by_row).argsort(dim=1, descending=True, stable=True)
        places = by_row.gather(1, by_score)[:, :width]
        beyond = torch.arange(width, device=lanes.device)[None, :] >= self.sizes[lanes, None]
        kept = all_scores.gather(1, places).masked_fill_(beyond, -torch.inf)
        self.scores[lanes, :width] = kept
        self.rows[lanes, :width] = all_rows.gather(1, places).masked_fill_(kept == -torch.inf, NO_ROW)
        return places

    def full(self) -> torch.Tensor:
        """bool[lanes]: which lanes have no empty place."""
        return (self.rows != NO_ROW).sum(dim=1) >= self.sizes


class Lanes:
    """State of every lane. ``queries[lane]`` is None where a lane is free.

    unexpanded: bool[lanes, beam], which beam entries still have neighbours to look at. slots: int64[lanes, beam], where
    in tangents: float32[lanes, SLOTS, S + 1] an entry's is, or NO_SLOT. marks: uint8[lanes, rows], VISITED and BARRED.
    """

    def __init__(self, count: int, index: ItemIndex) -> None:
        device = index.device
        self.count = count
        self.queries: list[Query | None] = [None] * count
        self.users = index.metric.make_users(count, device)
        self.beam = Ranking(count, device)
        self.results = Ranking(count, device)
        self.result_versions = torch.zeros(count, 0, dtype=torch.int64, device=device)
        self.unexpanded = torch.zeros(count, 0, dtype=torch.bool, device=device)
        self.slots = torch.zeros(count, 0, dtype=torch.int64, device=device)
        self.tangents = torch.zeros(count, SLOTS, index.state.shape[1] + 1, device=device)
        self.marks = torch.zeros(count, 0, dtype=torch.uint8, device=device)
        self.evaluations = np.zeros(count, dtype=np.int64)
        self.budgets = np.zeros(count, dtype=np.int64)
        self.widths = torch.zeros(count, dtype=torch.int64, device=device)
        self.pairs = torch.zeros(count, dtype=torch.int64, device=device)
        self.clusters = torch.zeros(count, dtype=torch.int64, device=device)
        self.stages = np.zeros(count, dtype=np.int64)
        self.rounds = np.zeros(count, dtype=np.int64)
        self.quiet = np.zeros(count, dtype=np.int64)
        self.steps = np.zeros(count, dtype=np.int64)
        self.pending: dict[int, torch.Tensor] = {}
        self.walks = np.zeros(count, dtype=bool)

    def running(self) -> np.ndarray:
        """int64[n]: the lanes that hold a query."""
        return np.array([lane for lane, query in enumerate(self.queries) if query is not None], dtype=np.int64)

    def free(self) -> list[int]:
        """The lanes that hold none."""
        return [lane for lane, query in enumerate(self.queries) if query is None]

    def fit(self, index: ItemIndex) -> None:
        """Make room for rows that the index got since the lanes were made; new rows are unvisited."""
        missing = len(index.versions) - self.marks.shape[1]
        if missing > 0:
            # A row that did not exist at admission may be returned unless a filter chose the rows.
            filtered = [query is not None and query.mask is not None for query in self.queries]
            added = torch.tensor(filtered, device=index.device).to(torch.uint8) * BARRED
            self.marks = torch.cat([self.marks, added[:, None].expand(self.count, missing)], dim=1)

    def admit(self, lane: int, query: Query, seeds: torch.Tensor, *, walks: bool) -> None:
        """Put a query into a free lane; ``seeds`` int64[s] are what its first step scores.

        A lane that does not walk scores its seeds and nothing else.
        """
        params = query.params
        self.queries[lane] = query
        self.beam.open_lane(lane, params.beam)
        self.results.open_lane(lane, params.k)
        self.unexpanded = _widened(self.unexpanded, self.beam.scores.shape[1])
        self.result_versions = _widened(self.result_versions, self.results.scores.shape[1])
        self.slots = _widened(self.slots, self.beam.scores.shape[1])
        self.unexpanded[lane] = False
        self.slots[lane] = NO_SLOT
        _mark(self.marks[lane], query)
        self.evaluations[lane] = self.steps[lane] = 0
        self.budgets[lane] = params.budget
        self.widths[lane] = params.width
        self.pairs[lane] = max(params.pairs, params.k)
        self.clusters[lane] = params.clusters
        self.stages[lane] = Stage.SEEDS
        self.rounds[lane] = params.rounds if walks else 0
        self.quiet[lane] = 0
        self.walks[lane] = walks
        self.pending[lane] = seeds

    def release(self, lane: int) -> None:
        """Free a lane."""
        self.queries[lane] = None
        self.pending.pop(lane, None)


def _widened(column: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(column, (0, width - column.shape[1]))


def _mark(marks: torch.Tensor, query: Query) -> None:
    """Bar in uint8[rows] what the query's filter leaves out and what it excludes; nothing else stays marked."""
    if query.mask is None:
        fresh = np.zeros(len(marks), np.uint8)
    else:
        fresh = np.full(len(marks), BARRED, np.uint8)
        fresh[: len(query.mask)] = ~query.mask * np.uint8(BARRED)
    fresh[query.excluded] = BARRED
    if marks.device.type == "cpu":
        marks.numpy()[:] = fresh  # torch would share a copy this small out over threads
    else:
        marks.copy_(torch.from_numpy(fresh))
