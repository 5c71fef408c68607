"""Where the demo takes place: servers of its own, an index of its own on given servers, or an index in service."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from hopstream.embedded import EmbeddedServers
from hopstream.settings import IndexSettings, KafkaSettings, RedisSettings, Settings
from index_store import IndexStore, connect


@contextmanager
def embedded_servers() -> Iterator[Settings]:
    """Servers that keep nothing and are gone afterwards."""
    with EmbeddedServers() as addresses:
        yield Settings(
            index=IndexSettings(name="demo"),
            kafka=KafkaSettings(bootstrap_servers=addresses.kafka),
            redis=RedisSettings(url=addresses.redis_url),
        )


@contextmanager
def temporary_index(settings: Settings) -> Iterator[Settings]:
    """An index on the servers of these settings, under a name that nobody has; its topics and keys go afterwards."""
    from producers import create_topics, delete_topics  # type: ignore[attr-defined]

    kafka, index = settings.kafka, f"demo-{uuid.uuid4().hex[:10]}"
    with connect(settings.redis.url) as server:
        create_topics(kafka.bootstrap_servers, index, options=kafka.options)
        try:
            yield settings.model_copy(update={"index": IndexSettings(name=index)})
        finally:
            delete_topics(kafka.bootstrap_servers, index, options=kafka.options)
            IndexStore(server, index).drop()
