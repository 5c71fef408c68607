"""What the engine's search grew from, and what stands beside it: one structure of one well-kept library each.

Vamana has no row of its own: diskannpy 0.7 wants numpy 1.25, which the engine cannot run with. The
relative-neighbourhood graph here is NSG.
"""

from benchmarks.peers.exact import FaissFlat
from benchmarks.peers.graphs import FaissHnsw, FaissNearestNeighbors, FaissNsg, Hnswlib, NmslibSmallWorld
from benchmarks.peers.hashes import FaissLsh, FaissProductQuantizer
from benchmarks.peers.ours import Ours
from benchmarks.peers.peer import Peer, Unavailable, installed
from benchmarks.peers.trees import KdTree, RandomizedKdTrees

PEERS: tuple[type[Peer], ...] = (
    FaissFlat,
    KdTree,
    RandomizedKdTrees,
    FaissLsh,
    FaissNearestNeighbors,
    NmslibSmallWorld,
    Hnswlib,
    FaissHnsw,
    FaissNsg,
    FaissProductQuantizer,
    Ours,
)
"""By family, the oldest first; exact search leads, ours comes last."""

__all__ = ["PEERS", "Peer", "Unavailable", "installed"]
