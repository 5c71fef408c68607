"""What a benchmark leaves behind: a table on the terminal and one JSON object."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from benchmarks.machine import Machine

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Figures = Mapping[str, float | None]
"""Named results; None for one that was not reached or not measured."""

NOTHING = "–"
_FILE_WIDTH = 150
"""Characters of a line where standard output is no terminal."""


@dataclass(frozen=True)
class Report:
    """The result of one benchmark.

    rows: frozen dataclasses of one type, a line of the table each; their fields are its columns. details: more rows,
    under names of their own, for the JSON only.
    """

    title: str
    machine: Machine
    rows: Sequence["DataclassInstance"]
    figures: Figures
    details: Mapping[str, Sequence["DataclassInstance"]] = field(default_factory=dict)

    def print(self, console: Console | None = None) -> None:
        """Show rows and figures on standard output."""
        console = console or Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
        console.print(table(self.rows, self.title))
        for name, value in self.figures.items():
            console.print(f"  {name} {_shown(value)}", highlight=False)
        machine = self.machine
        console.print(f"  {machine.cpu}, {machine.threads} threads, {machine.commit}, {machine.date}", highlight=False)

    def write_json(self, path: Path) -> None:
        """Write one object: title, machine, rows, details, and every figure under its own name."""
        rows = {name: [asdict(row) for row in table] for name, table in {"rows": self.rows, **self.details}.items()}
        report = {"title": self.title, "machine": asdict(self.machine), **rows, **self.figures}
        path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def table(rows: Sequence["DataclassInstance"], title: str) -> Table:
    """A table of dataclasses of one type: a column for each field, headed by its name."""
    drawn = Table(title=title, title_justify="left")
    names = [field.name for field in fields(rows[0])] if rows else []
    for name in names:
        numbers = any(isinstance(getattr(row, name), int | float) for row in rows)
        drawn.add_column(name.replace("_", " "), justify="right" if numbers else "left")
    for row in rows:
        drawn.add_row(*(_shown(getattr(row, name)) for name in names))
    return drawn


def _shown(value: object) -> str:
    """A value in a cell: four significant digits, thousands apart."""
    if value is None:
        return NOTHING
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
