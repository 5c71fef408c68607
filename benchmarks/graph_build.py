"""How long the graph takes to build, and how well it can be walked: `python -m benchmarks.graph_build --metric DIR`.

The reference vectors, and beyond their number copies of them with noise. Batches grow with the index. Recall is the
share of the true ten nearest under L2, of points beside items, that a walk with a beam of 64 comes to.
"""

import argparse
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.challenges import noisy_copies
from benchmarks.machine import THREADS, Machine, bound_threads
from benchmarks.reference_metric import Ruler
from benchmarks.report import Report
from engine.graph import GraphParams, plan_insert
from engine.index import ItemIndex
from engine.kernels import neighbors
from engine.metric import InnerProduct
from engine.neighbors import BEAM

_BEAM, _TRUE, _QUERIES = 64, 10, 500


@dataclass(frozen=True)
class Row:
    """The state of a build: seconds since its start, on the clock and of processors, of planning and of applying."""

    items: int
    seconds: float
    cpu_seconds: float
    links_changed_per_item: float
    recall_at_10: float


def vectors(reference: np.ndarray, count: int) -> np.ndarray:
    """float32[count, D], in an order of no meaning."""
    rng = np.random.default_rng(5)
    copies = noisy_copies(reference, rng.integers(0, len(reference), max(0, count - len(reference))), rng)
    return np.asarray(rng.permutation(np.concatenate([reference, copies]))[:count])


def build(items: np.ndarray, degree: int, params: GraphParams, most: int) -> Iterator[Row]:
    """Build a graph of all items; a row whenever the index has doubled, and at the end."""
    index = ItemIndex(InnerProduct(items.shape[1]), degree)
    began, cpu, changed, report_at = time.perf_counter(), _cpu_seconds(), 0, 16_384
    while index.rows < len(items):
        rows = np.arange(index.rows, min(len(items), index.rows + min(most, max(1024, index.rows // 8))))
        change = plan_insert(index, rows, torch.from_numpy(items[rows]), params)
        changed += len(change.rows)
        version = np.ones((len(rows), 1), dtype=np.int64)
        index.apply(
            {
                "vectors": [(rows, items[rows])],
                "versions": [(rows, version)],
                "neighbors": [(change.rows, change.neighbors)],
            },
            int(rows[-1]) + 1,
        )
        if index.rows >= min(report_at, len(items)):
            seconds, used = time.perf_counter() - began, _cpu_seconds() - cpu
            yield Row(index.rows, seconds, used, changed / index.rows, _recall(index))
            # What measuring took is not of the build.
            began, cpu = time.perf_counter() - seconds, _cpu_seconds() - used
            report_at *= 2


def _recall(index: ItemIndex) -> float:
    generator = torch.Generator().manual_seed(1)
    points = index.points[: index.rows]
    queries = points[torch.randint(index.rows, (_QUERIES,), generator=generator)]
    queries = queries + 0.3 * points.std(dim=0) * torch.randn(queries.shape, generator=generator)
    everyone, nobody = torch.ones(index.rows, dtype=torch.bool), torch.full((_QUERIES,), -1)
    true = neighbors.exact(queries, points, everyone, nobody, _TRUE).rows
    found = neighbors.walked(index, queries, _BEAM // BEAM).rows[:, :_TRUE]
    return float((true[:, :, None] == found[:, None, :]).any(dim=2).float().mean())


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Build, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metric", type=Path, required=True, help="folder with reference.safetensors")
    parser.add_argument("--items", type=int, default=39_493)
    parser.add_argument("--degree", type=int, default=32)
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8192, help="items of the largest batch")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bound_threads()
    items = vectors(Ruler.load(options.metric).vectors, options.items)
    params = GraphParams(candidates=options.candidates)
    rows = list(build(items, options.degree, params, options.batch))
    figures = {"microseconds_per_item": rows[-1].cpu_seconds / rows[-1].items * 1e6}
    title = f"A graph of {options.degree} links over {options.items:,} items"
    report = Report(title, Machine.here(THREADS), rows, figures)
    report.print()
    if options.json:
        report.write_json(options.json)


if __name__ == "__main__":
    main()
