"""The broker and the store of the rooms' own tests."""

from tests.consumers.conftest import kafka, redis

__all__ = ["kafka", "redis"]
