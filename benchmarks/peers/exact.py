"""Exact search: every vector is compared."""

import numpy as np

from benchmarks.peers.peer import Peer


class FaissFlat(Peer):
    """Matrix products and a selection, blocked."""

    structure = "exhaustive"
    library = "faiss IndexFlatIP"
    module = "faiss"
    built_with = "nothing"
    parameter = "none"
    settings = (0,)

    def build(self, vectors: np.ndarray) -> None:
        """Copy the vectors."""
        self.api.omp_set_num_threads(self.threads)
        self._index = self.api.IndexFlatIP(vectors.shape[1])
        self._index.add(vectors)

    def set(self, setting: float) -> None:
        """Nothing to set."""

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Compare with all."""
        rows: np.ndarray = self._index.search(queries, k)[1]
        return rows
