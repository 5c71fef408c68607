"""The broker and the store of the consumers' tests, for workers that are processes."""

from tests.consumers.conftest import kafka, new_stage, redis, stage

__all__ = ["kafka", "new_stage", "redis", "stage"]
