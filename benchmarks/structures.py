"""What the engine's search grew from: recall against queries/s, one structure of one library beside the other.

python -m benchmarks.structures --metric ../shared/reference_metric/taobao --json OUT --plot PREFIX

Items and queries are those of the reference metric, under the inner product: a query is the mean vector of a user's
history. Every peer gets all queries in one call, and the same threads; peers take turns, setting by setting.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from safetensors import SafetensorError
from safetensors.numpy import load_file

from benchmarks.curves import Curve, draw
from benchmarks.machine import THREADS, Machine, bound_threads
from benchmarks.peers import PEERS, Peer, Unavailable
from benchmarks.peers.contest import PATIENCE, Measured, compete
from benchmarks.peers.exact import FaissFlat
from benchmarks.peers.graphs import FaissHnsw, Hnswlib
from benchmarks.peers.ours import Ours
from benchmarks.peers.process import Task
from benchmarks.report import Report
from benchmarks.timing import Ratio

K = 10
RECALL = 0.95
OURS: type[Peer] = Ours
"""Which of the peers the figures are of."""

Results = Mapping[type[Peer], Measured | Exception]


@dataclass(frozen=True)
class StructureRow:
    """One structure: queries/s at recall 0.95, also as a multiple of exhaustive search.

    note: parameters of building, and where the sweep was cut short; or why nothing was measured.
    """

    method: str
    build_seconds: float | None
    highest_recall: float | None
    queries_per_second: float | None
    over_exhaustive: float | None
    note: str


@dataclass(frozen=True)
class PointRow:
    """One setting of one structure; spread: (slowest − fastest) / median of its rounds."""

    method: str
    parameter: str
    setting: float
    recall_at_10: float
    queries_per_second: float
    spread: float


def read(metric: Path, queries: int) -> Task:
    """The reference metric's items, and the mean vectors of its first users' histories."""
    tensors = load_file(metric / "reference.safetensors")
    vectors, history = tensors["item_vectors"], tensors["query_history"][:queries].astype(np.int64)
    real = (history >= 0)[:, :, None]
    means = (vectors[history.clip(min=0)] * real).sum(axis=1) / real.sum(axis=1)
    return Task(np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(means, np.float32), K, THREADS)


def report(results: Results, task: Task) -> Report:
    """Rows for the table, points for the JSON, and how much faster ours is than the libraries of reference."""
    rows, points = [], []
    for peer, result in results.items():
        method = _method(peer)
        if isinstance(result, Exception):
            why = "not available" if isinstance(result, Unavailable) else "failed"
            rows.append(StructureRow(method, None, None, None, None, f"{why}: {result}"))
            continue
        at, speedup = result.seconds_at(RECALL), _speedup(results, peer, FaissFlat)
        rate = len(task.queries) / at.median if at else None
        highest = max(result.recalls.values())
        rows.append(StructureRow(method, result.build_seconds, highest, rate, speedup, _note(peer, result)))
        points += [
            PointRow(method, peer.parameter, setting, recall, len(task.queries) / timing.median, timing.spread)
            for (setting, recall), timing in zip(result.recalls.items(), result.timings.values(), strict=True)
        ]
    figures = {
        "ours_over_hnswlib": _speedup(results, OURS, Hnswlib),
        "ours_over_faiss_hnsw": _speedup(results, OURS, FaissHnsw),
    }
    title = f"recall@{K} = {RECALL} by inner product, {len(task.vectors):,} items, {len(task.queries)} queries"
    return Report(title, Machine.here(task.threads), rows, figures, {"points": points})


def _method(peer: type[Peer]) -> str:
    return f"{peer.structure}: {peer.library}"


def _note(peer: type[Peer], result: Measured) -> str:
    if result.too_slow is None:
        return peer.built_with
    return f"{peer.built_with}; cut short: {peer.parameter} {result.too_slow:g} takes over {PATIENCE:g} s"


def _speedup(results: Results, peer: type[Peer], beside: type[Peer]) -> float | None:
    """How many times as many queries/s a peer answers at the recall as another one; None if one does not reach it."""
    mine, theirs = results.get(peer), results.get(beside)
    if not isinstance(mine, Measured) or not isinstance(theirs, Measured):
        return None
    seconds = mine.seconds_at(RECALL), theirs.seconds_at(RECALL)
    return Ratio.of(seconds[1], seconds[0]).median if seconds[0] and seconds[1] else None


def main(
    metric: Annotated[Path, typer.Option(help="Folder of the reference metric.")] = Path(
        "../shared/reference_metric/taobao"
    ),
    queries: Annotated[int, typer.Option(min=1, help="How many of its queries.")] = 512,
    json: Annotated[Path | None, typer.Option(help="Write the report there, as one JSON object.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw PREFIX.png and PREFIX.svg.", metavar="PREFIX")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the items, one round.")] = False,
) -> None:
    """Compare the structures that the engine's search grew from."""
    bound_threads()
    errors = Console(stderr=True)
    try:
        task = read(metric, queries)
    except (OSError, SafetensorError, KeyError) as error:
        raise typer.BadParameter(f"{metric} holds no reference metric: {error}", param_hint="--metric") from None
    if quick:
        task = Task(task.vectors[::10].copy(), task.queries, task.k, task.threads)
    with errors.status("") as status:
        results = compete(PEERS, task, rounds=1 if quick else 5, progress=status.update)
    found = report(results, task)
    found.print()
    if json:
        found.write_json(json)
    if plot:
        curves = [
            Curve(_method(peer), result.points(len(task.queries)), highlighted=peer is OURS)
            for peer, result in results.items()
            if isinstance(result, Measured)
        ]
        draw(curves, plot, f"{len(task.vectors):,} items, inner product, {task.threads} threads", f"recall@{K}")


if __name__ == "__main__":
    typer.run(main)
