"""Source records: what items were made of, kept outside generations so that a new one needs no Kafka."""

from collections.abc import Collection, Iterator

from index_store.checkpoint import Checkpoint
from index_store.connection import Server
from index_store.keys import ShardKeys, check_name

_AT_ONCE = 256  # records in one answer


class Sources:
    """Reads the source records of one shard; writers change them by the batch."""

    def __init__(self, server: Server, index: str, shard: int) -> None:
        self._server, self._keys = server, ShardKeys(check_name("index", index), shard)

    def get_many(self, items: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """(item, record) of those of the items that have one, a few hundred in a round trip."""
        names = list(items)
        for first in range(0, len(names), _AT_ONCE):
            some = names[first : first + _AT_ONCE]
            for item, record in zip(some, self._server.ask("HMGET", self._keys.sources, *some), strict=True):
                if record is not None:
                    yield item, record

    def __len__(self) -> int:
        return int(self._server.ask("HLEN", self._keys.sources))

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """All (item, record). One that is changed meanwhile comes old or new; some may come twice."""
        for part in self._server.scan_hash(self._keys.sources, count=1000):
            for item, record in part.items():
                yield item.decode(), record

    def checkpoint(self) -> Checkpoint | None:
        """Up to where in the stream they go. Read it before iterating: a new generation goes on from there."""
        return Checkpoint.unpack(self._server.ask("GET", self._keys.mark))
