"""Latency against offered load, drawn."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.scheduling_load import Row


def draw(rows: Sequence[Row], prefix: Path, title: str) -> list[Path]:
    """Draw the median (dashed) and the 99th percentile as PREFIX.png and PREFIX.svg; returns both paths."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel="offered queries/s", ylabel="latency in ms")
    axes.set_yscale("log")
    for number, policy in enumerate(dict.fromkeys(row.policy for row in rows)):
        mine = sorted((row for row in rows if row.policy == policy), key=lambda row: row.offered)
        offered, colour = [row.offered for row in mine], f"C{number}"
        axes.plot(offered, [row.p99_ms for row in mine], "o-", color=colour, label=f"{policy}, p99")
        axes.plot(offered, [row.p50_ms for row in mine], "o--", color=colour, label=f"{policy}, median", markersize=3)
    axes.grid(visible=True, which="both", linewidth=0.4, alpha=0.6)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    paths = [prefix.with_suffix(suffix) for suffix in (".png", ".svg")]
    for path in paths:
        figure.savefig(path, dpi=150)
    return paths
