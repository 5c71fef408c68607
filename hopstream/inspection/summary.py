"""`hopstream index info`: what there is of an index, and how far behind its topics it is."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from hopstream.inspection.streams import Extent, Streams, StreamsUnavailable
from hopstream.settings import Settings
from index_store import Checkpoint, GenerationInfo, HistoryStore, IndexStore, Server, connect
from index_store.inspection import ServerFacts, ShardInspector
from messages import Topics


@dataclass(frozen=True, slots=True)
class PartitionSummary:
    """How far a partition has been read; `lag` in offsets, None where Kafka does not tell."""

    partition: int
    offset: int | None
    topic_id: str | None
    age_s: float | None
    lag: int | None


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """A shard of a generation. `freed_rows` are in use by no item; `epoch` counts the writers that took it."""

    shard: int
    items: int
    rows: int
    freed_rows: int
    seq: int
    epoch: int
    log_entries: int
    log_bytes: int
    block_bytes: int
    position: PartitionSummary


@dataclass(frozen=True, slots=True)
class GenerationSummary:
    """A generation and the metric that it was made with."""

    name: str
    active: bool
    metric: str
    metric_version: str
    artefact: str
    artefact_sha256: str
    dimensions: int
    degree: int
    relevant: int
    shards: tuple[ShardSummary, ...]


@dataclass(frozen=True, slots=True)
class IndexSummary:
    """An index; `notes` say what could not be found out."""

    index: str
    store: ServerFacts
    generations: tuple[GenerationSummary, ...]
    histories: tuple[PartitionSummary, ...]
    notes: tuple[str, ...]


def summarize(settings: Settings) -> IndexSummary:
    """What the store holds of the settings' index, and where Kafka's topics end. Raises `StoreError`."""
    index = settings.index.name
    items, behaviors, notes = _ends(settings, Topics(index))
    with connect(settings.redis.url) as server:
        store = IndexStore(server, index)
        active = store.active()
        return IndexSummary(
            index,
            ServerFacts.of(server),
            tuple(_generation(store, info, info == active, items) for info in store.generations()),
            _histories(server, index, behaviors),
            notes,
        )


Ends = Mapping[int, Extent]


def _ends(settings: Settings, topics: Topics) -> tuple[Ends, Ends, tuple[str, ...]]:
    """Extents of the topics of items and behaviours; empty, and a note, where Kafka does not tell."""
    kafka = settings.kafka
    try:
        with Streams(kafka.bootstrap_servers, kafka.options) as streams:
            found = {topic: streams.extents(topic) for topic in (topics.items, topics.behaviors)}
    except StreamsUnavailable as error:
        return {}, {}, (f"no lag: {error}",)
    missing = tuple(f"no lag: there is no topic {topic}" for topic, extents in found.items() if not extents)
    return found[topics.items], found[topics.behaviors], missing


def _generation(store: IndexStore, info: GenerationInfo, active: bool, ends: Ends) -> GenerationSummary:
    widths = {column.name: column.width for column in info.columns}
    return GenerationSummary(
        info.name, active, info.metric, info.metric_version, info.artefact_uri, info.artefact_sha256,
        widths["vectors"], widths["neighbors"], widths.get("relevant", 0),
        tuple(_shard(store, info, shard, ends.get(shard)) for shard in range(info.shards)),
    )  # fmt: skip


def _shard(store: IndexStore, info: GenerationInfo, shard: int, end: Extent | None) -> ShardSummary:
    state, size = store.shard(info, shard), ShardInspector(store.server, info, shard).size()
    return ShardSummary(
        shard=shard,
        items=size.items,
        rows=state.rows,
        freed_rows=state.rows - size.items,
        seq=state.seq,
        epoch=state.epoch,
        log_entries=size.log_entries,
        log_bytes=size.log_bytes,
        block_bytes=size.block_bytes,
        position=_partition(shard, state.checkpoint, end),
    )


def _histories(server: Server, index: str, ends: Ends) -> tuple[PartitionSummary, ...]:
    positions = HistoryStore(server, index).positions()
    return tuple(
        _partition(partition, positions.get(partition), ends.get(partition))
        for partition in sorted(positions.keys() | ends.keys())
    )


def _partition(partition: int, checkpoint: Checkpoint | None, end: Extent | None) -> PartitionSummary:
    if checkpoint is None:
        return PartitionSummary(partition, None, None, None, end.high - end.low if end else None)
    age_s = round(time.time() - checkpoint.timestamp_ms / 1000, 3)
    lag = end.high - checkpoint.next_offset if end else None
    return PartitionSummary(partition, checkpoint.next_offset, checkpoint.topic_id, age_s, lag)
