"""Where an item goes that nobody has touched yet: from its words and tags to its place in the metric.

Words and tags are hashed (feature hashing, Weinberger et al. 2009) into one sparse vector; ridge regression on
the trained items maps it to a vector and biases. A ridge prediction is short, since unexplained parts cancel;
as the kernel lives on inner products, the predicted vector is scaled to the length of the longer trained ones,
so that an item placed by its content can enter a top ten.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from engine.artifact import Floats, MetricArtifact

FEATURES = 4096
_WORD = re.compile(r"[^\W_]+")
_GRAM = 4
# A placed vector points only roughly where a trained one would, which costs inner product: it gets the length of
# the longer trained ones. Measured on the Debian sample, 69 items kept out of training: 23 % of their users find them
# in the top ten, with the median length 10 %.
_NORM_QUANTILE = 0.95


def content_features(texts: Sequence[str], tags: Sequence[Sequence[str]], features: int) -> sparse.csr_matrix:
    """Hashed words, parts of words and tags, each row of length 1 (0 where there is no content); f4[N, features]."""
    columns: list[int] = []
    values: list[float] = []
    offsets = [0]
    for text, item_tags in zip(texts, tags, strict=True):
        for token, weight in _tokens(text, item_tags):
            code = zlib.crc32(token.encode())
            columns.append(code % features)
            # A bit that the column does not depend on: colliding tokens then cancel on average.
            values.append(-weight if code >> 31 else weight)
        offsets.append(len(columns))
    shape = (len(offsets) - 1, features)
    matrix = sparse.csr_matrix((np.array(values, np.float32), np.array(columns, np.int64), offsets), shape=shape)
    matrix.sum_duplicates()
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return (sparse.diags(scale) @ matrix).tocsr().astype(np.float32)


def _tokens(text: str, tags: Sequence[str]) -> list[tuple[str, float]]:
    words = dict.fromkeys(_WORD.findall(text.lower()))
    grams = dict.fromkeys(
        word[start : start + _GRAM] for word in words if len(word) > _GRAM for start in range(len(word) - _GRAM + 1)
    )
    return (
        [("w " + word, 1.0) for word in words]
        + [("g " + gram, 0.4) for gram in grams]
        + [("t " + tag, 0.7) for tag in dict.fromkeys(tags)]
    )


@dataclass(frozen=True, slots=True, eq=False)
class ContentPlacement:
    """What `fit_content` learned: weight f4[F, W], bias f4[W], norm of a placed vector, D; W = D + 2 + B."""

    weight: Floats
    bias: Floats
    norm: float
    dimensions: int

    def place(self, features: sparse.csr_matrix) -> tuple[Floats, Floats]:
        """Vectors f4[n, D] of length `norm` and biases f4[n, 2 + B]; features: f4[n, F]."""
        placed = np.asarray(features @ self.weight + self.bias, dtype=np.float32)
        vectors, biases = placed[:, : self.dimensions], placed[:, self.dimensions :]
        known = np.diff(features.indptr) > 0
        lengths = np.linalg.norm(vectors, axis=1)
        stretch = np.where(known & (lengths > 1e-6), self.norm / np.maximum(lengths, 1e-6), 1.0)
        return vectors * stretch[:, None].astype(np.float32), np.ascontiguousarray(biases)


def fit_content(
    features: sparse.csr_matrix,
    vectors: Floats,
    biases: Floats,
    trust: npt.NDArray[np.floating[Any]],
    *,
    penalty: float = 3.0,
) -> ContentPlacement:
    """Weighted ridge regression from content to (e, β, α, g).

    features: f4[N, F]; vectors: f4[N, D]; biases: f4[N, 2 + B]; trust: [N], the weight of each row, 0 to leave it out.
    Frequent features are held back more than telling ones, through their inverse document frequency.
    """
    targets = torch.from_numpy(np.concatenate([vectors, biases], axis=1))
    weight_of = torch.from_numpy(np.asarray(trust, dtype=np.float32))
    total = weight_of.sum().clamp(min=1e-6)
    bias = (weight_of @ targets) / total
    frequency = np.bincount(features.indices, minlength=features.shape[1])
    rarity = np.log1p(features.shape[0] / (1.0 + frequency)).astype(np.float32)
    rarity /= rarity.max(initial=1e-6)
    rows = sparse.diags(np.sqrt(weight_of.numpy())) @ features @ sparse.diags(rarity)
    gram = torch.from_numpy((rows.T @ rows).toarray().astype(np.float32, copy=False))
    gram.diagonal().add_(penalty)
    centred = (targets - bias) * weight_of.sqrt()[:, None]
    moment = torch.from_numpy(np.ascontiguousarray(rows.T @ centred.numpy()))
    solution = torch.cholesky_solve(moment, torch.linalg.cholesky(gram))
    lengths = np.linalg.norm(vectors[trust > 0], axis=1)
    norm = float(np.quantile(lengths, _NORM_QUANTILE)) if len(lengths) else 1.0
    return ContentPlacement(solution.numpy() * rarity[:, None], bias.numpy(), max(norm, 1e-6), vectors.shape[1])


class ContentEncoder:
    """Places items by their content with what a metric artefact learned."""

    def __init__(self, artifact: MetricArtifact) -> None:
        self._placement = ContentPlacement(
            artifact.content_weight, artifact.content_bias, artifact.content_norm, artifact.dimensions
        )

    def encode(self, texts: Sequence[str], tags: Sequence[Sequence[str]]) -> tuple[Floats, Floats]:
        """Vectors f4[n, D] and biases f4[n, 2 + B] of n items; one without any content gets the average place."""
        return self._placement.place(content_features(texts, tags, len(self._placement.weight)))
