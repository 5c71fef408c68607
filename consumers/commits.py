"""What a group is told of the records that are done. The poll thread owns it; any thread may say that one is."""

import time
from queue import Empty, SimpleQueue

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from consumers.offsets import OffsetTracker, Ticket

_log = structlog.get_logger(__name__)

_EVERY_S = 0.5


class Commits:
    """Takes in completions and commits up to the oldest record of a topic that is still open."""

    def __init__(self, topic: str, tracker: OffsetTracker) -> None:
        self._topic, self._tracker = topic, tracker
        self._done: SimpleQueue[Ticket] = SimpleQueue()
        self._committed_at = 0.0

    def done(self, ticket: Ticket) -> None:
        """The record with this ticket needs no more work. For every thread."""
        self._done.put(ticket)

    def take_completions(self) -> None:
        """Take in what other threads have said."""
        while True:
            try:
                self._tracker.done(self._done.get_nowait())
            except Empty:
                return

    def commit_if_due(self, consumer: Consumer) -> None:
        """Commit from time to time; `hear` is told what became of it."""
        if time.monotonic() - self._committed_at > _EVERY_S:
            self._commit(consumer, asynchronous=True)

    def commit(self, consumer: Consumer) -> None:
        """Commit what is done, all of it, and wait for the answer."""
        self.take_completions()
        self._commit(consumer, asynchronous=False)

    def hear(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """Librdkafka's `on_commit`."""
        if error is None:
            self._tracker.committed({done.partition: done.offset for done in partitions if done.error is None})

    def _commit(self, consumer: Consumer, *, asynchronous: bool) -> None:
        self._committed_at = time.monotonic()
        positions = self._tracker.committable()
        if not positions:
            return
        offsets = [TopicPartition(self._topic, partition, offset) for partition, offset in positions.items()]
        try:
            if asynchronous:
                consumer.commit(offsets=offsets, asynchronous=True)
            else:
                self.hear(None, consumer.commit(offsets=offsets, asynchronous=False) or [])
        except KafkaException as error:
            # A rebalance in between: whoever has the partition now reads these records again.
            _log.warning("commit refused", topic=self._topic, error=str(error))
