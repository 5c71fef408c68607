"""The engine's search on the reference metric: recall, evaluations, work and queries/s, beside the plain ways.

python -m benchmarks.search --metric ../shared/reference_metric/taobao --json OUT --plot PREFIX

Every method answers the same queries with the same compiled scoring and the same threads; they take turns. Work counts
multiply-adds, those of scans, estimates and gradients too, as a share of those of exhaustive scoring.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import hnswlib
import numpy as np
import torch
import typer
from rich.console import Console
from safetensors import SafetensorError

from benchmarks.curves import Curve, draw
from benchmarks.machine import THREADS, Machine, bound_threads
from benchmarks.matrix_product import measure
from benchmarks.reference_metric import PAIR_MULTIPLY_ADDS, ReferenceMetric, Ruler
from benchmarks.report import Figures, Report
from benchmarks.timing import alternate
from engine.graph import GraphParams, plan_insert
from engine.index import ItemIndex
from engine.query import Answer, Query, SearchParams
from engine.search import search

K = 50
RECALL = 0.95
DEGREE = 64
LANES = (1, 8, 32, 128)
EXHAUSTIVE_QUERIES = 32
RERANKED = (500, 1_000, 2_000, 4_000)
SETTINGS = tuple(
    SearchParams(k=K, beam=64, width=width, pairs=pairs, clusters=clusters, rounds=rounds)
    for rounds, clusters, pairs, width in (
        (1, 4, 64, 32),
        (2, 4, 50, 32),
        (3, 2, 64, 48),
        (3, 3, 64, 48),
        (3, 4, 50, 32),
        (3, 4, 54, 48),
        (3, 4, 64, 48),
        (3, 6, 80, 48),
        (4, 4, 64, 48),
        (6, 4, 64, 48),
    )
)

_BATCH = 2_048


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


@dataclass(frozen=True)
class LaneRow:
    """The same search with so many lanes."""

    lanes: int
    recall_at_50: float
    queries_per_second: float


@dataclass(frozen=True)
class Outcome:
    """What a method found, int64[Q, 50], and what it took: evaluations and multiply-adds per query."""

    rows: np.ndarray
    evaluations: float
    multiply_adds: float


Method = Callable[[], Outcome]


class Bench:
    """The ruler's items in an index, and its queries."""

    def __init__(self, ruler: Ruler) -> None:
        self.ruler = ruler
        self.metric = ReferenceMetric(ruler.weights)
        self.index = built(self.metric, ruler.vectors)
        self.histories = [history[history >= 0] for history in ruler.history]
        real = (ruler.history >= 0)[:, :, None]
        self.means = (ruler.vectors[ruler.history.clip(min=0)] * real).sum(axis=1) / real.sum(axis=1)
        self.neighbors = hnswlib.Index("ip", ruler.vectors.shape[1])
        self.neighbors.init_index(len(ruler.vectors), M=32, ef_construction=200, random_seed=0)
        self.neighbors.set_num_threads(THREADS)
        self.neighbors.add_items(ruler.vectors)

    def queries(self, params: SearchParams) -> list[Query]:
        """The ruler's questions."""
        return [Query(params, rows, np.zeros(len(rows), np.int8)) for rows in self.histories]

    def ours(self, params: SearchParams, lanes: int) -> Outcome:
        """The engine's search."""
        answers = search(self.index, self.queries(params), lanes)
        found = np.full((len(answers), K), -1)
        for line, answer in enumerate(answers):
            found[line, : len(answer.rows)] = answer.rows
        evaluations = [answer.evaluations for answer in answers]
        work = [self.work(answer, params) for answer in answers]
        return Outcome(found, float(np.mean(evaluations)), float(np.mean(work)))

    def work(self, answer: Answer, params: SearchParams) -> float:
        """Multiply-adds of one search, at most: every near round estimates all neighbours of `width` items."""
        rounds, width = answer.steps - 1, self.metric.dimensions
        near, far = -(-rounds // 2), rounds // 2
        last = params.pairs if rounds == params.rounds else 0
        return float(
            answer.evaluations * PAIR_MULTIPLY_ADDS
            + (answer.evaluations - last) * PAIR_MULTIPLY_ADDS
            + far * params.clusters * self.index.rows * width
            + far * params.clusters * params.beam * width * 5
            + near * params.width * DEGREE * width
        )

    def exhaustive(self, count: int) -> Outcome:
        """Every item scored for the first queries."""
        rows = torch.arange(self.index.rows).repeat(1, 1)
        found = [self._best(line, rows) for line in range(count)]
        return Outcome(np.concatenate(found), self.index.rows, self.index.rows * PAIR_MULTIPLY_ADDS)

    def reranked(self, count: int) -> Outcome:
        """HNSW on the mean vector of the history, and the metric on the best it finds."""
        self.neighbors.set_ef(max(count, 64))
        candidates = torch.from_numpy(self.neighbors.knn_query(self.means, k=count)[0].astype(np.int64))
        users = self.metric.make_users(len(candidates), torch.device("cpu"))
        self.metric.encode_users(self.queries(SearchParams()), self.index.state, users, np.arange(len(candidates)))
        scores = self.metric.score(self.index.state, candidates, users, torch.arange(len(candidates)))
        found = candidates.gather(1, scores.topk(K, dim=1).indices).numpy()
        # What the walk itself multiplies hnswlib does not tell; it is left out, in its favour.
        return Outcome(found, count, count * PAIR_MULTIPLY_ADDS)

    def recall(self, outcome: Outcome) -> float:
        """Share of the exact answers found."""
        pairs = zip(outcome.rows, self.ruler.exact, strict=False)
        return float(np.mean([len(np.intersect1d(mine, exact)) / K for mine, exact in pairs]))

    def _best(self, line: int, rows: torch.Tensor) -> np.ndarray:
        """Halves of the catalogue are two lanes of one user, so that every thread has one."""
        halves = torch.nn.functional.pad(rows, (0, rows.shape[1] % THREADS), value=-1).reshape(THREADS, -1)
        users = self.metric.make_users(THREADS, torch.device("cpu"))
        query = Query(history_rows=self.histories[line], history_codes=np.zeros(len(self.histories[line]), np.int8))
        self.metric.encode_users([query] * THREADS, self.index.state, users, np.arange(THREADS))
        scores = self.metric.score(self.index.state, halves, users, torch.arange(THREADS)).reshape(1, -1)
        return scores[:, : rows.shape[1]].topk(K, dim=1).indices.numpy()


def built(metric: ReferenceMetric, vectors: np.ndarray) -> ItemIndex:
    """An index of these vectors, its graph built batch by batch."""
    index = ItemIndex(metric, DEGREE)
    params = GraphParams(candidates=2 * DEGREE)
    for start in range(0, len(vectors), _BATCH):
        rows = np.arange(start, min(len(vectors), start + _BATCH))
        change = plan_insert(index, rows, torch.from_numpy(vectors[rows]), params)
        writes = {
            "vectors": [(rows, vectors[rows])],
            "neighbors": [(change.rows, change.neighbors)],
            "versions": [(rows, np.ones((len(rows), 1), np.int64))],
        }
        index.apply(writes, int(rows[-1]) + 1)
    return index


def measured(bench: Bench, rounds: int) -> tuple[list[SearchRow], list[LaneRow], Figures]:
    """Let all methods take turns."""
    methods: dict[tuple[str, str], tuple[Method, int]] = {
        ("exhaustive", "all items"): (lambda: bench.exhaustive(EXHAUSTIVE_QUERIES), EXHAUSTIVE_QUERIES)
    }
    total = len(bench.histories)
    for count in RERANKED:
        methods["HNSW + re-ranking", f"{count:,} items"] = (partial(bench.reranked, count), total)
    for params in SETTINGS:
        setting = f"{params.rounds} rounds, {params.clusters} clusters, {params.pairs} pairs, width {params.width}"
        methods["ours", setting] = (partial(bench.ours, params, LANES[-1]), total)
    outcomes = {name: method() for name, (method, _) in methods.items()}
    timings = alternate({name: _timed(method) for name, (method, _) in methods.items()}, rounds, warm_ups=0)
    floor = measure()[0].multiply_adds_per_second
    everything = len(bench.ruler.vectors) * PAIR_MULTIPLY_ADDS
    rows = []
    for name, outcome in outcomes.items():
        rate = methods[name][1] / timings[name].median
        rows.append(
            SearchRow(
                *name,
                recall_at_50=bench.recall(outcome),
                catalogue_share=outcome.evaluations / len(bench.ruler.vectors),
                work_share=outcome.multiply_adds / everything,
                queries_per_second=rate,
                floor_share=outcome.multiply_adds * rate / floor,
                spread=timings[name].spread,
            )
        )
    return rows, _lane_rows(bench, rows, rounds), _figures(rows) | {"floor_multiply_adds_per_second": floor}


def _timed(method: Method) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        method()
        return time.perf_counter() - start

    return run


def _figures(rows: Sequence[SearchRow]) -> dict[str, float | None]:
    """The figures of the issue; None where recall 0.95 is not reached."""
    exhaustive = rows[0]
    reranked = [row for row in rows if row.method.startswith("HNSW")]
    ours = [row for row in rows if row.method == "ours"]
    enough = [row for row in ours if row.recall_at_50 >= RECALL]
    best = max(enough, key=lambda row: row.queries_per_second) if enough else None
    ratios = [
        max(row.queries_per_second for row in equal) / other.queries_per_second
        for other in reranked
        if (equal := [row for row in ours if row.recall_at_50 >= other.recall_at_50])
    ]
    return {
        "share_at_recall_95": best.catalogue_share if best else None,
        "work_at_recall_95": best.work_share if best else None,
        "speedup_over_exhaustive_at_recall_95": (
            best.queries_per_second / exhaustive.queries_per_second if best else None
        ),
        "exhaustive_floor_share": exhaustive.floor_share,
        "speedup_over_rerank_at_equal_recall": min(ratios) if ratios else None,
        "floor_share": best.floor_share if best else None,
    }


def _lane_rows(bench: Bench, rows: Sequence[SearchRow], rounds: int) -> list[LaneRow]:
    """The fastest setting that reaches the recall, with fewer lanes and more."""
    ours = [row for row in rows if row.method == "ours"]
    both = zip(ours, SETTINGS, strict=True)
    enough = [(row.queries_per_second, params) for row, params in both if row.recall_at_50 >= RECALL]
    if not enough:
        return []
    params = max(enough, key=lambda pair: pair[0])[1]
    outcomes = {lanes: bench.ours(params, lanes) for lanes in LANES}
    timings = alternate({lanes: _timed(partial(bench.ours, params, lanes)) for lanes in LANES}, rounds, 0)
    return [
        LaneRow(lanes, bench.recall(outcomes[lanes]), len(bench.histories) / timings[lanes].median) for lanes in LANES
    ]


def main(
    metric: Annotated[Path, typer.Option(help="Folder of the reference metric.")] = Path(
        "../shared/reference_metric/taobao"
    ),
    json: Annotated[Path | None, typer.Option(help="Write the report there, as one JSON object.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw PREFIX.png and PREFIX.svg.", metavar="PREFIX")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of every method, by turns.")] = 5,
) -> None:
    """Measure the engine's search where an easy metric cannot flatter it."""
    bound_threads()
    try:
        ruler = Ruler.load(metric)
    except (OSError, SafetensorError, KeyError) as error:
        raise typer.BadParameter(f"{metric} holds no reference metric: {error}", param_hint="--metric") from None
    errors = Console(stderr=True)
    with errors.status("building the graph"):
        bench = Bench(ruler)
    with errors.status("measuring"):
        rows, lanes, figures = measured(bench, rounds)
    title = f"recall@{K} under the reference metric, {len(ruler.vectors):,} items, {len(ruler.history)} queries"
    report = Report(title, Machine.here(THREADS), rows, figures, {"lanes": lanes})
    report.print()
    Report("with so many lanes", report.machine, lanes, {}).print()
    if json:
        report.write_json(json)
    if plot:
        curves: dict[str, list[tuple[float, float]]] = {row.method: [] for row in rows}
        for row in rows:
            curves[row.method].append((row.recall_at_50, row.queries_per_second))
        drawn = [Curve(name, points, highlighted=name == "ours") for name, points in curves.items()]
        draw(drawn, plot, f"{len(ruler.vectors):,} items, reference metric, {THREADS} threads", f"recall@{K}")


if __name__ == "__main__":
    typer.run(main)
