"""The item writer: item events become rows, vectors and links, each batch with its offset in one atomic write.

The mirror that inserts are planned on changes by the log like every other mirror: what is planned on is what all see.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import structlog
import torch

from consumers.events import Record
from consumers.filters import filter_values, require_room
from consumers.mirror import Mirror
from consumers.state_consumer import StateConsumer
from consumers.state_handler import Beat, Entry, silent
from engine.graph import GraphParams, plan_delete, plan_insert
from engine.index import NO_NEIGHBOR
from engine.model import Model
from engine.relevance import plan_forget, plan_relevant
from engine.warm_up import warm_up
from index_store import (
    Batch,
    Checkpoint,
    Follower,
    GenerationInfo,
    LogGap,
    SequenceConflict,
    Server,
    ShardDamaged,
    ShardWriter,
    Sources,
    StoreError,
)
from messages import Item, MalformedMessage, MessageError, Topics, decode_item, encode

_log = structlog.get_logger(__name__)

_BATCH = 2048

_LINKED = 256
"""Items whose relevant links are written together, and those of their hosts: some megabytes at most."""

_FORGETTING = 16_384
"""Rows that lose relevant links in one batch: an item may be linked to from anywhere."""


@dataclass(slots=True)
class _Shard:
    """What writing one shard takes. ``bare``: int64[n], rows of items that are not linked to what is relevant yet."""

    writer: ShardWriter
    follower: Follower
    mirror: Mirror
    sources: Sources
    bare: np.ndarray


class ItemHandler:
    """Keeps the shards of a generation up to date with the items topic."""

    gaps_allowed = False  # an item, or its deletion, would be missing

    def __init__(self, server: Server, info: GenerationInfo, model: Model, params: GraphParams) -> None:
        info.require_artefact(model.sha256)
        warm_up(model.metric)
        self._server, self._info, self._model, self._params = server, info, model, params
        self._shards: dict[int, _Shard] = {}

    def keeps(self, partition: int) -> bool:
        """A partition is a shard."""
        return partition < self._info.shards

    def decode(self, key: str, record: Record) -> Item | None:
        """An item that the index can hold."""
        if not self.keeps(record.ticket.partition):
            raise MalformedMessage(
                "partition",
                f"{record.ticket.partition} is no shard: generation {self._info.name!r} has {self._info.shards}",
            )
        if record.value is None:
            return None
        item = decode_item(record.value)
        if item.id != key:
            raise MalformedMessage("id", f"{item.id!r} under the key {key!r}")
        if problem := self._model.encoder.problem(item.vector):
            raise MalformedMessage("vector", problem)
        require_room(item)
        return item

    def take(self, partition: int) -> Checkpoint | None:
        """Take a new epoch first, then read the position and load the mirror.

        What the writer before did not come to, links to what is relevant, is left to `check` and `apply`.
        """
        self.release(partition)
        writer = ShardWriter(self._server, self._info, partition)
        position = writer.take()
        follower, mirror = Follower(self._server, self._info, partition), Mirror(self._info, self._model)
        sources = Sources(self._server, self._info.index, partition)
        mirror.load(follower.load())
        self._shards[partition] = _Shard(writer, follower, mirror, sources, _without_relevant(mirror))
        _log.info("shard taken", shard=partition, epoch=position.epoch, items=len(mirror.row_of))
        return position.checkpoint

    def release(self, partition: int) -> None:
        """Let go of a shard."""
        shard = self._shards.pop(partition, None)
        if shard is not None:
            try:
                shard.follower.close()
            except StoreError as error:
                _log.info("lease not given back", error=str(error))

    def apply(
        self, partition: int, entries: Sequence[Entry[Item]], checkpoint: Checkpoint, beat: Beat = silent
    ) -> None:
        """Apply the last word on every item: deletions first, so that nothing links to what is gone.

        New items can be found as soon as they are written; what is relevant to them is looked up among them, too.
        """
        shard = self._shards[partition]
        outcome = last_words(entries, self._stored_times(shard, entries))
        put = [message for message in outcome.values() if message is not None]
        gone = [item for item, message in outcome.items() if message is None]
        if linked := [item for item in gone if item in shard.mirror.row_of]:
            self._forget(shard, np.array(shard.mirror.rows(linked), dtype=np.int64))
            self._write(shard, self._deletion(shard, linked))
        self._write(shard, self._upsert(shard, put, gone, checkpoint))
        rows = np.array(shard.mirror.rows(item.id for item in put), dtype=np.int64)
        shard.bare = np.union1d(shard.bare, rows)
        while len(shard.bare):
            beat()
            self._link_some(shard)

    def check(self, partition: int) -> None:
        """Follow the log, where nothing may come that this writer has not written; raises `StoreError`."""
        shard = self._shards[partition]
        if shard.follower.poll():
            raise SequenceConflict(f"shard {partition} was written by somebody else: take it anew")
        if len(shard.bare):
            self._link_some(shard)

    def _stored_times(self, shard: _Shard, entries: Sequence[Entry[Item]]) -> dict[str, int]:
        """The times of the events that the index holds of the items that are put, in epoch ms."""
        known = {entry.key for entry in entries if entry.message is not None} & shard.mirror.row_of.keys()
        times = {}
        for item, record in shard.sources.get_many(known):
            try:
                times[item] = decode_item(record).timestamp_ms
            except MessageError as error:
                raise ShardDamaged(
                    f"shard {shard.writer.shard}: the source record of item {item!r} cannot be read ({error}): run the "
                    "release that wrote it, restore a backup, or drop the index and let it be made anew"
                ) from error
        return times

    def _write(self, shard: _Shard, batch: Batch) -> None:
        """Write a batch and see it come back through the log, as the last one there."""
        shard.writer.apply(batch)
        while shard.mirror.seq < batch.seq:
            changes = shard.follower.poll(1.0)
            if not changes:
                raise LogGap(f"batch {batch.seq} was applied and is not in the log")
            for change in changes:
                shard.mirror.apply(change)
        if shard.mirror.seq > batch.seq:  # what is planned next would be planned on what is not this writer's
            raise SequenceConflict(f"shard {shard.writer.shard} was written by somebody else: take it anew")

    def _link_some(self, shard: _Shard) -> None:
        """Link some of the bare items to what is relevant, at the position where the shard stands."""
        links, position = plan_relevant(shard.mirror.index, shard.bare[:_LINKED]), shard.writer.position
        if len(links.rows):
            columns = {"relevant": [(links.rows, links.neighbors)]}
            self._write(shard, Batch(position.seq + 1, position.rows, columns, checkpoint=position.checkpoint))
        shard.bare = shard.bare[_LINKED:]

    def _forget(self, shard: _Shard, rows: np.ndarray) -> None:
        """Take what is about to be deleted out of the relevant links; without a position, as in `_deletion`."""
        links = plan_forget(shard.mirror.index, rows)
        for start in range(0, len(links.rows), _FORGETTING):
            part, position = slice(start, start + _FORGETTING), shard.writer.position
            columns = {"relevant": [(links.rows[part], links.neighbors[part])]}
            self._write(shard, Batch(position.seq + 1, position.rows, columns))
        shard.bare = np.setdiff1d(shard.bare, rows)

    def _deletion(self, shard: _Shard, items: Sequence[str]) -> Batch:
        """The batch that takes items out; without a position, as the rest of the records is still to come."""
        position = shard.writer.position
        seq = position.seq + 1
        rows = np.array(shard.mirror.rows(items), dtype=np.int64)
        links = plan_delete(shard.mirror.index, rows, self._params)
        return Batch(
            seq=seq,
            rows=position.rows,
            columns={
                "neighbors": [(links.rows, links.neighbors)],
                "versions": [(rows, np.full((len(rows), 1), -seq, dtype=np.int64))],
            },
            ids_deleted=list(items),
            sources=dict.fromkeys(items),
        )

    def _upsert(self, shard: _Shard, items: Sequence[Item], gone: Sequence[str], checkpoint: Checkpoint) -> Batch:
        """The batch that puts items in, each into its row if it has one, and moves the position on.

        What is gone has no source record behind that position, also where there was no row to be deleted, or where the
        records up to the position before were another generation's.
        """
        position = shard.writer.position
        seq = position.seq + 1
        sources = {**dict.fromkeys(gone), **{item.id: encode(item) for item in items}}
        if not items:
            return Batch(seq=seq, rows=position.rows, sources=sources, checkpoint=checkpoint)
        ids = [item.id for item in items]
        rows, count = _place(shard.mirror, ids, position.rows)
        vectors, biases = self._model.encoder.encode(
            ids, [item.text for item in items], [item.tags for item in items], [item.vector for item in items]
        )
        metric = self._model.metric
        state = metric.encode_items(torch.from_numpy(vectors), torch.from_numpy(biases))
        links = plan_insert(shard.mirror.index, rows, metric.item_vectors(state), self._params)
        columns = {
            "vectors": [(rows, vectors)],
            "neighbors": [(links.rows, links.neighbors)],
            **{name: [(rows, values)] for name, values in filter_values(items).items()},
            "versions": [(rows, np.full((len(rows), 1), seq, dtype=np.int64))],
        }
        if metric.bias_width:
            columns["biases"] = [(rows, biases)]
        if width := shard.mirror.index.relevant.shape[1]:
            columns["relevant"] = [(rows, np.full((len(rows), width), NO_NEIGHBOR, np.int32))]
        return Batch(
            seq=seq,
            rows=count,
            columns=columns,
            ids_set=dict(zip(ids, rows.tolist(), strict=True)),
            sources=sources,
            checkpoint=checkpoint,
        )


def last_words(entries: Iterable[Entry[Item]], stored_times: Mapping[str, int]) -> dict[str, Item | None]:
    """What remains of events applied one after the other: by item its newest event, or None for a deletion.

    An event older than what there is of the item changes nothing; of equal times the later one counts. A deletion has
    no time of its own and counts where it stands. ``stored_times`` are the times, in epoch ms, of what the index holds
    of these items before. Items whose events all came too late are left out.
    """
    outcome: dict[str, Item | None] = {}
    for entry in entries:
        key, item = entry.key, entry.message
        if item is not None:
            known = outcome.get(key)
            held = stored_times.get(key) if key not in outcome else known.timestamp_ms if known else None
            if held is not None and held > item.timestamp_ms:
                continue
        outcome[key] = item
    return outcome


def _without_relevant(mirror: Mirror) -> np.ndarray:
    """The rows of items that are linked to nothing relevant, int64[n]."""
    index = mirror.index
    bare = index.live[: index.rows] & (index.relevant[: index.rows] == NO_NEIGHBOR).all(dim=1)
    return bare.nonzero()[:, 0].numpy() if index.relevant.shape[1] else np.empty(0, np.int64)


def _place(mirror: Mirror, items: Sequence[str], rows: int) -> tuple[np.ndarray, int]:
    """A row for every item, int64[n], and the number of rows after: its own, else a freed one, else a new one."""
    freed = iter(np.flatnonzero(mirror.index.versions[:rows].numpy() < 0).tolist())
    placed = []
    for item in items:
        row = mirror.row_of.get(item)
        if row is None:
            row = next(freed, None)
        if row is None:
            row, rows = rows, rows + 1
        placed.append(row)
    return np.array(placed, dtype=np.int64), rows


def item_writer(
    bootstrap_servers: str,
    server: Server,
    info: GenerationInfo,
    model: Model,
    params: GraphParams,
    kafka_options: Mapping[str, object] | None = None,
) -> StateConsumer[Item]:
    """A consumer of the items topic; ``server`` must have been connected as a writer."""
    return StateConsumer(
        bootstrap_servers, Topics(info.index).items, f"{info.index}.item-writers",
        ItemHandler(server, info, model, params), batch=_BATCH, kafka_options=kafka_options,
    )  # fmt: skip
