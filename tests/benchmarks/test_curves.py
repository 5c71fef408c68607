"""Recall against queries/s."""

import pytest

from benchmarks.curves import Curve, draw, front, rate_at

POINTS = [(0.90, 1000.0), (0.80, 900.0), (0.99, 100.0), (0.70, 4000.0)]


def test_front_leaves_out_what_another_beats_in_both():
    """0.80 at 900 is beaten by 0.90 at 1,000."""
    assert front(POINTS) == [(0.70, 4000.0), (0.90, 1000.0), (0.99, 100.0)]


@pytest.mark.parametrize(
    ("recall", "rate"),
    [(0.90, 1000.0), (0.80, 2000.0), (0.945, 10**2.5), (0.5, 4000.0), (0.995, None)],
    ids=["at a point", "between two", "between the last two", "below all", "beyond all"],
)
def test_rate_at_a_recall_is_read_off_the_front(recall, rate):
    """Between two points the logarithm is interpolated; nothing is made up beyond the last one."""
    assert rate_at(recall, POINTS) == (None if rate is None else pytest.approx(rate))


def test_drawing_names_every_curve(tmp_path):
    """One PNG and one SVG, whose text names the axes and every contestant, one without points in the picture too."""
    curves = [Curve("ours", POINTS, highlighted=True), Curve("theirs", [(0.6, 50.0)]), Curve("low", [(0.1, 9.0)])]
    png, svg = draw(curves, tmp_path / "structures", "A title", "recall@10")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text(encoding="utf-8")
    for name in ("ours", "theirs", "low: below 0.5", "recall@10", "queries/s", "A title"):
        assert f"<!-- {name} -->" in text
