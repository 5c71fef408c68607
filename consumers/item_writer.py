"""The item writer: item events become rows, vectors and links, each batch with its offset in one atomic write.

The mirror that inserts are planned on changes by the log like every other mirror: what is planned on is what all see.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import structlog
import torch

from consumers.intake import Record
from consumers.mirror import Mirror, attribute_rows
from consumers.questions import attribute_code
from consumers.state_consumer import Entry, StateConsumer
from engine.graph import GraphParams, plan_delete, plan_insert
from engine.model import Model
from index_store import Batch, Checkpoint, Follower, GenerationInfo, LogGap, Server, ShardWriter, Sources, StoreError
from messages import Item, MalformedMessage, Topics, decode_item, encode

_log = structlog.get_logger(__name__)

_BATCH = 1024


@dataclass(slots=True)
class _Shard:
    """What writing one shard takes."""

    writer: ShardWriter
    follower: Follower
    mirror: Mirror


class ItemHandler:
    """Keeps the shards of a generation up to date with the items topic."""

    def __init__(self, server: Server, info: GenerationInfo, model: Model, params: GraphParams) -> None:
        info.require_artefact(model.sha256)
        self._server, self._info, self._model, self._params = server, info, model, params
        self._shards: dict[int, _Shard] = {}

    def decode(self, key: str, record: Record) -> Item | None:
        """An item that the model can place."""
        if record.ticket.partition >= self._info.shards:
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
        return item

    def take(self, partition: int) -> Checkpoint | None:
        """Take a new epoch first, then read the position and load the mirror."""
        if partition >= self._info.shards:
            return None
        self.release(partition)
        writer = ShardWriter(self._server, self._info, partition)
        position = writer.take()
        follower = Follower(self._server.sibling(), self._info, partition)
        mirror = Mirror(self._info, self._model)
        mirror.load(follower.load())
        self._shards[partition] = _Shard(writer, follower, mirror)
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

    def apply(self, partition: int, entries: Sequence[Entry[Item]], checkpoint: Checkpoint) -> None:
        """Apply the last word on every item: deletions first, so that nothing links to what is gone."""
        shard = self._shards.get(partition)
        if shard is None:
            return
        latest = {entry.key: entry.message for entry in entries if self._is_news(shard, partition, entry)}
        gone = [item for item, message in latest.items() if message is None and item in shard.mirror.row_of]
        items = [message for message in _newest(entries) if latest.get(message.id) is not None]
        if gone:
            self._write(shard, self._deletion(shard, gone))
        self._write(shard, self._upsert(shard, items, checkpoint))

    def _is_news(self, shard: _Shard, partition: int, entry: Entry[Item]) -> bool:
        """Whether an event is not older than what the index holds of the item."""
        if entry.message is None or entry.key not in shard.mirror.row_of:
            return True
        stored = Sources(self._server, self._info.index, partition).get(entry.key)
        return stored is None or decode_item(stored).timestamp_ms <= entry.message.timestamp_ms

    def _write(self, shard: _Shard, batch: Batch) -> None:
        """Write a batch and see it come back through the log."""
        shard.writer.apply(batch)
        while shard.mirror.seq < batch.seq:
            changes = shard.follower.poll(1.0)
            if not changes:
                raise LogGap(f"batch {batch.seq} was applied and is not in the log")
            for change in changes:
                shard.mirror.apply(change)

    def _deletion(self, shard: _Shard, items: Sequence[str]) -> Batch:
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

    def _upsert(self, shard: _Shard, items: Sequence[Item], checkpoint: Checkpoint) -> Batch:
        position = shard.writer.position
        seq = position.seq + 1
        if not items:
            return Batch(seq=seq, rows=position.rows, checkpoint=checkpoint)
        rows, count = _place(shard.mirror, [item.id for item in items], position.rows)
        tags = [item.tags for item in items]
        metric = self._model.metric
        vectors, biases = self._model.encoder.encode(
            [item.id for item in items], [item.text for item in items], tags, [item.vector for item in items]
        )
        state = metric.encode_items(torch.from_numpy(vectors), torch.from_numpy(biases))
        links = plan_insert(shard.mirror.index, rows, metric.item_vectors(state), self._params)
        columns = {
            "vectors": [(rows, vectors)],
            "neighbors": [(links.rows, links.neighbors)],
            "attributes": [(rows, attribute_rows(tags, attribute_code))],
            "versions": [(rows, np.full((len(rows), 1), seq, dtype=np.int64))],
        }
        if metric.bias_width:
            columns["biases"] = [(rows, biases)]
        return Batch(
            seq=seq,
            rows=count,
            columns=columns,
            ids_set={item.id: int(row) for item, row in zip(items, rows, strict=True)},
            sources={item.id: encode(item) for item in items},
            checkpoint=checkpoint,
        )


def _newest(entries: Iterable[Entry[Item]]) -> list[Item]:
    """Of every item the event with the latest time; of equal times the one that came last."""
    newest: dict[str, Item] = {}
    for entry in entries:
        item = entry.message
        if item is None:
            newest.pop(entry.key, None)
        elif item.id not in newest or newest[item.id].timestamp_ms <= item.timestamp_ms:
            newest[item.id] = item
    return list(newest.values())


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
