"""The engine among its peers.

It is imported where it is used: every peer's process loads this module, and torch is to be in none but the engine's.
"""

import numpy as np

from benchmarks.peers.peer import Peer


class Ours(Peer):
    """The engine's index and search as they are, under its plainest metric.

    An inner product has the same gradient everywhere, the query itself: one look into the whole catalogue finds about
    everything, and further rounds and clusters would find little else.
    """

    structure = "ours"
    library = "engine.search"
    module = "engine.search"
    built_with = "32 neighbours"
    parameter = "pairs"
    settings = (10, 12, 16, 32)

    _DEGREE, _BATCH, _LANES = 32, 2_048, 128

    def build(self, vectors: np.ndarray) -> None:
        """Insert batch by batch, as items come."""
        import torch

        from engine.graph import GraphParams, plan_insert
        from engine.index import ItemIndex
        from engine.metric import InnerProduct

        self._index = ItemIndex(InnerProduct(vectors.shape[1]), self._DEGREE)
        for start in range(0, len(vectors), self._BATCH):
            rows = np.arange(start, min(len(vectors), start + self._BATCH))
            change = plan_insert(self._index, rows, torch.from_numpy(vectors[rows]), GraphParams())
            writes = {
                "vectors": [(rows, vectors[rows])],
                "neighbors": [(change.rows, change.neighbors)],
                "versions": [(rows, np.ones((len(rows), 1), np.int64))],
            }
            self._index.apply(writes, int(rows[-1]) + 1)
        self._lanes = self.api.ParallelSearch(self._index, self._LANES)

    def set(self, setting: float) -> None:
        """How many items the round scores."""
        self._pairs = int(setting)

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Fill lanes, those of every call as a service has them, with queries as they become free."""
        from engine.query import Query, SearchParams

        params = SearchParams(k=k, beam=max(k, self._pairs), width=4, pairs=self._pairs, clusters=1, rounds=1)
        answers = self.api.answered(self._lanes, [Query(params, vector=query) for query in queries])
        rows = np.full((len(queries), k), -1)
        for row, answer in zip(rows, answers, strict=True):
            row[: len(answer.rows)] = answer.rows
        return rows
