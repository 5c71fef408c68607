"""A metric with what places items under it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from engine.artifact import MetricArtifact
from engine.content import ContentEncoder
from engine.metric import InnerProduct, Metric
from engine.mlp_metric import MlpMetric

Floats = npt.NDArray[np.float32]


class ItemEncoder(Protocol):
    """Gives every item its vector and biases."""

    def problem(self, vector: Floats | None) -> str | None:
        """Why an item that brings this vector (or none) cannot be placed; None when it can."""

    def encode(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        tags: Sequence[Sequence[str]],
        vectors: Sequence[Floats | None],
    ) -> tuple[Floats, Floats]:
        """Vectors float32[n, D] and biases float32[n, bias_width] of n items without a problem."""


@dataclass(frozen=True, slots=True)
class Model:
    """What a generation is made with.

    behaviors: the names that the metric knows; target: the one that it recommends for, None where it knows none.
    sha256: identifies the artefact; empty where there is none. version: goes into every answer.
    """

    metric: Metric
    encoder: ItemEncoder
    version: str
    sha256: str = ""
    behaviors: tuple[str, ...] = ()
    target: str | None = None


def learned_model(artifact: MetricArtifact) -> Model:
    """The model of a trained artefact."""
    metric = MlpMetric(artifact.dimensions, artifact.code_bias, float(artifact.touched_bonus), artifact.target_code)
    return Model(
        metric, LearnedEncoder(artifact), artifact.version, artifact.sha256, artifact.behaviors, artifact.target
    )


def vector_model(dimensions: int) -> Model:
    """The model of items that bring their own vectors, compared by inner product."""
    return Model(InnerProduct(dimensions), GivenVectors(dimensions), f"inner_product.{dimensions}")


class GivenVectors:
    """Items are where their own vectors say."""

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions

    def problem(self, vector: Floats | None) -> str | None:
        """An item needs a vector of the right length."""
        if vector is None:
            return f"has no vector, and no metric was trained that could make one of {self._dimensions} dimensions"
        return _misfit(vector, self._dimensions)

    def encode(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        tags: Sequence[Sequence[str]],
        vectors: Sequence[Floats | None],
    ) -> tuple[Floats, Floats]:
        """The vectors that the items brought."""
        given = [vector for vector in vectors if vector is not None]
        return np.stack(given).astype(np.float32), np.zeros((len(given), 0), dtype=np.float32)


class LearnedEncoder:
    """Items are where training put them; others where their own vector or else their content says."""

    def __init__(self, artifact: MetricArtifact) -> None:
        self._artifact = artifact
        self._trained = {item: row for row, item in enumerate(artifact.item_ids)}
        self._content = ContentEncoder(artifact)

    def problem(self, vector: Floats | None) -> str | None:
        """A vector of the item's own must be of the metric's space."""
        return None if vector is None else _misfit(vector, self._artifact.dimensions)

    def encode(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        tags: Sequence[Sequence[str]],
        vectors: Sequence[Floats | None],
    ) -> tuple[Floats, Floats]:
        """An own vector counts before training, training before content."""
        artifact = self._artifact
        placed = np.empty((len(ids), artifact.dimensions), dtype=np.float32)
        biases = np.empty((len(ids), artifact.biases.shape[1]), dtype=np.float32)
        unseen = []
        for place, (item, vector) in enumerate(zip(ids, vectors, strict=True)):
            row = self._trained.get(item)
            if vector is not None:
                placed[place], biases[place] = vector, artifact.content_bias[artifact.dimensions :]
            elif row is not None:
                placed[place], biases[place] = artifact.vectors[row], artifact.biases[row]
            else:
                unseen.append(place)
        if unseen:
            placed[unseen], biases[unseen] = self._content.encode(
                [texts[place] for place in unseen], [tags[place] for place in unseen]
            )
        return placed, biases


LARGEST = 1e6
"""The largest number in an item's vector: products of larger ones overflow, and would spoil everybody's answers."""


def _misfit(vector: Floats, dimensions: int) -> str | None:
    if vector.shape != (dimensions,):
        return f"has a vector of {vector.size} dimensions, needs {dimensions}"
    return None if np.abs(vector).max() <= LARGEST else f"has a vector with numbers beyond ±{LARGEST:g}"
