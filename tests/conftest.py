"""What holds for all tests."""

import pytest
import torch

from hopstream.embedded import find_redis_server

# Two cores are shared by servers, workers and pytest itself; more threads only wait for each other.
torch.set_num_threads(1)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which servers the tests run against."""
    redis = find_redis_server()
    return ["kafka: embedded broker (librdkafka's mock cluster)", f"redis: {redis.version} ({redis.path})"]
