"""Reports: a table for people, one JSON object for machines."""

import io
import json
from dataclasses import dataclass

import pytest
from rich.console import Console

from benchmarks.machine import Machine
from benchmarks.report import Report


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    method: str
    recall_at_10: float | None
    queries_per_second: float


@pytest.fixture
def report():
    """Two rows and two figures, one of each not measured."""
    rows = [Row("ours", 0.95123, 12345.6), Row("theirs", None, 0.5)]
    return Report("A title", Machine.here(), rows, {"speedup": 1.5, "share": None})


def test_table_shows_rows_and_figures(report):
    """Headings are the fields' names; what was not measured is a dash."""
    out = io.StringIO()
    report.print(Console(file=out, width=120))
    text = out.getvalue()
    assert "queries per second" in text
    ours, theirs = (next(line for line in text.splitlines() if name in line) for name in ("ours", "theirs"))
    assert "0.9512" in ours
    assert "12,346" in ours
    assert "–" in theirs
    assert "speedup 1.5" in text
    assert "share –" in text


def test_json_is_one_object(report, tmp_path):
    """Rows, every figure under its own name, and what it was measured on."""
    report.write_json(tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert found["rows"][0] == {"method": "ours", "recall_at_10": 0.95123, "queries_per_second": 12345.6}
    assert found["speedup"] == 1.5
    assert found["share"] is None
    assert {"commit", "cpu", "date", "python", "threads", "versions"} <= set(found["machine"])


def test_a_figure_that_is_no_number_is_refused(report, tmp_path):
    """NaN is no JSON, and no result."""
    broken = Report(report.title, report.machine, report.rows, {"speedup": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        broken.write_json(tmp_path / "out.json")
