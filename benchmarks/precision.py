"""The items' state in float32, bfloat16, float16 and int8: recall, time and bytes.

python -m benchmarks.precision --metric ../shared/reference_metric/taobao --json OUT

The search reads the state only to score pairs and to look histories up; what it estimates and scans is in the sketch,
in bytes at any precision, and at int8 the sketch's codes are the state. Where the beam is scored again, its few rows
come from the float32 state, kept elsewhere and not counted: at that place `state_bytes` are what the search holds.
"""

from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from safetensors import SafetensorError

from benchmarks.challenges import of_ruler
from benchmarks.contest import timed
from benchmarks.machine import THREADS, Machine, bound_threads
from benchmarks.narrow_state import State, narrowed
from benchmarks.reference_metric import ReferenceMetric, Ruler
from benchmarks.report import Report
from benchmarks.search_bench import K, built
from benchmarks.timing import Ratio, alternate
from engine.index import ItemIndex
from engine.query import Query, SearchParams
from engine.search import search

LANES = 128
SETTINGS = (
    SearchParams(k=50, beam=50, width=16, pairs=100, clusters=1, rounds=1),
    SearchParams(k=64, beam=64, width=16, pairs=80, clusters=2, rounds=2),
    SearchParams(k=100, beam=100, width=48, pairs=100, clusters=4, rounds=4),
)
"""The whole beam is asked for, k = beam, and the best 50 of it are the answer."""


@dataclass(frozen=True)
class PrecisionRow:
    """One precision at one beam.

    recall_at_10: of the answers' first ten, what is lost where they are in the wrong order. score_error: the largest of
    a score, over the exact answers. time_over_float32: the median of the rounds, of which the slowest and the fastest
    are ``spread`` apart. Bytes are per item.
    """

    state: str
    beam: int
    rescored: str
    recall_at_50: float
    recall_at_10: float
    score_error: float
    queries_per_second: float
    time_over_float32: float
    spread: float
    state_bytes: int
    sketch_bytes: int
    graph_bytes: int
    other_bytes: int
    bytes_per_item: int


class NarrowMetric(ReferenceMetric):
    """The ruler's metric, which reads the items from what is given here, whatever state the index holds."""

    def __init__(self, weights: dict[str, np.ndarray], stored: State) -> None:
        super().__init__(weights)
        self._stored = stored

    def stored(self, state: torch.Tensor) -> State:
        """What was given."""
        return self._stored


class Bench:
    """The ruler's items in an index, their state at every precision, and its queries."""

    def __init__(self, ruler: Ruler, index: ItemIndex) -> None:
        if index.sketch is None:
            raise TypeError("this index is not searched in compiled code")
        self.ruler, self.index, self.sketch = ruler, index, index.sketch
        self.exact_metric = ReferenceMetric(ruler.weights)
        states = narrowed(index.state, index.sketch)
        self.metrics = {name: NarrowMetric(ruler.weights, stored) for name, stored in states.items()}

    def queries(self, params: SearchParams) -> list[Query]:
        """The ruler's questions."""
        histories = (rows[rows >= 0] for rows in self.ruler.history)
        return [Query(params, rows, np.zeros(len(rows), np.int8)) for rows in histories]

    def found(self, name: str, params: SearchParams, *, rescored: bool) -> np.ndarray:
        """The answers int64[Q, 50] of the search with the state at a precision."""
        self.index.metric = self.metrics[name]
        queries = self.queries(params)
        beams = np.stack([answer.rows for answer in search(self.index, queries, LANES)])
        if not rescored:
            return beams[:, :K]
        best = self._scores(self.exact_metric, queries, beams).topk(K, dim=1).indices
        return np.take_along_axis(beams, best.numpy(), axis=1)

    def recall(self, found: np.ndarray, k: int) -> float:
        """Share of the k best among the first k found."""
        pairs = zip(found[:, :k], self.ruler.exact[:, :k], strict=True)
        return float(np.mean([len(np.intersect1d(mine, exact)) / k for mine, exact in pairs]))

    def error(self, name: str) -> float:
        """How far the scores of the exact answers are from the ruler's, at most."""
        scores = self._scores(self.metrics[name], self.queries(SearchParams()), self.ruler.exact)
        return float((scores - torch.from_numpy(self.ruler.exact_scores)).abs().max())

    def bytes_per_item(self, name: str) -> dict[str, int]:
        """What each column takes of the memory that the search reads, for one item."""
        index, width = self.index, self.index.state.shape[1]
        rest = (index.versions, index.attributes, index.numbers, index.groups)
        parts = {
            "state_bytes": {"float32": 4, "int8": 0}.get(name, 2) * width,
            "sketch_bytes": self.sketch.codes.shape[1] + 4 * self.sketch.interleaved.shape[1],
            "graph_bytes": index.links.element_size() * index.links.shape[1],
            "other_bytes": sum(column.element_size() * column[0].numel() for column in rest),
        }
        return parts | {"bytes_per_item": sum(parts.values())}

    def _scores(self, metric: ReferenceMetric, queries: list[Query], rows: np.ndarray) -> torch.Tensor:
        lanes = np.arange(len(queries))
        users = metric.make_users(len(queries), torch.device("cpu"))
        metric.encode_users(queries, self.index.state, users, lanes)
        return metric.score(self.index.state, torch.from_numpy(rows), users, torch.from_numpy(lanes))


def measured(bench: Bench, rounds: int) -> list[PrecisionRow]:
    """Let all precisions take turns."""
    contestants = [
        (params, name, rescored)
        for params, name, rescored in product(SETTINGS, bench.metrics, (False, True))
        if not (rescored and name == "float32")
    ]
    searches = {
        (params, name, rescored): partial(bench.found, name, params, rescored=rescored)
        for params, name, rescored in contestants
    }
    found = {contestant: run() for contestant, run in searches.items()}
    asked = len(bench.ruler.history)
    timings = alternate({contestant: timed(run, asked) for contestant, run in searches.items()}, rounds)
    rows = []
    for params, name, rescored in contestants:
        answers, timing = found[params, name, rescored], timings[params, name, rescored]
        ratio = Ratio.of(timing, timings[params, "float32", False])
        rows.append(
            PrecisionRow(
                name,
                params.beam,
                "yes" if rescored else "no",
                recall_at_50=bench.recall(answers, K),
                recall_at_10=bench.recall(answers, 10),
                score_error=bench.error("float32" if rescored else name),
                queries_per_second=1 / timing.median,
                time_over_float32=ratio.median,
                spread=ratio.high - ratio.low,
                **bench.bytes_per_item(name),
            )
        )
    return rows


def main(
    metric: Annotated[Path, typer.Option(help="Folder of the reference metric.")] = Path(
        "../shared/reference_metric/taobao"
    ),
    json: Annotated[Path | None, typer.Option(help="Write the report there, as one JSON object.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of every precision, by turns.")] = 7,
) -> None:
    """Measure what narrower item state saves, and what it costs."""
    bound_threads()
    try:
        ruler = Ruler.load(metric)
    except (OSError, SafetensorError, KeyError) as error:
        raise typer.BadParameter(f"{metric} holds no reference metric: {error}", param_hint="--metric") from None
    errors = Console(stderr=True)
    with errors.status("building the graph"):
        index = built(of_ruler(ruler))
    with errors.status("measuring"):
        rows = measured(Bench(ruler, index), rounds)
    title = f"recall@{K} under the reference metric, {len(ruler.vectors):,} items, {len(ruler.history)} queries"
    report = Report(title, Machine.here(THREADS), rows, {})
    report.print()
    if json:
        report.write_json(json)


if __name__ == "__main__":
    typer.run(main)
