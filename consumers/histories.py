"""What users did, read for the requests at hand."""

import time
from collections.abc import Callable, Collection, Mapping

import structlog

from index_store import History, HistoryStore, Server, StoreError

_log = structlog.get_logger(__name__)

_TIMEOUT_S = 0.5  # requests wait for this, and can be answered without


class HistoryReader:
    """Reads histories in one round trip, and leaves a store alone that does not answer.

    store_answered_at: tells when the store last answered anybody, on the monotonic clock. After a failure it is not
    asked again before it did, so that only one read waits in vain.
    """

    def __init__(self, server: Server, index: str, store_answered_at: Callable[[], float]) -> None:
        # The client of a writer does not try again, which would only make requests wait longer.
        self._server = Server(server.url, writer=True, timeout_s=min(server.timeout_s, _TIMEOUT_S))
        self._histories = HistoryStore(self._server, index)
        self._store_answered_at = store_answered_at
        self._failed_at = 0.0

    def read(self, users: Collection[str]) -> Mapping[str, History] | None:
        """The histories of these users, empty where there is none; None while the store is away."""
        if not users:
            return {}
        if self._failed_at > self._store_answered_at():
            return None
        try:
            return self._histories.read(users)
        except StoreError as error:
            _log.warning("histories away, answering without", error=str(error))
            self._failed_at = time.monotonic()
            return None

    def close(self) -> None:
        """Close the connection."""
        self._server.close()
