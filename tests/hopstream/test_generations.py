"""Generations made and found again: where their metric lies, and what is said when it is not there."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.artifact import MetricArtifact
from hopstream.errors import GenerationError
from hopstream.generations import create_learned, create_raw, load_model
from index_store import GenerationMismatch, IndexStore, Server, connect
from tests.engine.test_artifact import make
from tests.servers import redis_server


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a server for this module."""
    with redis_server() as url:
        yield url


@pytest.fixture
def server(url: str) -> Iterator[Server]:
    """A client of an empty server."""
    with connect(url) as server:
        server.ask("FLUSHALL")
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small metric; its name needs to be quoted in a URI."""
    make(items=20).save(tmp_path / "my metric")
    return tmp_path / "my metric"


def test_a_metric_reaches_workers_through_the_store(server: Server, folder: Path) -> None:
    """The folder may go once the generation is made: the model that a worker loads is the same, number by number."""
    saved = MetricArtifact.load(folder)
    info = create_learned(IndexStore(server, "shop"), folder, 8, 4)
    shutil.rmtree(folder)
    model = load_model(info, server)
    assert (model.version, model.sha256) == (saved.version, saved.sha256)
    vectors, biases = model.encoder.encode(["item 3"], [""], [()], [None])
    assert np.array_equal(vectors[0], saved.vectors[3])
    assert np.array_equal(biases[0], saved.biases[3])


def test_a_metric_may_stay_in_its_folder(server: Server, folder: Path) -> None:
    """By path nothing of it is in the store, and the folder is read again by whoever loads it."""
    info = create_learned(IndexStore(server, "shop"), folder, 8, 4, by_path=True)
    assert info.artefact_uri == folder.as_uri()
    assert load_model(info, server).sha256 == info.artefact_sha256
    assert not [key for key in server.ask("KEYS", "*") if b"artefact" in key]


@pytest.mark.parametrize(("first", "second"), [(False, False), (False, True), (True, False)])
def test_the_same_metric_is_the_same_generation(server: Server, folder: Path, first: bool, second: bool) -> None:
    """Whatever the second way of making it, notes about its training included: it stays where it was put first."""
    store = IndexStore(server, "shop")
    made = create_learned(store, folder, 8, 4, by_path=first)
    dataclasses.replace(MetricArtifact.load(folder), trained={"seconds": 9.0}).save(folder)
    assert create_learned(store, folder, 8, 4, by_path=second) == made == store.active()
    assert create_learned(store, folder, 8, 6, by_path=second) == made, "it keeps the links that it was made with"
    with pytest.raises(GenerationMismatch):
        create_learned(store, folder, 16, 4)


@pytest.mark.parametrize("by_path", [False, True])
def test_a_missing_metric_is_named_with_its_remedy(server: Server, folder: Path, tmp_path: Path, by_path: bool) -> None:
    """The error names index, generation and place; the remedy that it names brings the generation back."""
    store = IndexStore(server, "shop")
    info = create_learned(store, folder, 8, 4, by_path=by_path)
    folder.rename(tmp_path / "copy")
    server.ask("DEL", *server.ask("KEYS", "*artefact*"), "nothing")
    remedy = "--metric FOLDER --by-path`" if by_path else "--metric FOLDER`"
    with pytest.raises(GenerationError, match=f"generation '{info.name}' of index 'shop'.*{remedy}"):
        load_model(info, server)
    (tmp_path / "copy").rename(folder)
    create_learned(store, folder, 8, 4, by_path=by_path)
    assert load_model(info, server).sha256 == info.artefact_sha256


def test_another_metric_in_its_place_is_refused(server: Server, folder: Path) -> None:
    """A metric that is sound but not the generation's is not served."""
    info = create_learned(IndexStore(server, "shop"), folder, 8, 4, by_path=True)
    make(items=20, seed=1).save(folder)
    with pytest.raises(GenerationError, match="was made with artefact"):
        load_model(info, server)


@pytest.mark.parametrize("uri", ["s3://bucket/metric", "redis:", "redis:../../x", "file:", "", "redis://elsewhere/0"])
def test_a_place_that_makes_no_sense_is_refused(server: Server, folder: Path, uri: str) -> None:
    """A URI comes from the store, so it may be anything."""
    info = create_learned(IndexStore(server, "shop"), folder, 8, 4)
    with pytest.raises(GenerationError, match="has its metric at"):
        load_model(dataclasses.replace(info, artefact_uri=uri), server)


def test_raw_vectors_need_no_metric(server: Server) -> None:
    """A generation for items that bring vectors is its own description."""
    info = create_raw(IndexStore(server, "shop"), 16, 8, 4)
    assert load_model(info, server).version == info.metric_version == "inner_product.16"
