import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.artifact import DESCRIPTION, ITEMS, TENSORS, ArtifactError, MetricArtifact

TENSOR_NAMES = ("vectors", "biases", "code_bias", "touched_bonus", "content_weight", "content_bias")


def make(items: int = 5, dimensions: int = 3, behaviors: tuple[str, ...] = ("buy", "view"), seed: int = 0):
    """A metric of random numbers."""
    rng = np.random.default_rng(seed)
    width = dimensions + 2 + len(behaviors)

    def floats(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return MetricArtifact(
        behaviors=behaviors,
        target=behaviors[0],
        item_ids=tuple(f"item {number}" for number in range(items)),
        vectors=floats(items, dimensions),
        biases=floats(items, 2 + len(behaviors)),
        code_bias=floats(3, len(behaviors)),
        touched_bonus=np.array(1.5, dtype=np.float32),
        content_weight=floats(7, width),
        content_bias=floats(width),
        content_norm=2.5,
        trained={"seconds": 1.0},
    )


@settings(max_examples=25, deadline=None)
@given(items=st.integers(0, 20), dimensions=st.integers(1, 8), behaviors=st.integers(1, 4), seed=st.integers(0, 99))
def test_round_trip(tmp_path_factory, items: int, dimensions: int, behaviors: int, seed: int) -> None:
    """What is saved is loaded, bit by bit, with the same version."""
    folder = tmp_path_factory.mktemp("artifact") / "metric"
    saved = make(items, dimensions, tuple(f"b{number}" for number in range(behaviors)), seed)
    saved.save(folder)
    loaded = MetricArtifact.load(folder)
    for field in dataclasses.fields(MetricArtifact):
        before, after = getattr(saved, field.name), getattr(loaded, field.name)
        same = np.array_equal(before, after) if isinstance(before, np.ndarray) else before == after
        assert same, field.name
    assert loaded.sha256 == saved.sha256


def test_version_follows_meaning() -> None:
    """The version changes with any tensor or id, and not with the notes about the training."""
    artifact = make()
    assert dataclasses.replace(artifact, trained={"seconds": 9.0}).version == artifact.version
    for name in TENSOR_NAMES:
        changed = dataclasses.replace(artifact, **{name: np.asarray(getattr(artifact, name) + 1, np.float32)})
        assert changed.version != artifact.version, name
    renamed = dataclasses.replace(artifact, item_ids=("other", *artifact.item_ids[1:]))
    assert renamed.version != artifact.version


def test_save_replaces_whole_folder(tmp_path: Path) -> None:
    """A second save takes the place of the first and leaves nothing else behind."""
    make(seed=1).save(tmp_path / "metric")
    second = make(seed=2)
    second.save(tmp_path / "metric")
    assert MetricArtifact.load(tmp_path / "metric").version == second.version
    assert [path.name for path in tmp_path.iterdir()] == ["metric"]


def test_failed_save_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that breaks half-way leaves the previous artefact readable and no debris."""
    first = make(seed=1)
    first.save(tmp_path / "metric")

    def disk_full(path: Path, data: bytes) -> int:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", disk_full)
        with pytest.raises(OSError, match="disk full"):
            make(seed=2).save(tmp_path / "metric")
    assert MetricArtifact.load(tmp_path / "metric").version == first.version
    assert [path.name for path in tmp_path.iterdir()] == ["metric"]


@pytest.mark.parametrize("name", TENSOR_NAMES)
def test_tensors_are_checked(name: str) -> None:
    """A tensor of another shape, another type or with a value that is not finite is refused by name."""
    artifact = make()
    tensor = getattr(artifact, name)
    not_finite = tensor.copy()
    not_finite[...] = np.nan
    for wrong in (tensor[None], tensor.astype(np.float64), not_finite):
        with pytest.raises(ArtifactError, match=name):
            dataclasses.replace(artifact, **{name: wrong})


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("format", 2, "format"),
        ("format", True, "format"),
        ("kind", "l2", "kind"),
        ("behaviors", [1, 2], "behaviors"),
        ("behaviors", ["buy", "buy"], "behaviors"),
        ("behaviors", ["buy"], "biases"),
        ("target", "like", "target"),
        ("dimensions", 4, "dimensions"),
        ("content", {"features": 7, "norm": -1.0}, "content.norm"),
        ("content", {}, "content.norm"),
        ("version", "0" * 12, "version"),
    ],
)
def test_description_is_checked(tmp_path: Path, key: str, value: object, named: str) -> None:
    """A description that says anything else than the tensors is refused, and the error names the field."""
    make().save(tmp_path / "metric")
    path = tmp_path / "metric" / DESCRIPTION
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ArtifactError, match=named):
        MetricArtifact.load(tmp_path / "metric")


@pytest.mark.parametrize("file", [DESCRIPTION, TENSORS, ITEMS])
def test_missing_and_cut_files(tmp_path: Path, file: str) -> None:
    """A missing, an empty and a cut file are each an ArtifactError that names the file."""
    make().save(tmp_path / "metric")
    path = tmp_path / "metric" / file
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b""):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=file):
            MetricArtifact.load(tmp_path / "metric")
    path.unlink()
    with pytest.raises(ArtifactError, match=file):
        MetricArtifact.load(tmp_path / "metric")


@settings(max_examples=60, deadline=None)
@given(file=st.sampled_from([DESCRIPTION, TENSORS, ITEMS]), data=st.data())
def test_corruption_never_passes(tmp_path_factory, file: str, data: st.DataObject) -> None:
    """A changed byte anywhere leads to an ArtifactError, or to the same metric; never to another one."""
    folder = tmp_path_factory.mktemp("artifact") / "metric"
    artifact = make()
    artifact.save(folder)
    content = bytearray((folder / file).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / file).write_bytes(content)
    try:
        loaded = MetricArtifact.load(folder)
    except ArtifactError:
        return
    assert loaded.sha256 == artifact.sha256
