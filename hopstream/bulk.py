"""`hopstream load`: a data set into the index that the settings name."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from hopstream.data import Dataset, read_dataset
from hopstream.errors import GenerationError
from hopstream.loading import SHARD, behaviors_of, items_of, load_behaviors, load_items, now_ms
from hopstream.settings import Settings
from index_store import IndexStore, Server, Sources, connect
from producers import LoadReport, Writer


def send_items(settings: Settings, path: Path) -> int:
    """Load the items of a data set; how many items the index then holds.

    Raises `GenerationError` where there is no generation, `LoadStalled` where no worker applies them.
    """
    data = read_dataset(path)
    with _connections(settings) as (server, writer), _progress("items", len(data.items)) as progress:
        store = IndexStore(server, settings.index.name)
        if store.active() is None:
            raise GenerationError(f"index {store.index!r} has no generation to load into: hopstream index create")
        load_items(items_of(data, now_ms()), writer, store, progress)
        return len(Sources(server, store.index, SHARD))


def send_behaviors(settings: Settings, path: Path) -> int:
    """Load the training behaviours of a data set; how many records the workers read. Raises as `send_items` does."""
    data: Dataset = read_dataset(path)
    with _connections(settings) as (server, writer), _progress("behaviours", len(data.train)) as progress:
        return load_behaviors(behaviors_of(data, now_ms()), writer, server, settings.index.name, progress).applied


@contextmanager
def _connections(settings: Settings) -> Iterator[tuple[Server, Writer]]:
    kafka = settings.kafka
    with connect(settings.redis.url) as server, Writer(kafka.bootstrap_servers, kafka.options) as writer:
        yield server, writer


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[LoadReport], None]]:
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{what} applied", total=total)
        yield lambda report: progress.update(task, completed=report.applied)
