"""The search on a GPU, from one lane to thousands: `python -m benchmarks.device --metric FOLDER --json OUT`.

Beside each number of lanes stand two floors, measured on the same device: what the search multiplies at the rate of
its float32 matrix product, and what it cannot but move at the rate of its memory. Behind them what the device makes of
scoring every item in plain torch. `--items` adds items up to so many, as `benchmarks.search` does.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks import challenges
from benchmarks.challenges import expanded
from benchmarks.contest import described
from benchmarks.counting import fewest_bytes
from benchmarks.device_drawing import draw
from benchmarks.device_peers import TOGETHER, exhaustive
from benchmarks.large_catalogue import QUERIES, TEMPORARY, cached
from benchmarks.machine import Machine, bound_threads
from benchmarks.report import Report
from benchmarks.search_bench import Bench, Found, K, asked_for
from engine.query import Query, SearchParams
from engine.search import ParallelSearch, answered

LANES = (1, 32, 128, 512, 1_024, 2_048, 4_096)
FEWEST_QUERIES = 64
SETTINGS = (
    asked_for(1, 1, 80, 16),
    asked_for(1, 1, 100, 16),
    asked_for(1, 1, 130, 16),
    asked_for(2, 2, 80, 16),
    asked_for(4, 2, 64, 24),
)
WANTED_RECALL = 0.95


@dataclass(frozen=True)
class LanesRow:
    """What so many lanes make of it, or so many queries at once of scoring all.

    arithmetic_share, memory_share: a floor's time over the time that it took.
    """

    lanes: int
    setting: str
    recall_at_50: float
    catalogue_share: float
    queries_per_second: float
    arithmetic_share: float
    memory_share: float


@dataclass(frozen=True)
class Floors:
    """Multiply-adds and bytes, read and written, that the device manages in a second."""

    multiply_adds: float
    bytes: float

    @classmethod
    def of(cls, device: torch.device, size: int = 8_192) -> "Floors":
        """Measured by a matrix product of float32 and by a copy, size² numbers each."""
        left, right = torch.rand(size, size, device=device), torch.rand(size, size, device=device)
        product = _seconds(lambda: left @ right, device)
        copy = _seconds(lambda: left.copy_(right), device)
        return cls(size**3 / product, 2 * left.nbytes / copy)


def _seconds(run: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    """The median of several runs after a first one."""
    times = []
    for _ in range(1 + rounds):
        start = time.perf_counter()
        run()
        if device.type != "cpu":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def measured(bench: Bench, params: SearchParams, lanes: int, floors: Floors, rounds: int) -> LanesRow:
    """The bench's queries, asked again and again until all lanes are full, in so many lanes that were there before."""
    asked = repeated([replace(query, params=params) for query in bench.queries], max(lanes, FEWEST_QUERIES))
    outcome = bench.outcome(lambda: bench.ours(asked, lanes))
    first = replace(outcome, rows=outcome.rows[: len(bench.exact)])
    running = ParallelSearch(bench.index, lanes)
    answers = answered(running, asked)
    seconds = _seconds(lambda: answered(running, asked), bench.index.device, rounds) / len(asked)
    bytes_moved = sum(fewest_bytes(bench.index, *pair) for pair in zip(asked, answers, strict=True)) / len(asked)
    return LanesRow(
        lanes,
        described(params),
        recall_at_50=first.recall(bench.exact),
        catalogue_share=outcome.evaluations / bench.index.rows,
        queries_per_second=1 / seconds,
        arithmetic_share=outcome.multiply_adds / floors.multiply_adds / seconds,
        memory_share=bytes_moved / floors.bytes / seconds,
    )


def exhaustive_row(bench: Bench, floors: Floors, rounds: int) -> LanesRow:
    """All items scored for the bench's queries."""
    outcome = bench.outcome(lambda: Found(exhaustive(bench, bench.queries)))
    seconds = _seconds(lambda: exhaustive(bench, bench.queries), bench.index.device, rounds) / len(bench.queries)
    bytes_moved = 4 * bench.index.rows * bench.index.state.shape[1] / TOGETHER
    return LanesRow(
        TOGETHER,
        "all items",
        recall_at_50=outcome.recall(bench.exact),
        catalogue_share=outcome.evaluations / bench.index.rows,
        queries_per_second=1 / seconds,
        arithmetic_share=outcome.multiply_adds / floors.multiply_adds / seconds,
        memory_share=bytes_moved / floors.bytes / seconds,
    )


def repeated(queries: Sequence[Query], count: int) -> list[Query]:
    """So many queries, the same ones again where there are fewer."""
    return [queries[number % len(queries)] for number in range(count)]


def measure(bench: Bench, lanes: Sequence[int], rounds: int, name: str, floors: Floors) -> Report:
    """Every setting with the most lanes, and the fastest of those that reach the recall with fewer."""
    widest = {params: measured(bench, params, max(lanes), floors, rounds) for params in SETTINGS}
    able = {params: row for params, row in widest.items() if row.recall_at_50 >= WANTED_RECALL} or widest
    best = max(able, key=lambda params: able[params].queries_per_second)
    rows = [measured(bench, best, count, floors, rounds) for count in sorted(lanes)[:-1]] + list(widest.values())
    every = exhaustive_row(bench, floors, rounds)
    figures = {
        "multiply_adds_per_second": floors.multiply_adds,
        "bytes_per_second": floors.bytes,
        "batched_over_one_lane": widest[best].queries_per_second / rows[0].queries_per_second,
        "speedup_over_exhaustive": widest[best].queries_per_second / every.queries_per_second,
    }
    title = f"{name}: recall@{K}, {bench.challenge.name} metric, {bench.index.rows:,} items"
    return Report(title, Machine.here(), [*rows, every], figures)


def main(
    metric: Annotated[Path, typer.Option(help="Folder of the reference metric, or of a trained one.")] = Path(
        "../shared/reference_metric/taobao"
    ),
    data: Annotated[Path, typer.Option(help="Data set whose users ask under a trained metric.")] = Path(
        "../shared/data/taobao"
    ),
    device: Annotated[str, typer.Option(help="Where to search, as torch names it.")] = "cuda",
    items: Annotated[int | None, typer.Option(min=1, help="So many items, the others copies with noise.")] = None,
    lanes: Annotated[list[int] | None, typer.Option(help="Numbers of lanes, one option each.")] = None,
    cache: Annotated[Path, typer.Option(help="Where graphs are kept.")] = TEMPORARY,
    json: Annotated[Path | None, typer.Option(help="Write the report there, as one JSON object.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw PREFIX.png and PREFIX.svg.", metavar="PREFIX")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of every setting.")] = 5,
) -> None:
    """Measure the engine's search on a GPU."""
    place, errors = torch.device(device), Console(stderr=True)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("there is no GPU: not measured", param_hint="--device")
    challenge = challenges.load(metric, data)
    if items is not None:
        if items < len(challenge.vectors):
            raise typer.BadParameter(f"there are {len(challenge.vectors):,} already", param_hint="--items")
        challenge = expanded(challenge.first(QUERIES), items)
    index = cached(challenge, cache, errors, place)
    bound_threads()  # the graph may take all
    bench = Bench(challenge, index)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else device
    report = measure(bench, lanes or LANES, rounds, name, Floors.of(place))
    report.print()
    if json:
        report.write_json(json)
    if plot:
        draw([row for row in report.rows if isinstance(row, LanesRow)], plot, report.title)


if __name__ == "__main__":
    typer.run(main)
