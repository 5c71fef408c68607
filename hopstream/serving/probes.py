"""Looks at the servers from outside of the workers: what is there, without waiting for what is not."""

from collections.abc import Iterator, Sequence
from typing import Any, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from hopstream.errors import SettingsError
from hopstream.settings import KafkaSettings
from index_store import GenerationInfo, IndexStore, Server, connect
from producers import Complaints, is_embedded, make_client

_PATIENCE_S = 1.0  # also the longest that a wish to stop goes unheard


class KafkaProbe:
    """Whether Kafka answers and has some topics. Raises `InvalidOptions`."""

    def __init__(self, settings: KafkaSettings, topics: Sequence[str]) -> None:
        self._servers, self._topics = settings.bootstrap_servers, topics
        self._complaints = Complaints()
        given: dict[str, Any] = {
            **settings.options,
            "bootstrap.servers": self._servers,
            "error_cb": self._complaints,
        }
        self._client = make_client(AdminClient, given)

    def problem(self) -> tuple[str, str] | None:
        """What is missing, in short and with what to do about it; None when nothing is.

        Raises `SettingsError` when Kafka refuses the credentials.
        """
        try:
            missing = tuple(self._missing())
        except KafkaException as error:
            self._client.poll(0)  # hears the complaints
            self._complaints(error.args[0])
            if self._complaints.hopeless:
                raise SettingsError("kafka.options", f"Kafka at {self._servers}: {self._complaints}", "") from None
            reason = self._complaints.last.name() if self._complaints.last else ""
            return f"{self._servers} does not answer ({reason})", str(self._complaints)
        self._complaints.settle()
        if missing:
            return (
                f"no topic {', '.join(missing)}",
                "make it with `hopstream topics create`, or allow us to describe it",
            )
        return None

    def _missing(self) -> Iterator[str]:
        found = self._client.list_topics(timeout=_PATIENCE_S)
        for topic in self._topics:
            if topic in found.topics:
                continue
            if is_embedded(found):
                # It makes topics when they are named; another one must not, with policies of its own.
                self._client.list_topics(topic, timeout=_PATIENCE_S)
            else:
                yield topic


class StoreProbe:
    """Looks which generation of an index answers; a context manager that closes its connection."""

    def __init__(self, url: str, index: str) -> None:
        self._url, self._index = url, index
        self._server: Server | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()

    def active(self) -> GenerationInfo | None:
        """The generation that answers now. Raises `StoreError`, within seconds when nobody is there."""
        if self._server is None:
            # The client of a writer does not try again, for which there is another look.
            self._server = connect(self._url, writer=True, timeout_s=_PATIENCE_S)
        return IndexStore(self._server, self._index).active()
