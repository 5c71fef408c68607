import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.artifact import MetricArtifact
from engine.content import ContentEncoder, content_features, fit_content

WORDS = ["network", "daemon", "image", "viewer", "font", "serif", "music", "player"]


def catalogue(items: int, seed: int = 0) -> tuple[list[str], list[tuple[str, ...]], np.ndarray]:
    """Items of four themes; a theme has its words, its tag and its direction in the space of vectors."""
    rng = np.random.default_rng(seed)
    themes = rng.integers(0, 4, items)
    texts = [f"{WORDS[2 * theme]} {WORDS[2 * theme + 1]} edition{rng.integers(0, 50)}" for theme in themes]
    directions = np.linalg.qr(rng.standard_normal((8, 8)))[0][:4]
    vectors = 3.0 * directions[themes] + 0.3 * rng.standard_normal((items, 8))
    return texts, [(f"theme::{theme}",) for theme in themes], vectors.astype(np.float32)


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.text(max_size=40), max_size=6), features=st.integers(1, 300))
def test_features_are_unit_or_empty(texts: list[str], features: int) -> None:
    """Every row has length 1, or 0 where there is nothing to hash (or all of it collided away)."""
    matrix = content_features(texts, [()] * len(texts), features)
    assert matrix.shape == (len(texts), features)
    assert matrix.dtype == np.float32
    lengths = np.sqrt(matrix.multiply(matrix).sum(axis=1))
    assert np.all((np.abs(lengths - 1.0) < 1e-5) | (lengths == 0.0))


def test_features_do_not_depend_on_the_process() -> None:
    """The hash is a fixed one: a stored artefact must mean the same in every process."""
    matrix = content_features(["Serif font"], [["made-of::font"]], 1 << 20)
    single = content_features(["font"], [()], 1 << 20)
    assert sorted(single.indices.tolist()) == [287760]
    assert set(single.indices) <= set(matrix.indices)


def test_case_and_order_do_not_matter_to_words() -> None:
    """Words are compared without case, order or repetition."""
    first = content_features(["Image Viewer image"], [()], 4096)
    second = content_features(["viewer, image"], [()], 4096)
    assert abs(first - second).max() < 1e-6


def test_item_lands_beside_its_twins() -> None:
    """An unseen item with a theme's words is nearest to that theme's items and as long as long trained ones."""
    texts, tags, vectors = catalogue(200)
    biases = np.tile(np.float32([0.5, -0.5, 2.0]), (200, 1))
    placement = fit_content(content_features(texts, tags, 1024), vectors, biases, np.ones(200))
    placed, placed_biases = placement.place(content_features(["a font with serif"], [()], 1024))
    nearest = np.argsort(-(vectors @ placed[0]))[:10]
    assert all("font" in texts[row] for row in nearest)
    assert np.linalg.norm(placed[0]) == pytest.approx(np.quantile(np.linalg.norm(vectors, axis=1), 0.95), rel=1e-4)
    np.testing.assert_allclose(placed_biases[0], [0.5, -0.5, 2.0], atol=1e-3)


def test_untrusted_rows_teach_nothing() -> None:
    """A row of trust 0 leaves no trace, whatever its vector is."""
    texts, tags, vectors = catalogue(60)
    biases = np.zeros((60, 3), dtype=np.float32)
    trust = np.ones(60)
    trust[:5] = 0.0
    spoiled = vectors.copy()
    spoiled[:5] = 1e3
    features = content_features(texts, tags, 256)
    first, second = (fit_content(features, each, biases, trust) for each in (vectors, spoiled))
    np.testing.assert_allclose(first.weight, second.weight, atol=1e-5)
    assert first.norm == second.norm


def test_encoder_places_what_the_artifact_says() -> None:
    """The encoder of an artefact gives one row per item; no content at all means the average place."""
    rng = np.random.default_rng(3)
    artifact = MetricArtifact(
        behaviors=("buy",),
        target="buy",
        item_ids=(),
        vectors=np.zeros((0, 4), np.float32),
        biases=np.zeros((0, 3), np.float32),
        code_bias=np.zeros((3, 1), np.float32),
        touched_bonus=np.zeros((), np.float32),
        content_weight=rng.standard_normal((64, 7)).astype(np.float32),
        content_bias=np.arange(7, dtype=np.float32),
        content_norm=2.0,
    )
    vectors, biases = ContentEncoder(artifact).encode(["image viewer", ""], [("x11",), ()])
    assert vectors.shape == (2, 4)
    assert biases.shape == (2, 3)
    assert np.linalg.norm(vectors[0]) == pytest.approx(2.0, rel=1e-5)
    np.testing.assert_allclose(vectors[1], [0, 1, 2, 3])
    other = ContentEncoder(dataclasses.replace(artifact, content_norm=4.0)).encode(["image viewer"], [("x11",)])
    np.testing.assert_allclose(other[0][0], 2.0 * vectors[0], rtol=1e-5)
