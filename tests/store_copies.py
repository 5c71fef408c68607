"""Copies of what a store holds of an index, to be put back later, as after a restore or a failover."""

from collections.abc import Callable

from index_store import Server


class StoreCopy:
    """A copy of an index's keys, made now."""

    def __init__(self, server: Server, index: str) -> None:
        self._server, self._pattern = server, f"{{{index}*"
        self._values = {key: server.ask("DUMP", key) for key in self._keys()}

    def restore(self, which: Callable[[bytes], bool] = lambda _: True) -> None:
        """Let the store hold what it held, of the keys that are chosen, and nothing that came since; at one moment."""
        gone = [("DEL", key) for key in self._keys() if which(key)]
        back = [("RESTORE", key, 0, value) for key, value in self._values.items() if which(key)]
        self._server.ask_all([*gone, *back], atomic=True)

    def _keys(self) -> list[bytes]:
        return [key for part in self._server.scan_keys(self._pattern) for key in part]
