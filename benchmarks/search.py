"""The engine's search under a learned metric: recall, evaluations, work and queries/s, beside the plain ways.

python -m benchmarks.search --metric ../shared/reference_metric/taobao --json OUT --plot PREFIX

All methods answer the same queries with the same compiled scoring on the same threads; they take turns, and in every
round the floor, the best matrix-product rate of any library present, is measured beside them. Work counts
multiply-adds, those of scans, estimates, gradients and folding too, as a share of those of exhaustive scoring.
`--items 1000000` is another measurement: of a catalogue that copies with noise make so large.
"""

from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from safetensors import SafetensorError

from benchmarks import challenges
from benchmarks.contest import LANES, Contestant, Lines, compete, lane_rows
from benchmarks.curves import Curve, draw, front
from benchmarks.depth import depth_rows
from benchmarks.filtered import filter_rows
from benchmarks.large_catalogue import TEMPORARY, compare
from benchmarks.learned_peers import NANN_SETTINGS, SL2G_SETTINGS, NannParams
from benchmarks.machine import THREADS, Machine, bound_threads
from benchmarks.report import Report
from benchmarks.search_bench import K, asked_for, built
from benchmarks.search_figures import EXHAUSTIVE, OURS, RERANKED, SearchRow, fastest, figures
from benchmarks.search_methods import Peers
from engine.errors import ArtifactError
from hopstream.errors import DataError

EXHAUSTIVE_QUERIES = 64
RERANKED_SIZES = (500, 1_000, 2_000, 4_000)
SETTINGS = tuple(
    starmap(
        asked_for,
        (
            (1, 1, 50, 8),
            (1, 1, 64, 8),
            (1, 1, 80, 16),
            (1, 1, 90, 12),
            (1, 1, 100, 16),
            (1, 1, 130, 16),
            (2, 1, 50, 8),
            (2, 1, 64, 16),
            (2, 2, 80, 16),
            (3, 2, 64, 16),
            (4, 2, 64, 24),
            (4, 4, 80, 24),
        ),
    )
)


def contestants(bench: Peers, *, peers: bool) -> list[Contestant]:
    """All that take turns; SL2G and NANN, which take as long as all others together, where ``peers``."""
    every, first = bench.queries, bench.queries[:EXHAUSTIVE_QUERIES]
    found = [Contestant(bench, EXHAUSTIVE, "all items", partial(bench.exhaustive, first), len(first))]
    found += [
        Contestant(bench, RERANKED, f"{count:,} items", partial(bench.reranked, count), len(every), count)
        for count in RERANKED_SIZES
    ]
    if peers:
        found += [
            Contestant(bench, "SL2G", f"ef {ef}", partial(bench.sl2g, ef), len(every), ef) for ef in SL2G_SETTINGS[1::2]
        ]
        found += [
            Contestant(bench, "NANN", _numbers(params), partial(bench.nann, params), len(every))
            for params in NANN_SETTINGS[1:]
        ]
    return found + [Contestant.ours(bench, params) for params in SETTINGS]


def _numbers(params: NannParams) -> str:
    return f"{' '.join(map(str, params.kept))} kept, {' '.join(map(str, params.rounds))} rounds"


def measured(bench: Peers, rounds: int, *, peers: bool) -> Report:
    """Let all take turns; lanes and filters at the fastest of our settings that reaches the recall."""
    results, floor = compete(contestants(bench, peers=peers), rounds)
    best = fastest(results)
    params = best.params if best and best.params else SETTINGS[-1]
    details: Lines = {
        "lanes": lane_rows(bench, params, rounds),
        "filters": filter_rows(bench, params, LANES[-1], rounds),
        "depth": depth_rows(bench, LANES[-1], rounds),
        "floors": floor.lines,
    }
    rows = [SearchRow.of(one, floor.seconds) for one in results]
    title = f"recall@{K}, {bench.challenge.name} metric, {bench.index.rows:,} items, {len(bench.queries)} queries"
    return Report(title, Machine.here(THREADS), rows, figures(results, floor.seconds), details)


def main(
    metric: Annotated[Path, typer.Option(help="Folder of the reference metric, or of a trained one.")] = Path(
        "../shared/reference_metric/taobao"
    ),
    data: Annotated[Path, typer.Option(help="Data set whose users ask under a trained metric.")] = Path(
        "../shared/data/taobao"
    ),
    items: Annotated[int | None, typer.Option(help="Measure on so many items instead, most of them copies.")] = None,
    cache: Annotated[Path, typer.Option(help="Where the graphs of large catalogues are kept.")] = TEMPORARY,
    json: Annotated[Path | None, typer.Option(help="Write the report there, as one JSON object.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw PREFIX.png and PREFIX.svg.", metavar="PREFIX")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of every method, by turns.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Without SL2G and NANN.")] = False,
) -> None:
    """Measure the engine's search where an easy metric cannot flatter it."""
    bound_threads()
    errors = Console(stderr=True)
    try:
        challenge = challenges.load(metric, data)
    except (OSError, SafetensorError, KeyError, ArtifactError, DataError) as error:
        raise typer.BadParameter(f"{metric} holds no metric: {error}", param_hint="--metric") from None
    if items is not None and items <= len(challenge.vectors):
        raise typer.BadParameter(f"the metric has {len(challenge.vectors):,} itself", param_hint="--items")
    if items is not None:
        report = compare(challenge, items, cache, rounds, errors)
    else:
        with errors.status("building the graph"):
            bench = Peers(challenge, built(challenge))
        with errors.status("measuring"):
            report = measured(bench, rounds, peers=not quick)
    report.print()
    for name, rows in report.details.items():
        Report(name, report.machine, rows, {}).print()
    if json:
        report.write_json(json)
    if plot:
        draw(_curves(report), plot, report.title, f"recall@{K}")


def _curves(report: Report) -> list[Curve]:
    """A curve for each method, without the settings that another one of its own beats in both."""
    rows = [row for row in report.rows if isinstance(row, SearchRow)]
    points: dict[str, list[tuple[float, float]]] = {row.method: [] for row in rows}
    for row in rows:
        points[row.method].append((row.recall_at_50, row.queries_per_second))
    return [Curve(name, front(mine), highlighted=name == OURS) for name, mine in points.items()]


if __name__ == "__main__":
    typer.run(main)
