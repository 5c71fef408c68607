"""Generations as the command line sees them: made from an artefact or for raw vectors, and found again."""

from pathlib import Path
from urllib.parse import unquote, urlparse

from consumers.mirror import columns_of
from engine.artifact import MetricArtifact
from engine.model import Model, learned_model, vector_model
from hopstream.errors import GenerationError
from index_store import GenerationInfo, IndexStore


def create_learned(store: IndexStore, artefact: Path, degree: int) -> GenerationInfo:
    """A generation of the metric in this folder, empty and active. The same artefact again is the same generation.

    Raises `ArtifactError` for a folder that holds no metric.
    """
    folder = artefact.resolve()
    model = learned_model(MetricArtifact.load(folder))
    return _create(store, model, folder.as_uri(), degree)


def create_raw(store: IndexStore, dimensions: int, degree: int) -> GenerationInfo:
    """A generation for items that bring vectors of this many dimensions, compared by inner product."""
    return _create(store, vector_model(dimensions), "", degree)


def load_model(info: GenerationInfo) -> Model:
    """The model that a generation was made with.

    Raises `GenerationError` when this process cannot read the artefact, `GenerationMismatch` when it is another one.
    """
    if info.metric == "inner_product":
        vectors = next(column for column in info.columns if column.name == "vectors")
        return vector_model(vectors.width)
    uri = urlparse(info.artefact_uri)
    if uri.scheme != "file":
        raise GenerationError(f"generation {info.name!r} has its metric at {info.artefact_uri}: only file: is read")
    model = learned_model(MetricArtifact.load(Path(unquote(uri.path))))
    info.require_artefact(model.sha256)
    return model


def _create(store: IndexStore, model: Model, uri: str, degree: int) -> GenerationInfo:
    info = GenerationInfo(
        index=store.index,
        name=model.version.replace(".", "-"),
        metric=model.metric.kind,
        metric_version=model.version,
        artefact_uri=uri,
        artefact_sha256=model.sha256,
        columns=columns_of(model, degree),
    )
    store.create_generation(info)
    store.activate(info.name)
    return info
