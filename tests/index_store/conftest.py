"""A real server process for the whole room, emptied before every test."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from index_store import Batch, Checkpoint, Column, GenerationInfo, IndexStore, Server, ShardWriter, connect
from tests.servers import redis_server


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """The URL of a server that lives as long as the test run."""
    with redis_server() as url:
        yield url


@pytest.fixture
def server(url: str) -> Iterator[Server]:
    """A reader's client of an empty server."""
    with connect(url) as server:
        server.ask("FLUSHALL")
        yield server


@pytest.fixture
def writing(url: str) -> Iterator[Server]:
    """A writer's client."""
    with connect(url, writer=True) as server:
        yield server


@pytest.fixture
def info(server: Server) -> GenerationInfo:
    """A generation of two narrow columns in blocks of four rows, created."""
    info = GenerationInfo(
        index="shop",
        name="g1",
        metric="inner_product",
        metric_version="m1",
        artefact_uri="file:///metric",
        artefact_sha256="0" * 64,
        columns=(Column("vectors", "<f4", 3), Column("neighbors", "<i4", 2)),
        block_rows=4,
    )
    IndexStore(server, "shop").create_generation(info)
    return info


@pytest.fixture
def writer(writing: Server, server: Server, info: GenerationInfo) -> ShardWriter:
    """A writer that has taken the shard."""
    writer = ShardWriter(writing, info, 0)
    writer.take()
    return writer


@pytest.fixture
def one_row() -> Callable[..., Batch]:
    """Makes batches that write the next row, named after it, and its source record."""

    def make(seq: int, value: float = 1.0, next_offset: int | None = None) -> Batch:
        row = np.array([seq - 1])
        return Batch(
            seq,
            rows=seq,
            columns={
                "vectors": [(row, np.full((1, 3), value, "<f4"))],
                "neighbors": [(row, np.full((1, 2), -1, "<i4"))],
            },
            ids_set={f"item-{seq - 1}": seq - 1},
            sources={f"item-{seq - 1}": b"%f" % value},
            checkpoint=None if next_offset is None else Checkpoint(next_offset, "cluster", "topic", 1, 1_000),
        )

    return make
