"""The stage: a generation of the metric on some servers, the workers that serve it, and a client."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hopstream.client import RecommendClient
from hopstream.errors import DemoError
from hopstream.generations import create_learned
from hopstream.loading import SHARD
from hopstream.processes import WorkerProcess, environment_of
from hopstream.settings import Settings
from index_store import GenerationInfo, IndexStore, Server, connect
from messages import Topics
from producers import Writer

_ROLES = ("updates", "requests")
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that a scene of the demo may use. workers: its own ones, none where others serve."""

    topics: Topics
    server: Server
    store: IndexStore
    info: GenerationInfo
    writer: Writer
    client: RecommendClient
    workers: tuple[WorkerProcess, ...]

    def check(self) -> None:
        """Raise `WorkerDied` if a worker has ended."""
        for worker in self.workers:
            worker.check()

    def wait_for_writer(self) -> None:
        """Return when an item writer has this generation. Raises `DemoError` after a minute in vain."""
        deadline = time.monotonic() + _PATIENCE_S
        while not self.store.shard(self.info, SHARD).epoch:
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(
                    f"no worker writes generation {self.info.name} of index {self.info.index}: start "
                    f"`hopstream --index {self.info.index} serve updates`, or look at its log"
                )
            time.sleep(0.05)


@contextmanager
def stage(settings: Settings, artefact: Path, *, own_workers: bool) -> Iterator[Stage]:
    """Make a generation of the artefact that answers from now on, and start the workers that serve it."""
    kafka, index = settings.kafka, settings.index.name
    with ExitStack() as stack:
        server = stack.enter_context(connect(settings.redis.url, writer=True))
        store = IndexStore(server, index)
        info = create_learned(store, artefact, settings.graph.degree)
        # The client first: it must be the last to go, while the workers still drain into its reply topic.
        client = stack.enter_context(RecommendClient(kafka.bootstrap_servers, index, options=kafka.options))
        writer = stack.enter_context(Writer(kafka.bootstrap_servers, kafka.options))
        workers = tuple(
            stack.enter_context(WorkerProcess(role, environment_of(settings), artefact.parent))
            for role in (_ROLES if own_workers else ())
        )
        on_stage = Stage(Topics(index), server, store, info, writer, client, workers)
        on_stage.wait_for_writer()
        yield on_stage
