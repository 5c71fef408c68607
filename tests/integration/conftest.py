"""Indexes on the chosen servers."""

from tests.consumers.conftest import new_stage, stage

__all__ = ["new_stage", "stage"]
