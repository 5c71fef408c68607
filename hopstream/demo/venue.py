"""Where the demo takes place: servers of its own, an index of its own on given servers, or an index in service."""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from hopstream.embedded import EmbeddedServers
from hopstream.settings import IndexSettings, KafkaSettings, RedisSettings, Settings
from index_store import IndexStore, connect
from messages import Topics, policies
from producers import TopicAdmin

_PARTITIONS = 4


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
    index = f"demo-{uuid.uuid4().hex[:10]}"
    topics, admin = Topics(index), TopicAdmin(settings.kafka.bootstrap_servers, settings.kafka.options)
    with ExitStack() as stack:
        server = stack.enter_context(connect(settings.redis.url))
        # Before there is anything to take away: what is made in part goes too, and one failure does not keep the other.
        stack.callback(IndexStore(server, index).drop)
        stack.callback(admin.delete, topics)
        admin.create(policies(topics, partitions=_PARTITIONS))
        yield settings.model_copy(update={"index": IndexSettings(name=index)})
