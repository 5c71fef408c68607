"""What a structure has to offer to be compared."""

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np


class Unavailable(Exception):
    """A peer's library is not installed, or cannot be loaded here."""


class Peer(ABC):
    """One structure, as one library offers it: built once, searched with several settings.

    structure, library: their names in the table. module: what is imported for it. euclidean: it knows only
    distances, and gets augmented vectors. built_with: parameters of building, in words. parameter: the one that trades
    recall for time while searching. settings: its values, by rising recall.
    """

    structure: ClassVar[str]
    library: ClassVar[str]
    module: ClassVar[str]
    euclidean: ClassVar[bool] = False
    built_with: ClassVar[str]
    parameter: ClassVar[str]
    settings: ClassVar[Sequence[float]]

    def __init__(self, threads: int) -> None:
        """Load the library; raises `Unavailable`."""
        self.threads = threads
        self.api = _loaded(self.module)

    @abstractmethod
    def build(self, vectors: np.ndarray) -> None:
        """Build the structure on float32[N, D]."""

    @abstractmethod
    def set(self, setting: float) -> None:
        """Give the swept parameter a value."""

    @abstractmethod
    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """The rows found for float32[Q, D], all in one call: integer [Q, k], best first, −1 for none."""


def _loaded(module: str) -> Any:
    """Import a peer's library; raises `Unavailable`, with the reason."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise Unavailable(f"{module}: {error}") from error


def installed(peer: type[Peer]) -> bool:
    """Whether the peer's library can be found, without loading it."""
    return importlib.util.find_spec(peer.module) is not None


def augmented_items(vectors: np.ndarray) -> np.ndarray:
    """Turn the largest inner product into the smallest distance: float32[N, D] → float32[N, D + 1].

    An item gets one more dimension, √(M² − ‖v‖²) with M the largest norm, a query a zero there: then ‖q − v‖² is
    ‖q‖² + M² − 2·q·v (Bachrach et al., Speeding up the Xbox recommender system using a Euclidean transformation for
    inner-product spaces, RecSys 2014).
    """
    squares = np.einsum("nd,nd->n", vectors, vectors)
    return np.hstack([vectors, np.sqrt(squares.max() - squares)[:, None]]).astype(np.float32)


def augmented_queries(queries: np.ndarray) -> np.ndarray:
    """Queries to go with `augmented_items`: float32[Q, D] → float32[Q, D + 1]."""
    return np.hstack([queries, np.zeros((len(queries), 1))]).astype(np.float32)
