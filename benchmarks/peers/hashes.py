"""Short codes in place of vectors, and exact re-ranking of the best of them."""

import numpy as np

from benchmarks.peers.peer import Peer


class FaissLsh(Peer):
    """Signs of random projections (Charikar 2002), compared by Hamming distance, all of them.

    On augmented vectors, this is the hashing for inner products of Neyshabur and Srebro (ICML 2015).
    """

    structure = "LSH"
    library = "faiss IndexLSH + refine"
    module = "faiss"
    euclidean = True
    built_with = "512 bits"
    parameter = "k_factor"
    settings = (1, 2, 4, 8, 16, 32, 64, 128)

    def build(self, vectors: np.ndarray) -> None:
        """Hash the vectors, and keep them for re-ranking."""
        self.api.omp_set_num_threads(self.threads)
        self._codes = self.api.IndexLSH(vectors.shape[1], 512)
        self._index = self.api.IndexRefineFlat(self._codes)
        self._index.train(vectors)
        self._index.add(vectors)

    def set(self, setting: float) -> None:
        """How many times k are re-ranked."""
        self._index.k_factor = setting

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Scan the codes, then re-rank."""
        rows: np.ndarray = self._index.search(queries, k)[1]
        return rows


class FaissProductQuantizer(Peer):
    """Inverted lists of product-quantised vectors (Jégou et al. 2011), scanned in registers (André et al. 2015)."""

    structure = "product quantisation"
    library = "faiss IVFPQ + refine"
    module = "faiss"
    built_with = "4·√N lists, half a byte for 2 dimensions"
    parameter = "nprobe"
    settings = (4, 8, 16, 32, 64, 128, 256, 512)

    _REFINED = 16

    def build(self, vectors: np.ndarray) -> None:
        """Train lists and codes on the vectors themselves."""
        self.api.omp_set_num_threads(self.threads)
        count, dimensions = vectors.shape
        lists = min(int(4 * count**0.5), count // 39)  # fewer than 39 vectors for a list, and faiss calls it too few
        recipe = f"IVF{max(1, lists)},PQ{dimensions // 2}x4fs,RFlat"
        self._index = self.api.index_factory(dimensions, recipe, self.api.METRIC_INNER_PRODUCT)
        self._index.train(vectors)
        self._index.add(vectors)
        self._index.k_factor = self._REFINED

    def set(self, setting: float) -> None:
        """How many lists are scanned."""
        self.api.extract_index_ivf(self._index).nprobe = int(setting)

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Scan the nearest lists, then re-rank 16 times k."""
        rows: np.ndarray = self._index.search(queries, k)[1]
        return rows
