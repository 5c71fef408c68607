"""State topics: items under their id, behaviours under their user; a null value takes away."""

from messages import Behavior, Item, Topics, encode
from producers.writer import OnDelivered, Writer


class ItemProducer:
    """Writes items. The partition is the shard: left to the key unless it is named, never both for one item."""

    def __init__(self, writer: Writer, topics: Topics) -> None:
        self.writer = writer
        self.topic = topics.items

    def put(self, item: Item, *, partition: int | None = None, on_delivered: OnDelivered | None = None) -> int:
        """Queue a new or changed item; returns its bytes. Raises as `Writer.write` does."""
        return self.writer.write(
            self.topic, key=item.id, value=encode(item), partition=partition, on_delivered=on_delivered
        )

    def delete(self, item: str, *, partition: int | None = None, on_delivered: OnDelivered | None = None) -> int:
        """Queue the removal of the item with this id; returns its bytes. Raises as `Writer.write` does."""
        return self.writer.write(self.topic, key=item, value=None, partition=partition, on_delivered=on_delivered)


class BehaviorProducer:
    """Writes what users did."""

    def __init__(self, writer: Writer, topics: Topics) -> None:
        self.writer = writer
        self.topic = topics.behaviors

    def put(self, behavior: Behavior, *, on_delivered: OnDelivered | None = None) -> int:
        """Queue one behaviour; returns its bytes. Raises as `Writer.write` does."""
        return self.writer.write(self.topic, key=behavior.user, value=encode(behavior), on_delivered=on_delivered)

    def erase(self, user: str, *, on_delivered: OnDelivered | None = None) -> int:
        """Queue the erasure of everything this user did; returns its bytes. Raises as `Writer.write` does."""
        return self.writer.write(self.topic, key=user, value=None, on_delivered=on_delivered)
