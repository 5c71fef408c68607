"""Queries per second against lanes, drawn under the two floors."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from benchmarks.device import LanesRow


def draw(rows: Sequence["LanesRow"], prefix: Path, title: str) -> list[Path]:
    """Draw the setting that was measured with all numbers of lanes as PREFIX.png and PREFIX.svg; returns both paths."""
    mine = sorted((row for row in rows if row.setting == rows[0].setting), key=lambda row: row.lanes)
    lanes = [row.lanes for row in mine]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel="lanes", ylabel="queries/s", xscale="log", yscale="log")
    floors = {
        "if only products took time": [row.queries_per_second / row.arithmetic_share for row in mine],
        "if only memory took time": [row.queries_per_second / row.memory_share for row in mine],
    }
    for name, rates in floors.items():
        axes.plot(lanes, rates, "--", label=name)
    axes.plot(lanes, [row.queries_per_second for row in mine], "o-", label=rows[0].setting)
    axes.grid(visible=True, which="both", linewidth=0.4, alpha=0.6)
    axes.legend(frameon=False, fontsize=9)
    paths = [prefix.with_suffix(suffix) for suffix in (".png", ".svg")]
    for path in paths:
        figure.savefig(path, dpi=150)
    return paths
