"""The running batch: what every lane holds between two steps."""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import numpy as np
import torch

from engine.columns import fill, write
from engine.index import ItemIndex
from engine.kernels.columns import LaneColumns
from engine.kernels.merging import BARRED, wipe
from engine.kernels.products import power_of_two
from engine.kernels.stages import FAR, GIVEN_ROWS, NEAR, SEEDS, Progress
from engine.query import Query

NO_ROW = -1
NO_SLOT = -1
MOST_SLOTS = 1_024
"""Rows, the first that a lane scores, whose tangents it has places for."""


class Ranking:
    """For every lane its best rows so far, best first, ties to the lowest row: float32 and int64[lanes, width].

    Empty places hold −inf and −1. Memory follows the largest request seen so far, work that of the lanes at hand.
    sizes: int64[lanes] on the host, how many each keeps.
    """

    def __init__(self, lanes: int, device: torch.device) -> None:
        self.scores = torch.full((lanes, 0), -torch.inf, device=device)
        self.rows = torch.full((lanes, 0), NO_ROW, dtype=torch.int64, device=device)
        self.sizes = np.zeros(lanes, dtype=np.int64)

    def open(self, lanes: np.ndarray, sizes: np.ndarray) -> None:
        """Empty lanes int64[n] and let each hold so many rows from now on."""
        missing = int(sizes.max(initial=0)) - self.scores.shape[1]
        if missing > 0:
            self.scores = torch.nn.functional.pad(self.scores, (0, missing), value=-torch.inf)
            self.rows = torch.nn.functional.pad(self.rows, (0, missing), value=NO_ROW)
        fill(lanes, (self.scores, -inf), (self.rows, NO_ROW))
        self.sizes[lanes] = sizes

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
    float32[lanes, s, S + 1] an entry's is, or NO_SLOT; scored int32[lanes, s], the rows that these places are for, kept
    where compiled code searches; marks uint8[lanes, rows + 1], VISITED and BARRED, the last for NO_ROW. What decides
    who does what is on the host: of a lane's ``givens`` rows ``offered`` were chosen from already, and ``wanted`` says
    how many rows its next step scores at most.
    """

    def __init__(self, count: int, index: ItemIndex) -> None:
        device, several = index.device, count + 1
        self.count = self.spare = count
        self.users = index.metric.make_users(several, device)
        self.beam = Ranking(several, device)
        self.results = Ranking(several, device)
        self.result_versions = torch.zeros(several, 0, dtype=torch.int64, device=device)
        self.given = torch.zeros(several, 1, dtype=torch.int64, device=device)
        self.unexpanded = torch.zeros(several, 0, dtype=torch.bool, device=device)
        self.slots = torch.zeros(several, 0, dtype=torch.int64, device=device)
        self.tangents = torch.zeros(several, 0, index.state.shape[1] + 1, device=device)
        self.scored = torch.zeros(several, 0, dtype=torch.int32, device=device)
        self.marks = torch.zeros(several, 0, dtype=torch.uint8, device=device)
        self.running, self.walks, self.filtered = np.zeros((3, count), dtype=bool)
        self.deadlines = np.full(count, inf)
        asked, reached = np.zeros((6, count), dtype=np.int64), np.zeros((8, count), dtype=np.int64)
        self.budgets, self.widths, self.pairs, self.clusters, self.rounds, self.per_group = asked
        self.givens, self.offered, self.wanted, self.stages, self.next_stages, *counts = reached
        self.steps, self.quiet, self.evaluations = counts
        self._remember = index.sketch is not None
        # Lanes in which other rows than those scored may be marked, and those that were marked at admission.
        self._whole = np.zeros(count, dtype=bool)
        self._excluded: dict[int, np.ndarray] = {}
        self.progress = Progress(
            *(self.walks, self.stages, self.next_stages, self.givens, self.offered, self.wanted, self.pairs),
            *(self.steps, self.rounds, self.quiet, self.evaluations, self.budgets),
        )
        self._columns: LaneColumns | None = None

    @property
    def columns(self) -> LaneColumns:
        """The columns as compiled code wants them."""
        if self._columns is None:
            given, marks, scored, tangents, beam_scores, beam_rows, unexpanded, slots, *results = (
                column.numpy() for column in self.on_device
            )
            self._columns = LaneColumns(
                *(self.walks, self.stages, given, self.offered, self.wanted, self.budgets, self.widths, self.clusters),
                *(self.per_group, self.evaluations),
                *(marks, scored, tangents, self.beam.sizes, beam_scores, beam_rows, unexpanded, slots),
                *(self.results.sizes, *results),
            )
        return self._columns

    @property
    def on_device(self) -> tuple[torch.Tensor, ...]:
        """All columns on the device but the users'; each is another tensor when it has become larger."""
        return (
            *(self.given, self.marks, self.scored, self.tangents),
            *(self.beam.scores, self.beam.rows, self.unexpanded, self.slots),
            *(self.results.scores, self.results.rows, self.result_versions),
        )

    def free(self) -> np.ndarray:
        """int64[n]: the lanes that hold no query."""
        return np.flatnonzero(~self.running)

    def later(self, lanes: np.ndarray) -> np.ndarray:
        """bool[n]: which of the lanes int64[n] have a round behind their next step, that will want its tangents."""
        later: np.ndarray = self.rounds[lanes] > (self.stages[lanes] != SEEDS)
        return later

    def fit(self, index: ItemIndex) -> None:
        """Make room for rows that the index got since the lanes were made; new rows are unvisited."""
        known = max(0, self.marks.shape[1] - 1)
        missing = len(index.versions) - known
        if missing > 0:
            # A row that did not exist at admission may be returned unless a filter chose the rows.
            added = torch.from_numpy(np.append(self.filtered, False) * np.uint8(BARRED)).to(index.device)
            self.marks = torch.cat([self.marks[:, :known], added[:, None].expand(-1, missing + 1)], dim=1)
            self._columns = None

    def admit(self, lanes: np.ndarray, queries: Sequence[Query], given: Sequence[Given]) -> None:
        """Put queries into free lanes int64[n], each with what its first steps score."""
        k, beam, widths, pairs, clusters, budgets = np.array([_asked(query) for query in queries]).T
        pairs = np.maximum(pairs, k)
        rounds = np.array([each.rounds for each in given])
        counts = np.array([sum(map(len, each.rows)) for each in given])
        scored = counts + np.minimum(rounds, MOST_SLOTS) * np.minimum(pairs, MOST_SLOTS)
        self._reserve(int(beam.max()), int(k.max()), int(scored.max()), int(counts.max()))
        self.beam.open(lanes, beam)
        self.results.open(lanes, k)
        self._mark(lanes, queries)
        self._give(lanes, [rows for each in given for rows in each.rows], counts)
        self.running[lanes], self.walks[lanes] = True, rounds > 0
        self.deadlines[lanes] = [inf if query.deadline is None else query.deadline for query in queries]
        self.budgets[lanes], self.widths[lanes], self.pairs[lanes] = budgets, widths, pairs
        self.clusters[lanes], self.rounds[lanes] = clusters, rounds
        self.per_group[lanes] = [query.per_group for query in queries]
        # Who starts from rows that say nothing of the user looks far first.
        self.next_stages[lanes] = [NEAR if len(query.history_rows) else FAR for query in queries]
        self.stages[lanes], self.wanted[lanes] = SEEDS, np.minimum(counts, GIVEN_ROWS)
        for counted in (self.offered, self.steps, self.quiet, self.evaluations):
            counted[lanes] = 0

    def release(self, lanes: Sequence[int] | np.ndarray) -> None:
        """Free lanes."""
        self.running[lanes] = False
        self.filtered[lanes] = False
        self.deadlines[lanes] = inf

    def _reserve(self, beam: int, k: int, scored: int, given: int) -> None:
        """Widen the columns for what comes."""
        scored = min(power_of_two(scored), MOST_SLOTS) + 1
        given = power_of_two(given)
        if (
            beam <= self.unexpanded.shape[1]
            and k <= self.result_versions.shape[1]
            and scored <= min(self.scored.shape[1], self.tangents.shape[1])
            and given <= self.given.shape[1]
        ):
            return
        self.unexpanded, self.slots = _widened(self.unexpanded, beam), _widened(self.slots, beam)
        self.result_versions, self.given = _widened(self.result_versions, k), _widened(self.given, given)
        # What did not find a place in the narrower column is not in the wider one either.
        self._whole |= self.evaluations > self.scored.shape[1]
        self.scored = _widened(self.scored, scored)
        missing = self.scored.shape[1] - self.tangents.shape[1]
        if missing > 0:
            self.tangents = torch.nn.functional.pad(self.tangents, (0, 0, 0, missing))
        self._columns = None

    def _give(self, lanes: np.ndarray, rows: list[np.ndarray], counts: np.ndarray) -> None:
        """Write down what each lane scores first. Side by side, as one may be given ten thousand, the others thirty."""
        self.givens[lanes] = counts
        firsts = np.repeat(counts.cumsum() - counts, counts)
        write(self.given, (np.repeat(lanes, counts), np.arange(len(firsts)) - firsts), np.concatenate(rows))

    def _mark(self, lanes: np.ndarray, queries: Sequence[Query]) -> None:
        """Bar what each query's filter leaves out and what it excludes; nothing else stays marked."""
        self._wipe(lanes)
        self.filtered[lanes] = [query.mask is not None for query in queries]
        self._whole[lanes] = self.filtered[lanes]
        for lane, query in zip(lanes.tolist(), queries, strict=True):
            if query.mask is not None:
                barred = np.full(self.marks.shape[1], BARRED, np.uint8)
                barred[: len(query.mask)] = ~query.mask * np.uint8(BARRED)
                write(self.marks, np.array([lane]), barred)
            if len(query.excluded) and self._remember:
                self._excluded[lane] = query.excluded
        excluded = [query.excluded for query in queries]
        owners = np.repeat(lanes, [len(rows) for rows in excluded])
        if len(owners):
            write(self.marks, (owners, np.concatenate(excluded, dtype=np.int64, casting="unsafe")), BARRED)

    def _wipe(self, lanes: np.ndarray) -> None:
        """Unmark all rows: of a large catalogue only the few that the last search touched, where these are known."""
        if not self._remember:
            fill(lanes, (self.marks, 0))
            return
        wipe(lanes, self._whole, self.columns)
        for lane in self._excluded.keys() & set(lanes.tolist()):
            write(self.marks[lane], self._excluded.pop(lane), 0)


def _asked(query: Query) -> tuple[int, ...]:
    params = query.params
    return params.k, params.beam, params.width, params.pairs, params.clusters, params.budget


def _widened(column: torch.Tensor, width: int) -> torch.Tensor:
    missing = width - column.shape[1]
    return torch.nn.functional.pad(column, (0, missing)) if missing > 0 else column
