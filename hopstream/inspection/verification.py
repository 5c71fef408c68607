"""`hopstream index verify`: whether an index is what its log, its source records and its topic say.

It only reads, and a writer may go on meanwhile: whatever is compared was read at one moment of the store, and the
snapshot follows to exactly that moment before it is compared.
"""

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, closing

import numpy as np
from confluent_kafka import KafkaException

from consumers.item_writer import ItemHandler
from consumers.stream_identity import StreamLookup
from engine.graph import GraphParams
from engine.model import Model
from hopstream.errors import GenerationError
from hopstream.generations import load_model
from hopstream.inspection.faults import link_faults, row_faults, unlinked_rows, value_faults
from hopstream.inspection.log_audit import LogAudit
from hopstream.inspection.report import Findings, Report, Tick
from hopstream.inspection.source_audit import SourceAudit, position_faults, sources_are_ahead
from hopstream.inspection.streams import Streams, StreamsUnavailable
from hopstream.inspection.topic_audit import TopicAudit
from hopstream.loading import SHARD, now_ms
from hopstream.settings import Settings
from index_store import (
    Change,
    Follower,
    GenerationInfo,
    IndexStore,
    Server,
    Snapshot,
    StreamChanged,
    check_stream,
    connect,
)
from index_store.inspection import Moment, ShardInspector
from messages import Topics

Step = Callable[[str, int], AbstractContextManager[Tick]]
"""Begins a part of the work, named, of so much; what it gives is told how much more is done."""


def verify(
    settings: Settings, step: Step, *, generation: str | None = None, quick: bool = False, against_topic: bool = False
) -> Report:
    """Verify a generation, the active one unless named.

    quick: do not encode the items again. against_topic: compare with the items topic as well. Raises `GenerationError`
    where there is none, `StoreError` where it cannot be read, `StreamsUnavailable` where the topic cannot.
    """
    with connect(settings.redis.url) as server:
        store = IndexStore(server, settings.index.name)
        info = store.generation(generation) if generation else store.active()
        if info is None:
            raise GenerationError(f"index {store.index!r} has no generation to verify: hopstream index create")
        with closing(Follower(server, info, SHARD)) as follower:
            return _Verification(settings, server, info, follower, step).run(quick, against_topic)


class _Verification:
    """One run over one shard."""

    def __init__(
        self, settings: Settings, server: Server, info: GenerationInfo, follower: Follower, step: Step
    ) -> None:
        self._settings, self._server, self._info, self._step = settings, server, info, step
        self._follower, self._inspector = follower, ShardInspector(server, info, SHARD)
        self._ahead: deque[Change] = deque()  # read from the log, and newer than what is compared
        self._faults, self._warnings = Findings(), Findings()
        self._notes: list[str] = []
        self._log_entries = 0
        with step("reading the shard", 1):
            self._snapshot: Snapshot = follower.load()

    def run(self, quick: bool, against_topic: bool) -> Report:
        self._check_columns()
        self._check_log()
        model = None if quick and not against_topic else load_model(self._info, self._server)
        self._check_sources(None if quick else model)
        topic, kafka = Topics(self._info.index).items, self._settings.kafka
        with Streams(kafka.bootstrap_servers, kafka.options) as streams:
            if against_topic and model is not None:
                self._check_topic(model, streams, topic)
            lag = self._lag(streams, topic)
        checkpoint, faults = self._snapshot.checkpoint, self._faults.all()
        return Report(
            sound=not faults,
            index=self._info.index,
            generation=self._info.name,
            items=len(self._snapshot.ids),
            rows=self._snapshot.rows,
            seq=self._snapshot.seq,
            offset=None if checkpoint is None else checkpoint.next_offset,
            lag=lag,
            log_entries=self._log_entries,
            faults=faults,
            warnings=self._warnings.all(),
            notes=tuple(self._notes),
        )

    def _at(self, moment: Moment) -> Snapshot:
        """The snapshot, brought to this moment; the log is asked in any case, which keeps it from being trimmed."""
        while True:
            self._ahead.extend(self._follower.poll())
            while self._ahead and self._ahead[0].seq <= moment.seq:
                self._snapshot.replay(self._ahead.popleft())
            if self._snapshot.seq >= moment.seq:
                return self._snapshot

    def _check_columns(self) -> None:
        columns = self._snapshot.columns
        versions, neighbors = columns["versions"][:, 0], columns["neighbors"]
        live = versions > 0
        relevant = columns.get("relevant", neighbors[:, :0])
        with self._step("ids, rows and links", 3) as done:
            self._faults.add(row_faults(self._snapshot.ids, versions))
            done(1)
            self._faults.add(link_faults(neighbors, live))
            self._faults.add(link_faults(relevant, live, needed=False))
            done(1)
            self._faults.add(value_faults(columns))
            unlinked = unlinked_rows(np.concatenate([neighbors, relevant], axis=1), live)
            self._warnings.add(("row_not_linked_to", f"row {row}") for row in unlinked.tolist())

    def _check_log(self) -> None:
        audit: LogAudit | None = None
        total = self._inspector.size().log_entries
        with self._step("the log", total) as done:
            for entries, moment in self._inspector.log():
                audit = audit or LogAudit(self._info, self._at(moment), moment)
                if not entries and moment.log_bytes and not audit.entries:
                    self._faults.add([("log_end_differs", f"no entries, the state says {moment.log_bytes} bytes")])
                for entry in entries:
                    self._faults.add(audit.faults(entry))
                done(len(entries))
            self._log_entries = audit.entries if audit else 0

    def _check_sources(self, model: Model | None) -> None:
        audit = SourceAudit(model)
        with self._step("source records", len(self._snapshot.ids)) as done:
            for records, moment in self._inspector.sources():
                if sources_are_ahead(moment):
                    self._notes.append("another generation is further on, so the source records are not this one's")
                    return
                self._faults.add(audit.faults(records, self._at(moment)))
                done(len(records))
            for records, moment in self._inspector.sources_of(sorted(self._snapshot.ids.keys() - audit.seen)):
                self._faults.add(audit.faults(records, self._at(moment)))
        self._faults.add(position_faults(moment))

    def _check_topic(self, model: Model, streams: Streams, topic: str) -> None:
        handler = ItemHandler(self._server, self._info, model, GraphParams())
        extent = streams.extent(topic, SHARD)
        with self._step("the items topic", extent.high - extent.low) as done:
            self._faults.add(TopicAudit(handler, self._inspector, streams, topic, SHARD).faults(done))

    def _lag(self, streams: Streams, topic: str) -> int | None:
        """How many offsets the topic is ahead, None where Kafka does not say; checks that it is still the same one."""
        try:
            extent = streams.extents(topic).get(SHARD)
        except StreamsUnavailable as error:
            self._notes.append(f"no lag: {error}")
            return None
        if extent is None:
            self._notes.append(f"no lag: there is no topic {topic}")
            return None
        checkpoint, kafka = self._snapshot.checkpoint, self._settings.kafka
        if checkpoint is None:
            return extent.high - extent.low
        try:
            stream = StreamLookup(kafka.bootstrap_servers, topic, kafka.options).streams([SHARD])[SHARD]
            check_stream(checkpoint, stream, now_ms=now_ms())
        except StreamChanged as error:
            self._faults.add([("stream_changed", str(error))])
        except KafkaException as error:
            self._notes.append(f"whether the topic is still the same is not known: {error}")
        return extent.high - checkpoint.next_offset
