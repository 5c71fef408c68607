"""Indexes on the chosen servers."""

from collections.abc import Callable

from tests.consumers.conftest import new_stage, stage

Figure = Callable[[str, object], None]
"""pytest's `record_property`: a figure that the run prints at its end."""

__all__ = ["Figure", "new_stage", "stage"]
