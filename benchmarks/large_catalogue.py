"""The search on a catalogue that copies with noise make large, beside the catalogue that they were made from."""

import tempfile
from dataclasses import replace
from itertools import starmap
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks.challenges import SEED, Challenge, expanded
from benchmarks.contest import LANES, Contestant, Lines, compete
from benchmarks.depth import depth_rows
from benchmarks.machine import THREADS, Machine
from benchmarks.report import Report
from benchmarks.search_bench import DEGREE, RELEVANT, Bench, K, asked_for, built, link_relevant
from benchmarks.search_figures import BYTE, SearchRow, fastest
from engine.index import ItemIndex

TEMPORARY = Path(tempfile.gettempdir())
QUERIES, TIMES = 64, 8
"""So many queries, whose exact answers are computed, asked so often that they fill the lanes."""

SETTINGS = tuple(
    starmap(
        asked_for,
        (
            (1, 1, 80, 16),
            (1, 1, 90, 12),
            (1, 1, 100, 16),
            (1, 1, 130, 16),
            (1, 1, 160, 32),
            (2, 1, 64, 16),
            (2, 2, 80, 16),
            (4, 2, 64, 24),
        ),
    )
)


def compare(challenge: Challenge, items: int, cache: Path, rounds: int, errors: Console) -> Report:
    """How much more a query takes on so many items, both at their fastest setting that reaches the recall."""
    large_challenge = expanded(challenge.first(QUERIES), items)
    index = cached(large_challenge, cache, errors)
    with errors.status("exact answers, and the small graph"):
        large = repeated(large_challenge, index)
        index_of_few = built(challenge, relevant=False)
        link_relevant(index_of_few, np.arange(index_of_few.rows))
        small = repeated(challenge.first(QUERIES), index_of_few)
    with errors.status("measuring"):
        contestants = [Contestant.ours(bench, params) for bench in (small, large) for params in SETTINGS]
        results, floor = compete(contestants, rounds)
    on_small, on_large = results[: len(SETTINGS)], results[len(SETTINGS) :]
    best_small, best = fastest(on_small), fastest(on_large)
    figures = {
        "share_at_recall_95": best.catalogue_share if best else None,
        "work_at_recall_95": best.work_share if best else None,
        "floor_share": best.floor_share(floor.seconds) if best else None,
        "floor_share_bytes_as_quarters": best.floor_share(floor.seconds, BYTE) if best else None,
        "cost_growth": best_small.speedup_over(best) if best_small and best else None,
    }
    rows = [SearchRow.of(one, floor.seconds) for one in on_large]
    details: Lines = {
        f"{small.index.rows:,} items": [SearchRow.of(one, floor.seconds) for one in on_small],
        "depth": depth_rows(large, LANES[-1], rounds),
        "floors": floor.lines,
    }
    title = f"recall@{K}, {challenge.name} metric, {items:,} items, {QUERIES} queries, {TIMES} times each"
    return Report(title, Machine.here(THREADS), rows, figures, details)


def repeated(challenge: Challenge, index: ItemIndex) -> Bench:
    """A bench that asks every query several times, so that lanes are full, and answers it exactly once."""
    exact = Bench(challenge, index).exact
    again = replace(challenge, histories=challenge.histories * TIMES, exact=np.tile(exact, (TIMES, 1)))
    return Bench(again, index)


def cached(challenge: Challenge, folder: Path, errors: Console, device: torch.device | str = "cpu") -> ItemIndex:
    """An index of the challenge's items on a device, its relevant links planned at once, from an earlier run if any.

    To be deleted by hand when the code that builds graphs changes.
    """
    items = len(challenge.vectors)
    path = folder / f"hopstream-{challenge.name.replace(' ', '-')}-{items}-{DEGREE}-{RELEVANT}-{SEED}.npy"
    if path.exists():
        return _loaded(challenge, np.load(path), device)
    with Progress(console=errors) as progress:
        task = progress.add_task(f"building a graph of {items:,} items", total=items)
        graph = built(challenge, lambda rows: progress.update(task, completed=rows), relevant=False)
    index = _loaded(challenge, graph.links[:items].numpy(), device)
    with errors.status("looking for what is relevant to each item"):
        link_relevant(index, np.arange(items))
    folder.mkdir(parents=True, exist_ok=True)
    np.save(path, index.links[:items].cpu().numpy())
    return index


def _loaded(challenge: Challenge, links: np.ndarray, device: torch.device | str) -> ItemIndex:
    index = ItemIndex(challenge.metric, DEGREE, device=device, relevant=RELEVANT)
    versions = np.ones((len(links), 1), np.int64)
    columns = {"vectors": challenge.vectors, "biases": challenge.biases, "versions": versions}
    index.load({**columns, "neighbors": links[:, :DEGREE], "relevant": links[:, DEGREE:]})
    return index
