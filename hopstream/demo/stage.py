"""The stage: embedded servers, workers in processes of their own, and a client."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hopstream.client import RecommendClient
from hopstream.embedded import Addresses, EmbeddedServers
from hopstream.generations import create_learned
from hopstream.processes import WorkerProcess
from index_store import GenerationInfo, IndexStore, Server, connect
from producers import Writer

INDEX = "demo"
DEGREE = 32


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that a scene of the demo may use."""

    addresses: Addresses
    server: Server
    info: GenerationInfo
    writer: Writer
    client: RecommendClient
    workers: tuple[WorkerProcess, ...]

    def check(self) -> None:
        """Raise `WorkerDied` if a worker has ended."""
        for worker in self.workers:
            worker.check()


@contextmanager
def servers() -> Iterator[tuple[Addresses, Path]]:
    """The embedded servers and a folder for artefact and logs; both are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="hopstream-demo-") as folder, EmbeddedServers() as addresses:
        yield addresses, Path(folder)


@contextmanager
def stage(addresses: Addresses, artefact: Path) -> Iterator[Stage]:
    """Make a generation of the artefact and start the workers that serve it."""
    settings = {
        "HOPSTREAM_INDEX__NAME": INDEX,
        "HOPSTREAM_KAFKA__BOOTSTRAP_SERVERS": addresses.kafka,
        "HOPSTREAM_REDIS__URL": addresses.redis_url,
    }
    with ExitStack() as stack:
        server = stack.enter_context(connect(addresses.redis_url, writer=True))
        info = create_learned(IndexStore(server, INDEX), artefact, DEGREE)
        # The client first: it must be the last to go, while the workers still drain into its reply topic.
        client = stack.enter_context(RecommendClient(addresses.kafka, INDEX))
        writer = stack.enter_context(Writer(addresses.kafka))
        workers = tuple(
            stack.enter_context(WorkerProcess(role, settings, artefact.parent)) for role in ("updates", "requests")
        )
        yield Stage(addresses, server, info, writer, client, workers)
