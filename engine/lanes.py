"""The running batch: what every lane holds between two steps."""

import numpy as np
import torch

from engine.index import ItemIndex
from engine.query import Query, Stop

NO_ROW = -1


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

    unexpanded: bool[lanes, beam], which beam entries still have neighbours to look at.
    visited, returnable: bool[lanes, rows], what was scored and what may be returned.
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
        self.visited = torch.zeros(count, 0, dtype=torch.bool, device=device)
        self.returnable = torch.zeros(count, 0, dtype=torch.bool, device=device)
        self.evaluations = np.zeros(count, dtype=np.int64)
        self.budgets = np.zeros(count, dtype=np.int64)
        self.widths = torch.zeros(count, dtype=torch.int64, device=device)
        self.steps = np.zeros(count, dtype=np.int64)
        self.pending: dict[int, torch.Tensor] = {}
        self.walks = np.zeros(count, dtype=bool)
        self.stops: list[Stop | None] = [None] * count

    def running(self) -> np.ndarray:
        """int64[n]: the lanes that hold a query."""
        return np.array([lane for lane, query in enumerate(self.queries) if query is not None], dtype=np.int64)

    def free(self) -> list[int]:
        """The lanes that hold none."""
        return [lane for lane, query in enumerate(self.queries) if query is None]

    def fit(self, index: ItemIndex) -> None:
        """Make room for rows that the index got since the lanes were made; new rows are unvisited."""
        missing = len(index.versions) - self.visited.shape[1]
        if missing > 0:
            self.visited = torch.nn.functional.pad(self.visited, (0, missing))
            # A row that did not exist at admission may be returned unless a filter chose the rows.
            unfiltered = torch.tensor(
                [query is not None and query.mask is None for query in self.queries], device=index.device
            )
            added = unfiltered[:, None].expand(self.count, missing)
            self.returnable = torch.cat([self.returnable, added], dim=1)

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
        self.unexpanded[lane] = False
        self.visited[lane] = False
        self.returnable[lane] = _returnable(query, self.returnable.shape[1], self.returnable.device)
        self.evaluations[lane] = self.steps[lane] = 0
        self.budgets[lane] = params.budget
        self.widths[lane] = params.width
        self.walks[lane] = walks
        self.pending[lane] = seeds
        self.stops[lane] = None

    def release(self, lane: int) -> None:
        """Free a lane."""
        self.queries[lane] = None
        self.pending.pop(lane, None)


def _widened(column: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(column, (0, width - column.shape[1]))


def _returnable(query: Query, rows: int, device: torch.device) -> torch.Tensor:
    allowed = torch.ones(rows, dtype=torch.bool)
    if query.mask is not None:
        allowed[: len(query.mask)] = torch.from_numpy(query.mask)
        allowed[len(query.mask) :] = False
    allowed[torch.from_numpy(query.excluded)] = False
    return allowed.to(device)
