"""Trees that cut the space along its axes."""

import numpy as np

from benchmarks.peers.peer import Peer


class KdTree(Peer):
    """One k-d tree (Bentley 1975), searched until nothing nearer can be left by more than a factor 1 + eps."""

    structure = "KD-tree"
    library = "scipy cKDTree"
    module = "scipy.spatial"
    euclidean = True
    built_with = "leafsize 16"
    parameter = "eps"
    settings = (1.0, 0.5, 0.4, 0.3, 0.25, 0.2, 0.0)

    def build(self, vectors: np.ndarray) -> None:
        """Split at medians."""
        self._tree = self.api.cKDTree(vectors)

    def set(self, setting: float) -> None:
        """How much nearer a neighbour that is missed may be."""
        self._eps = setting

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Best bin first; missing neighbours are numbered N, which no row is."""
        rows: np.ndarray = self._tree.query(queries, k, eps=self._eps, workers=self.threads)[1]
        return np.where(rows < self._tree.n, rows, -1)


class RandomizedKdTrees(Peer):
    """Several k-d trees that cut along axes drawn among the widest (Silpa-Anan and Hartley 2008), one queue for all."""

    structure = "randomised KD-trees"
    library = "FLANN in opencv"
    module = "cv2"
    euclidean = True
    built_with = "8 trees"
    parameter = "checks"
    settings = (64, 256, 1024, 4096, 8192, 16384, 32768)

    _KD_TREES = 1

    def build(self, vectors: np.ndarray) -> None:
        """Build the trees; the library searches with one thread."""
        # It keeps no reference to the rows.
        self._vectors = vectors
        self._index = self.api.flann.Index()
        self._index.build(vectors, {"algorithm": self._KD_TREES, "trees": 8})

    def set(self, setting: float) -> None:
        """How many leaves are visited."""
        self._checks = int(setting)

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """One queue of cells for all trees."""
        rows: np.ndarray = self._index.knnSearch(queries, k, params={"checks": self._checks})[0]
        return rows
