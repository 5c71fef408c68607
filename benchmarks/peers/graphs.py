"""Graphs to walk on."""

import numpy as np

from benchmarks.peers.peer import Peer

_EFFORT = (16, 32, 64, 128, 256, 512, 1024)
"""Candidates that a walk keeps, under whatever name."""


class FaissNearestNeighbors(Peer):
    """Every item linked with its nearest ones, found by NN-descent (Dong et al. 2011), and nothing pruned."""

    structure = "k-NN graph"
    library = "faiss IndexNNDescentFlat"
    module = "faiss"
    euclidean = True
    built_with = "64 neighbours"
    parameter = "search_L"
    settings = (*_EFFORT, 2048)

    def build(self, vectors: np.ndarray) -> None:
        """Join neighbours' neighbours until hardly any link changes."""
        self.api.omp_set_num_threads(self.threads)
        self._index = self.api.IndexNNDescentFlat(vectors.shape[1], 64, self.api.METRIC_L2)
        self._index.add(vectors)

    def set(self, setting: float) -> None:
        """Candidates kept; it draws as many items to start from, for ever if there are not so many."""
        self._index.nndescent.search_L = min(int(setting), self._index.ntotal)

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Walk best first, from random items."""
        rows: np.ndarray = self._index.search(queries, k)[1]
        return rows


class NmslibSmallWorld(Peer):
    """A navigable small world (Malkov et al. 2014): items linked as they come, early links are the long ones.

    The library's wheel is compiled for SSE2; from source it would be faster.
    """

    structure = "NSW"
    library = "nmslib sw-graph"
    module = "nmslib"
    euclidean = True
    built_with = "NN 16, efConstruction 200"
    parameter = "efSearch"
    settings = _EFFORT

    def build(self, vectors: np.ndarray) -> None:
        """Insert one by one."""
        self._index = self.api.init(method="sw-graph", space="l2")
        self._index.addDataPointBatch(vectors)
        self._index.createIndex({"NN": 16, "efConstruction": 200, "indexThreadQty": self.threads})

    def set(self, setting: float) -> None:
        """Candidates kept."""
        self._index.setQueryTimeParams({"efSearch": int(setting)})

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Walk greedily; it may find fewer than k."""
        rows = np.full((len(queries), k), -1)
        for row, (found, _) in zip(rows, self._index.knnQueryBatch(queries, k, num_threads=self.threads), strict=True):
            row[: len(found)] = found
        return rows


class Hnswlib(Peer):
    """The hierarchical navigable small world of its authors (Malkov and Yashunin 2016)."""

    structure = "HNSW"
    library = "hnswlib"
    module = "hnswlib"
    built_with = "M 32, ef_construction 200"
    parameter = "ef"
    settings = _EFFORT

    def build(self, vectors: np.ndarray) -> None:
        """Insert one by one."""
        self._index = self.api.Index("ip", vectors.shape[1])
        self._index.init_index(len(vectors), M=32, ef_construction=200, random_seed=0)
        self._index.set_num_threads(self.threads)
        self._index.add_items(vectors)

    def set(self, setting: float) -> None:
        """Candidates kept on the lowest level."""
        self._index.set_ef(int(setting))

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Walk down the levels."""
        rows: np.ndarray = self._index.knn_query(queries, k)[0].astype(np.int64)
        return rows


class FaissHnsw(Peer):
    """The same structure in faiss."""

    structure = "HNSW"
    library = "faiss IndexHNSWFlat"
    module = "faiss"
    built_with = "M 32, efConstruction 200"
    parameter = "efSearch"
    settings = _EFFORT

    def build(self, vectors: np.ndarray) -> None:
        """Insert level by level."""
        self.api.omp_set_num_threads(self.threads)
        self._index = self.api.IndexHNSWFlat(vectors.shape[1], 32, self.api.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = 200
        self._index.add(vectors)

    def set(self, setting: float) -> None:
        """Candidates kept on the lowest level."""
        self._index.hnsw.efSearch = int(setting)

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Walk down the levels."""
        rows: np.ndarray = self._index.search(queries, k)[1]
        return rows


class FaissNsg(Peer):
    """A navigating spreading-out graph (Fu et al. 2019): a relative-neighbourhood graph pruned from a k-NN graph."""

    structure = "NSG"
    library = "faiss IndexNSGFlat"
    module = "faiss"
    euclidean = True
    built_with = "R 32"
    parameter = "search_L"
    settings = _EFFORT

    def build(self, vectors: np.ndarray) -> None:
        """Prune the exact k-NN graph, from one navigating node."""
        self.api.omp_set_num_threads(self.threads)
        self._index = self.api.IndexNSGFlat(vectors.shape[1], 32, self.api.METRIC_L2)
        self._index.add(vectors)

    def set(self, setting: float) -> None:
        """Candidates kept; it draws as many items to start from, for ever if there are not so many."""
        self._index.nsg.search_L = min(int(setting), self._index.ntotal)

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Walk from the navigating node."""
        rows: np.ndarray = self._index.search(queries, k)[1]
        return rows
