"""The ways of searching under a learned metric that `benchmarks.search` lets take turns.

All of them answer the same queries with the same compiled scoring on the same threads, and count what they multiply.
"""

import hnswlib
import numpy as np

from benchmarks.challenges import Challenge
from benchmarks.learned_peers import Hnsw, NannParams, nann, sl2g
from benchmarks.machine import THREADS
from benchmarks.search_bench import Bench, Found, K
from engine.index import ItemIndex
from engine.kernels.threads import in_parts


class Peers(Bench):
    """A bench with what other ways of searching need: hnswlib's graph, and faiss's by L2."""

    def __init__(self, challenge: Challenge, index: ItemIndex) -> None:
        super().__init__(challenge, index)
        self._means = challenge.means
        self._by_product = hnswlib.Index("ip", challenge.vectors.shape[1])
        self._by_product.init_index(len(challenge.vectors), M=32, ef_construction=200, random_seed=0)
        self._by_product.add_items(challenge.vectors, num_threads=THREADS)
        self._by_distance: Hnsw | None = None

    def reranked(self, count: int) -> Found:
        """HNSW by inner product with the history's mean vector, and the metric on the best it finds.

        What the walk itself multiplies hnswlib does not tell; it is left out, in its favour.
        """
        self._by_product.set_ef(max(count, 64))
        found, parts = np.empty((len(self.queries), K), np.int64), min(len(self.queries), 4 * THREADS)

        def answer(part: int) -> None:
            lanes = np.arange(part, len(self.queries), parts)
            candidates = self._by_product.knn_query(self._means[lanes], k=count, num_threads=1)[0].astype(np.int64)
            found[lanes] = self.best(self.queries[part::parts], candidates, lanes)

        in_parts(answer, parts, THREADS)
        return Found(found)

    def sl2g(self, ef: int) -> Found:
        """See `benchmarks.learned_peers.sl2g`."""
        return Found(sl2g(self.index.metric, self.index.state, self.queries, self._levels, ef, K)[0])

    def nann(self, params: NannParams) -> Found:
        """See `benchmarks.learned_peers.nann`."""
        return Found(nann(self.index.metric, self.index.state, self.queries, self._levels, params, K)[0])

    @property
    def _levels(self) -> Hnsw:
        if self._by_distance is None:
            self._by_distance = Hnsw.build(self.challenge.vectors)
        return self._by_distance
