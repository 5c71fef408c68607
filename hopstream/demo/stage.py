"""The stage: a generation of the metric on some servers, the workers that serve it, and a client."""

import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from hopstream.client import RecommendClient
from hopstream.errors import DemoError
from hopstream.generations import create_learned
from hopstream.loading import SHARD
from hopstream.processes import WorkerProcess, environment_of
from hopstream.settings import Settings
from index_store import GenerationInfo, IndexStore, Server, Sources, connect
from messages import Topics
from producers import Writer

_ROLES = ("updates", "requests")
_PATIENCE_S = 60.0
_COMPILING_S = 300.0  # the first time each worker compiles its kernels, two at once, on a slow machine perhaps
_LOOKED_AT = 1000  # items of an index that tell whose they are


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
        """Return when an item writer has this generation. Raises `DemoError` after a minute; own ones get five."""
        deadline = time.monotonic() + (_COMPILING_S if self.workers else _PATIENCE_S)
        while not self.store.shard(self.info, SHARD).epoch:
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(
                    f"no worker writes generation {self.info.name} of index {self.info.index}: start "
                    f"`hopstream --index {self.info.index} serve updates`, or look at its log"
                )
            time.sleep(0.05)


def refuse_other_catalogue(settings: Settings, items: Collection[str]) -> None:
    """Raise `DemoError` for an index that holds another catalogue than these items, whose place they would take."""
    with connect(settings.redis.url) as server:
        held = [item for item, _ in islice(Sources(server, settings.index.name, SHARD), _LOOKED_AT)]
    mine = set(items)
    if 2 * sum(item in mine for item in held) < len(held):
        raise DemoError(
            f"index {settings.index.name} holds other items than these, whose place they would take: choose an index "
            "that serves nothing yet, with `hopstream --index NAME demo --live`"
        )


@contextmanager
def stage(settings: Settings, artefact: Path, *, own_workers: bool) -> Iterator[Stage]:
    """Make a generation of the artefact that answers from now on, and start the workers that serve it."""
    kafka, index = settings.kafka, settings.index.name
    with ExitStack() as stack:
        server = stack.enter_context(connect(settings.redis.url, writer=True))
        store = IndexStore(server, index)
        info = create_learned(store, artefact, settings.graph.degree, settings.graph.relevant)
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
