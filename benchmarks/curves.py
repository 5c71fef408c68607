"""Recall against queries/s: the rate at a recall, and the drawing."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

Point = tuple[float, float]
"""(recall, queries/s) of one setting."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One contestant in a drawing, a point for each setting of its sweep; the highlighted one is drawn thicker."""

    name: str
    points: Sequence[Point]
    highlighted: bool = False


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats in both, by rising recall and falling rate."""
    best: list[Point] = []
    for recall, rate in sorted(points, reverse=True):
        if not best or rate > best[-1][1]:
            best.append((recall, rate))
    return best[::-1]


def rate_at(recall: float, points: Sequence[Point]) -> float | None:
    """Queries/s at a recall, on the front of the points; None where they do not reach it.

    Between two points the logarithm of the rate is interpolated. Where all lie above the recall, the fastest counts.
    """
    reached = [point for point in front(points) if point[0] >= recall]
    if not reached:
        return None
    above, below = reached[0], [point for point in front(points) if point[0] < recall]
    if not below:
        return above[1]
    share = (recall - below[-1][0]) / (above[0] - below[-1][0])
    return math.exp((1 - share) * math.log(below[-1][1]) + share * math.log(above[1]))


_COLOURS, _MARKERS = ("C0", "C1", "C2", "C4", "C5", "C6", "C7", "C8", "C9"), "os^D"
_HIGHLIGHT = ("C3", "*")


def draw(curves: Sequence[Curve], prefix: Path, title: str, recall_name: str, lowest: float = 0.5) -> list[Path]:
    """Draw the curves as PREFIX.png and PREFIX.svg, on a logarithmic axis of queries/s; returns both paths.

    lowest: recall at the left edge; points below it are left out, and a curve without others says so in the legend.
    """
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=recall_name, ylabel="queries/s", yscale="log", xlim=(lowest, 1.005))
    styles = zip(itertools.cycle(_COLOURS), itertools.cycle(_MARKERS), strict=False)
    for curve in curves:
        colour, marker = _HIGHLIGHT if curve.highlighted else next(styles)
        style: dict[str, Any] = {"color": colour, "marker": marker}
        style |= {"markersize": 9, "linewidth": 2.4, "zorder": 3} if curve.highlighted else {"markersize": 4.5}
        points = sorted(point for point in curve.points if point[0] >= lowest)
        label = curve.name if points else f"{curve.name}: below {lowest:g}"
        axes.plot([x for x, _ in points], [y for _, y in points], label=label, **style)
    axes.grid(visible=True, which="both", linewidth=0.4, alpha=0.6)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    # Beside the axes, where no curve can run under it.
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    paths = [prefix.with_name(f"{prefix.name}.{kind}") for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=150)
    return paths
