"""What the turns of `benchmarks.search` come to: rows, and the figures they are judged by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from benchmarks.report import Figures
from benchmarks.timing import Ratio, Timing
from engine.query import SearchParams

RECALL = 0.95
BYTE = 0.25
"""A CPU multiplies four bytes in the time of one float; libraries' rates, the floor, are of floats."""
OURS, EXHAUSTIVE, RERANKED = "ours", "exhaustive", "HNSW + re-ranking"


@dataclass(frozen=True)
class Measured:
    """A method at one setting. seconds: per query, round by round; shares: of scoring all.

    multiply_adds: per query; choosing: those among them that choose rows, from bytes all but a few. setting: what it
    says of itself; size: the number it was run with, or 0; params: ours only.
    """

    method: str
    setting: str
    recall: float
    catalogue_share: float
    work_share: float
    multiply_adds: float
    seconds: Timing
    size: int = 0
    params: SearchParams | None = None
    choosing: float = 0.0

    def floor_share(self, floor: Timing, byte: float = 1.0) -> float:
        """All multiply-adds at the best rate of any library, over the time it took: ``floor`` is seconds of one.

        byte: what a multiply-add of bytes counts, where one of floats is 1.
        """
        weighed = self.multiply_adds - (1 - byte) * self.choosing
        least = Timing(tuple(seconds * weighed for seconds in floor.seconds))
        return Ratio.of(least, self.seconds).median

    def speedup_over(self, other: Self) -> float:
        """How many times as many queries/s, round by round."""
        return Ratio.of(other.seconds, self.seconds).median


@dataclass(frozen=True)
class SearchRow:
    """One method at one setting; catalogue_share: evaluations over the catalogue's size; spread: of the times."""

    method: str
    setting: str
    recall_at_50: float
    catalogue_share: float
    work_share: float
    queries_per_second: float
    floor_share: float
    spread: float

    @classmethod
    def of(cls, measured: Measured, floor: Timing) -> Self:
        """As it is shown."""
        return cls(
            measured.method,
            measured.setting,
            recall_at_50=measured.recall,
            catalogue_share=measured.catalogue_share,
            work_share=measured.work_share,
            queries_per_second=1 / measured.seconds.median,
            floor_share=measured.floor_share(floor),
            spread=measured.seconds.spread,
        )


def fastest(measured: Sequence[Measured], recall: float = RECALL) -> Measured | None:
    """Ours at the fastest setting that reaches a recall; None where there is none."""
    enough = [one for one in measured if one.method == OURS and one.recall >= recall]
    return min(enough, key=lambda one: one.seconds.median, default=None)


def figures(measured: Sequence[Measured], floor: Timing) -> Figures:
    """The figures of a contest; None for what was not reached or not measured.

    The best of the re-rankings is the one with the highest recall; ours answers it at the fastest setting that
    reaches that recall. Each of the others has a figure of its own.
    """
    best = fastest(measured)
    exhaustive = next((one for one in measured if one.method == EXHAUSTIVE), None)
    reranked = [one for one in measured if one.method == RERANKED]
    speedups = {one.size: _speedup(fastest(measured, one.recall), one) for one in reranked}
    strongest = max(reranked, key=lambda one: one.recall, default=None)
    return {
        "share_at_recall_95": best.catalogue_share if best else None,
        "work_at_recall_95": best.work_share if best else None,
        "speedup_over_exhaustive_at_recall_95": _speedup(best, exhaustive),
        "exhaustive_floor_share": exhaustive.floor_share(floor) if exhaustive else None,
        "floor_share": best.floor_share(floor) if best else None,
        "floor_share_bytes_as_quarters": best.floor_share(floor, BYTE) if best else None,
        "speedup_over_rerank_at_equal_recall": speedups[strongest.size] if strongest else None,
        **{f"speedup_over_rerank_{size}": speedup for size, speedup in speedups.items()},
    }


def _speedup(mine: Measured | None, other: Measured | None) -> float | None:
    return mine.speedup_over(other) if mine and other else None
