"""Generations as the command line sees them: made from an artefact or for raw vectors, and found again."""

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlparse

from consumers.mirror import columns_of
from engine.artifact import MetricArtifact
from engine.errors import ArtifactError
from engine.model import Model, learned_model, vector_model
from hopstream.errors import GenerationError
from index_store import (
    IN_STORE,
    Artefacts,
    ArtefactUnreadable,
    Column,
    GenerationInfo,
    GenerationMismatch,
    IndexStore,
    Server,
    UnknownGeneration,
    artefact_digest,
)

_IN_FOLDER = "file"  # file:///PATH, for every worker the same


def create_learned(
    store: IndexStore, artefact: Path, degree: int, relevant: int, *, by_path: bool = False
) -> GenerationInfo:
    """A generation of the metric in this folder, empty and active. The same metric again is the same generation.

    Each item is linked to as many neighbours as ``degree`` says, and to as many ``relevant`` ones.

    Workers read the metric from the store, or from the very folder if it is given `by_path`. Raises `ArtifactError`
    for a folder that holds no metric, `ArtefactTooLarge` for one that only a folder can hold.
    """
    folder = artefact.resolve()
    metric = MetricArtifact.load(folder)
    files = {} if by_path else metric.to_files()
    uri = folder.as_uri() if by_path else f"{IN_STORE}:{artefact_digest(files)}"
    info = _known(store, _describe(store, learned_model(metric), uri, degree, relevant))
    if info.artefact_uri == uri and not by_path:
        # Before the generation that names it; and once more with every repetition, which mends a damaged one.
        Artefacts(store.server, store.index).put(files)
    return _activate(store, info)


def create_raw(store: IndexStore, dimensions: int, degree: int, relevant: int) -> GenerationInfo:
    """A generation for items that bring vectors of this many dimensions, compared by inner product."""
    return _activate(store, _known(store, _describe(store, vector_model(dimensions), "", degree, relevant)))


def load_model(info: GenerationInfo, server: Server) -> Model:
    """The model that a generation was made with, its metric read from where the generation says.

    Raises `GenerationError` when the metric is missing, damaged or another one.
    """
    if info.metric == "inner_product":
        vectors = next(column for column in info.columns if column.name == "vectors")
        return vector_model(vectors.width)
    try:
        model = learned_model(_metric(info, server))
        info.require_artefact(model.sha256)
    except (ArtifactError, ArtefactUnreadable, GenerationMismatch) as error:
        option = " --by-path" if info.artefact_uri.startswith(_IN_FOLDER) else ""
        raise GenerationError(
            f"generation {info.name!r} of index {info.index!r} has its metric at {info.artefact_uri}: {error}; "
            f"put it back with `hopstream index create --metric FOLDER{option}`, FOLDER being what it was made from"
        ) from error
    return model


def _metric(info: GenerationInfo, server: Server) -> MetricArtifact:
    if (digest := info.stored_artefact) is not None:
        return MetricArtifact.from_files(Artefacts(server, info.index).get(digest))
    uri = urlparse(info.artefact_uri)
    if uri.scheme == _IN_FOLDER:
        return MetricArtifact.load(Path(unquote(uri.path)))
    raise ArtefactUnreadable(f"this release reads {IN_STORE}: and {_IN_FOLDER}: only")


def _describe(store: IndexStore, model: Model, uri: str, degree: int, relevant: int) -> GenerationInfo:
    return GenerationInfo(
        index=store.index,
        name=model.version.replace(".", "-"),
        metric=model.metric.kind,
        metric_version=model.version,
        artefact_uri=uri,
        artefact_sha256=model.sha256,
        columns=columns_of(model, degree, relevant),
    )


def _known(store: IndexStore, info: GenerationInfo) -> GenerationInfo:
    """The stored generation of the same metric; `info` itself where there is none.

    Wherever that has its metric from, and however many relevant links: it keeps those that it was made with.
    """
    try:
        stored = store.generation(info.name)
    except UnknownGeneration:
        return info
    mine = replace(info, artefact_uri=stored.artefact_uri, columns=_lasting(info))
    return stored if mine == replace(stored, columns=_lasting(stored)) else info


def _lasting(info: GenerationInfo) -> tuple[Column, ...]:
    return tuple(column for column in info.columns if column.name != "relevant")


def _activate(store: IndexStore, info: GenerationInfo) -> GenerationInfo:
    store.create_generation(info)
    store.activate(info.name)
    return info
