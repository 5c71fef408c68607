"""Data sets on their way into an index: through the topics, at the pace at which the workers apply."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from hopstream.data import Dataset
from index_store import HistoryStore, IndexStore, Server
from messages import Behavior, Item, Topics
from producers import BehaviorProducer, ItemProducer, LoadReport, Writer, load
from producers.writer import OnDelivered

Progress = Callable[[LoadReport], None]

SHARD = 0
"""The only shard so far. Named with every item, because the embedded broker gives every topic four partitions."""


@dataclass(slots=True)
class SingleShard:
    """Writes items to the one shard there is, through this connection."""

    items: ItemProducer
    writer: Writer

    def put(self, item: Item, /, *, on_delivered: OnDelivered | None = None) -> int:
        """Queue one item; returns its bytes."""
        return self.items.put(item, partition=SHARD, on_delivered=on_delivered)


def items_of(data: Dataset, timestamp_ms: int) -> Iterator[Item]:
    """The items of a data set as messages."""
    described = zip(data.items, data.texts, data.tags, data.numbers, data.groups, strict=True)
    for item, text, tags, number, group in described:
        yield Item(item, text=text, tags=tags, number=number, group=group, timestamp_ms=timestamp_ms)


def behaviors_of(data: Dataset, timestamp_ms: int) -> Iterator[Behavior]:
    """The training behaviours of a data set as messages; those without a time get the one given."""
    train = data.train
    times = [timestamp_ms] * len(train) if train.timestamps is None else (train.timestamps * 1000).astype(int).tolist()
    codes = zip(train.users.tolist(), train.items.tolist(), train.behaviors.tolist(), times, strict=True)
    for user, item, behavior, at in codes:
        yield Behavior(data.users[user], data.items[item], data.behaviors[behavior], at)


def load_items(
    items: Iterable[Item], writer: Writer, store: IndexStore, progress: Progress | None = None
) -> LoadReport:
    """Write items and wait until the generation that answers holds them all."""

    def applied() -> Mapping[int, int]:
        active = store.active()
        checkpoint = store.shard(active, SHARD).checkpoint if active else None
        return {SHARD: checkpoint.next_offset} if checkpoint else {}

    return load(items, SingleShard(ItemProducer(writer, Topics(store.index)), writer), applied, progress)


def load_behaviors(
    behaviors: Iterable[Behavior], writer: Writer, server: Server, index: str, progress: Progress | None = None
) -> LoadReport:
    """Write behaviours and wait until the behaviour updater has applied them all."""
    histories = HistoryStore(server, index)

    def applied() -> Mapping[int, int]:
        return {partition: position.next_offset for partition, position in histories.positions().items()}

    return load(behaviors, BehaviorProducer(writer, Topics(index)), applied, progress)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
