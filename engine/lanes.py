"""The running batch: what every lane holds between two steps."""

from collections.abc import Sequence
from math import inf
from operator import attrgetter, le
from typing import NamedTuple

import numpy as np
import torch

from engine.columns import fill, write
from engine.index import ItemIndex
from engine.kernels.admission import Numbers, open_lanes, room_of, write_numbers
from engine.kernels.columns import LaneColumns
from engine.kernels.marks import BARRED
from engine.kernels.products import power_of_two
from engine.kernels.stages import FAR, NEAR, SEEDS, Progress
from engine.query import Query

NO_ROW = -1
NO_SLOT = -1
MOST_SLOTS = 1_024
"""Rows, the first that a lane scores, whose tangents it has places for."""


Results = tuple[np.ndarray, np.ndarray]
"""Rows int64[n] and their scores float32[n], best first, on the host."""


class Ranking:
    """For every lane its best rows so far, best first, ties to the lowest row: float32 and int64[lanes, width].

    Empty places hold −inf and −1. Memory follows the largest request seen so far, work that of the lanes at hand.
    sizes: int64[lanes] on the host, how many each keeps.
    """

    def __init__(self, sizes: np.ndarray, lanes: int, device: torch.device) -> None:
        self.scores = torch.full((lanes, 0), -torch.inf, device=device)
        self.rows = torch.full((lanes, 0), NO_ROW, dtype=torch.int64, device=device)
        self.sizes = sizes

    def reserve(self, width: int) -> None:
        """Make room for so many rows in each lane."""
        missing = width - self.scores.shape[1]
        if missing > 0:
            self.scores = torch.nn.functional.pad(self.scores, (0, missing), value=-torch.inf)
            self.rows = torch.nn.functional.pad(self.rows, (0, missing), value=NO_ROW)

    def merge(
        self, lanes: torch.Tensor, sizes: torch.Tensor, width: int, scores: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """Take new rows into lanes int64[n] of sizes int64[n], at most ``width``.

        scores float32[n, m], rows int64[n, m] (−1 and −inf for none). Returns places int64[n, width]: where each kept
        entry stood before in [old | new], the old ``width`` wide.
        """
        all_scores = torch.cat([self.scores[lanes, :width], scores], dim=1)
        all_rows = torch.cat([self.rows[lanes, :width], rows], dim=1)
        by_row = all_rows.argsort(dim=1, stable=True)
        by_score = all_scores.gather(1, by_row).argsort(dim=1, descending=True, stable=True)
        places = by_row.gather(1, by_score)[:, :width]
        beyond = torch.arange(width, device=rows.device)[None, :] >= sizes[:, None]
        kept = all_scores.gather(1, places).masked_fill_(beyond, -torch.inf)
        self.scores[lanes, :width] = kept
        self.rows[lanes, :width] = all_rows.gather(1, places).masked_fill_(kept == -torch.inf, NO_ROW)
        return places

    def full(self, lanes: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        """bool[n]: which of the lanes int64[n], of sizes int64[n], have no empty place."""
        return self.rows[lanes, sizes - 1] != NO_ROW


class Given(NamedTuple):
    """What the first steps of a query score: rows int64[s], one list after the other.

    rounds: how many it then goes on for, before it walks; 0 for one that ends there.
    """

    rows: tuple[np.ndarray, ...]
    rounds: int


class Lanes:
    """State of every lane, and on the device of one more, the `spare`, in which there is never a query.

    On the device: given int64[lanes, g], rows to score first, seeds or all that match a filter; unexpanded bool[lanes,
    beam], which beam entries still have neighbours to look at; slots int64[lanes, beam], where in tangents
    float32[lanes, s, S + 1] an entry's is, or NO_SLOT; marks uint8[lanes, > rows], see `engine.kernels.marks`, the last
    for NO_ROW. What decides who does what is on the host: of a lane's ``givens`` rows ``offered`` were chosen from
    already, and ``wanted`` says how many rows its next step scores at most.
    """

    def __init__(self, count: int, index: ItemIndex) -> None:
        device, several = index.device, count + 1
        self.count = self.spare = count
        self.users = index.metric.make_users(several, device)
        self._numbers = np.zeros((len(Numbers._fields), count), dtype=np.int64)
        numbers = Numbers(*self._numbers)
        self.beam, self.results = Ranking(numbers.beam, several, device), Ranking(numbers.k, several, device)
        self.budgets, self.widths, self.pairs = numbers.budgets, numbers.widths, numbers.pairs
        self.clusters, self.rounds, self.per_group = numbers.clusters, numbers.rounds, numbers.per_group
        self.givens, self.offered, self.wanted = numbers.givens, numbers.offered, numbers.wanted
        self.stages, self.next_stages, self.quiet = numbers.stages, numbers.next_stages, numbers.quiet
        self.steps, self.evaluations = numbers.steps, numbers.evaluations
        self.running: np.ndarray = numbers.running
        self.walks, self.filtered, self.floors = numbers.walks, numbers.filtered, numbers.floors
        self.result_versions = torch.zeros(several, 0, dtype=torch.int64, device=device)
        self.given = torch.zeros(several, 1, dtype=torch.int64, device=device)
        self.unexpanded = torch.zeros(several, 0, dtype=torch.bool, device=device)
        self.slots = torch.zeros(several, 0, dtype=torch.int64, device=device)
        self.tangents = torch.zeros(several, 0, index.state.shape[1] + 1, device=device)
        self.marks = torch.zeros(several, 0, dtype=torch.uint8, device=device)
        self.deadlines = np.full(count, inf)
        self._compiled = index.sketch is not None
        self.progress = Progress(
            *(self.walks, self.stages, self.next_stages, self.givens, self.offered, self.wanted, self.pairs),
            *(self.steps, self.rounds, self.quiet, self.evaluations, self.budgets),
        )
        self._room = (0, 0, 0, 0)  # of beams, results, rows given and rows scored
        self._known = 0  # rows that there are marks for
        self._columns: LaneColumns | None = None

    @property
    def columns(self) -> LaneColumns:
        """The columns as compiled code wants them."""
        if self._columns is None:
            given, marks, tangents, beam_scores, beam_rows, unexpanded, slots, *results = (
                column.numpy() for column in self.on_device
            )
            self._columns = LaneColumns(
                *(self.walks, self.stages, given, self.offered, self.wanted, self.budgets, self.widths, self.clusters),
                *(self.per_group, self.evaluations),
                *(marks, self.floors, tangents, self.beam.sizes, beam_scores, beam_rows, unexpanded, slots),
                *(self.results.sizes, *results),
            )
        return self._columns

    @property
    def on_device(self) -> tuple[torch.Tensor, ...]:
        """All columns on the device but the users'; each is another tensor when it has become larger."""
        return (
            *(self.given, self.marks, self.tangents),
            *(self.beam.scores, self.beam.rows, self.unexpanded, self.slots),
            *(self.results.scores, self.results.rows, self.result_versions),
        )

    def free(self) -> np.ndarray:
        """int64[n]: the lanes that hold no query."""
        free: np.ndarray = (self.running == 0).nonzero()[0]
        return free

    def later(self, lanes: np.ndarray) -> np.ndarray:
        """bool[n]: which of the lanes int64[n] have a round behind their next step, that will want its tangents."""
        later: np.ndarray = self.rounds[lanes] > (self.stages[lanes] != SEEDS)
        return later

    def fit(self, index: ItemIndex) -> None:
        """Make room for rows that the index got since the lanes were made; new rows are unvisited."""
        known, self._known = self._known, index.capacity
        missing = index.capacity - known
        if missing > 0:
            # A row that did not exist at admission may be returned unless a filter chose the rows.
            barred = np.append(np.where(self.filtered, self.floors | BARRED, 0), 0).astype(np.uint8)
            added = torch.from_numpy(barred).to(index.device)[:, None].expand(-1, missing + 1)
            self.marks = torch.cat([self.marks[:, :known], added], dim=1)
            self._columns = None

    def admit(self, lanes: np.ndarray, queries: Sequence[Query], given: Sequence[Given]) -> None:
        """Put queries into free lanes int64[n], each with what its first steps score."""
        asked = np.array([_asked(*pair) for pair in zip(queries, given, strict=True)], dtype=np.int64)
        self._reserve(*room_of(asked, MOST_SLOTS))
        self._open(lanes, asked, np.concatenate([rows for each in given for rows in each.rows]))
        self._mark(lanes, queries)
        for lane, query in zip(lanes.tolist(), queries, strict=True):
            if query.deadline is not None:
                self.deadlines[lane] = query.deadline

    def release(self, lanes: Sequence[int] | np.ndarray) -> None:
        """Free lanes."""
        self.running[lanes] = 0
        self.deadlines[lanes] = inf

    def _reserve(self, beam: int, k: int, given: int, scored: int) -> None:
        """Widen the columns for what comes: of each number the largest."""
        room = beam, k, power_of_two(given), min(power_of_two(scored), MOST_SLOTS) + 1
        if all(map(le, room, self._room)):
            return
        beam, k, given, scored = map(max, room, self._room)
        self._room = beam, k, given, scored
        self.beam.reserve(beam)
        self.results.reserve(k)
        self.unexpanded, self.slots = _widened(self.unexpanded, beam), _widened(self.slots, beam)
        self.result_versions, self.given = _widened(self.result_versions, k), _widened(self.given, given)
        missing = scored - self.tangents.shape[1]
        if missing > 0:
            self.tangents = torch.nn.functional.pad(self.tangents, (0, 0, 0, missing))
        self._columns = None

    def _mark(self, lanes: np.ndarray, queries: Sequence[Query]) -> None:
        """Bar what each query's filter leaves out and what it excludes."""
        for lane, query in zip(lanes.tolist(), queries, strict=True):
            if query.mask is not None:
                mark = np.uint8(self.floors[lane] | BARRED)
                barred = np.full(self.marks.shape[1], mark)
                barred[: len(query.mask)] = ~query.mask * mark
                write(self.marks, np.array([lane]), barred)
        excluded = [query.excluded for query in queries]
        if any(map(len, excluded)):
            owners = np.repeat(lanes, [len(rows) for rows in excluded])
            rows = np.concatenate(excluded, dtype=np.int64, casting="unsafe")
            write(self.marks, (owners, rows), self.floors[owners] | BARRED)

    def _open(self, lanes: np.ndarray, asked: np.ndarray, rows: np.ndarray) -> None:
        """Empty the lists, forget all marks, and write down the numbers int64[n, …] of each and what it scores first.

        rows: int64[m], one lane's after another's, as one may be given ten thousand, the others thirty.
        """
        if not self._compiled:
            lists = (self.beam.scores, -inf), (self.beam.rows, NO_ROW), (self.results.scores, -inf)
            fill(lanes, *lists, (self.results.rows, NO_ROW))
            highest = np.zeros(len(lanes), dtype=bool)
            write_numbers(lanes, asked, self._numbers, highest)
            if highest.any():
                fill(lanes[highest], (self.marks, 0))
            counts = self.givens[lanes]
            firsts = np.repeat(counts.cumsum() - counts, counts)
            write(self.given, (np.repeat(lanes, counts), np.arange(len(firsts)) - firsts), rows)
            return
        rows = rows.astype(np.int64, copy=False)
        open_lanes(lanes, asked, self._numbers, rows, self.columns)


_sizes = attrgetter(
    *("params.beam", "params.k", "params.budget", "params.width", "params.pairs", "params.clusters", "per_group")
)


def _asked(query: Query, given: Given) -> tuple[int, ...]:
    """The first of the `Numbers` of a query's lane."""
    # Who starts from rows that say nothing of the user looks far first.
    next_stage = NEAR if len(query.history_rows) else FAR
    return *_sizes(query), given.rounds, sum(map(len, given.rows)), query.mask is not None, next_stage


def _widened(column: torch.Tensor, width: int) -> torch.Tensor:
    missing = width - column.shape[1]
    return torch.nn.functional.pad(column, (0, missing)) if missing > 0 else column
