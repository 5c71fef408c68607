"""The learned metric as three files, in a folder or anywhere else. Never pickle."""

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from engine.errors import ArtifactError

FORMAT = 1
KIND = "mlp"
DESCRIPTION, TENSORS, ITEMS = "metric.json", "metric.safetensors", "items.json"
_FILES = (DESCRIPTION, TENSORS, ITEMS)
_KEYS = {
    "format": int,
    "kind": str,
    "behaviors": list,
    "target": str,
    "dimensions": int,
    "content": dict,
    "trained": dict,
}

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class MetricArtifact:
    """A trained multi-relational metric over N items, D dimensions, B behaviours and F content features.

    vectors: f4[N, D], e. biases: f4[N, 2 + B] = (β, α, g_1..g_B). code_bias: f4[3, B], a. touched_bonus: f4[], ρ.
    content_weight: f4[F, D + 2 + B] and content_bias: f4[D + 2 + B] place an item that was never trained on
    (see `engine.content`), its vector scaled to length `content_norm`. `trained` is free-form, finite JSON.
    Raises ArtifactError on construction where the parts do not fit together or are not finite.
    """

    behaviors: tuple[str, ...]
    target: str
    item_ids: tuple[str, ...]
    vectors: Floats
    biases: Floats
    code_bias: Floats
    touched_bonus: Floats
    content_weight: Floats
    content_bias: Floats
    content_norm: float
    trained: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.behaviors or len(set(self.behaviors)) != len(self.behaviors):
            raise ArtifactError(DESCRIPTION, "behaviors", "empty or not distinct")
        if self.target not in self.behaviors:
            raise ArtifactError(DESCRIPTION, "target", f"{self.target!r} is none of {list(self.behaviors)}")
        if not (math.isfinite(self.content_norm) and self.content_norm > 0):
            raise ArtifactError(DESCRIPTION, "content.norm", "not a positive finite number")
        if len(set(self.item_ids)) != len(self.item_ids):
            raise ArtifactError(ITEMS, "$", "ids are not distinct")
        _check_tensors(self)

    @property
    def dimensions(self) -> int:
        """D, the width of an item vector."""
        return int(self.vectors.shape[1])

    @property
    def target_code(self) -> int:
        """The position of the target in `behaviors`."""
        return self.behaviors.index(self.target)

    @property
    def sha256(self) -> str:
        """Hex digest over the tensors, the ids and what gives them meaning; free-form notes do not count."""
        meaning = {key: value for key, value in self._description().items() if key != "trained"}
        digest = hashlib.sha256()
        for part in (_json(meaning), _json(list(self.item_ids)), save_tensors(self._tensors())):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        return digest.hexdigest()

    @property
    def version(self) -> str:
        """The first twelve digits of `sha256`."""
        return self.sha256[:12]

    def to_files(self) -> dict[str, bytes]:
        """The files by name; the same metric gives the same bytes."""
        return {
            DESCRIPTION: _json({**self._description(), "version": self.version}),
            TENSORS: save_tensors(self._tensors()),
            ITEMS: _json(list(self.item_ids)),
        }

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> "MetricArtifact":
        """Read and check what `to_files` gave. Raises ArtifactError on anything missing, damaged or foreign."""
        if missing := [name for name in _FILES if name not in files]:
            raise ArtifactError(missing[0], "$", "missing")
        description = _read_description(files[DESCRIPTION])
        ids = _read_json(ITEMS, files[ITEMS], list)
        if not all(isinstance(each, str) and each for each in ids):
            raise ArtifactError(ITEMS, "$", "not a list of non-empty strings")
        artifact = cls(
            behaviors=tuple(description["behaviors"]),
            target=description["target"],
            item_ids=tuple(ids),
            content_norm=description["content"]["norm"],
            trained=description["trained"],
            **_read_tensors(files[TENSORS]),
        )
        for name, found in (("dimensions", artifact.dimensions), ("version", artifact.version)):
            if description.get(name) != found:
                raise ArtifactError(DESCRIPTION, name, f"says {description.get(name)!r}, the files say {found!r}")
        return artifact

    def save(self, folder: str | Path) -> None:
        """Write the files into a new folder, then put it where `folder` is; OSError where that fails.

        A reader never sees half an artefact. Replacing an older one takes two renames, and between them, for an
        instant, there is no `folder`.
        """
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            fresh.chmod(0o755)
            for name, content in self.to_files().items():
                (fresh / name).write_bytes(content)
            _replace_folder(folder, fresh)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    @classmethod
    def load(cls, folder: str | Path) -> "MetricArtifact":
        """Read what `save` wrote; raises ArtifactError as `from_files` does."""
        return cls.from_files({name: _read(Path(folder) / name) for name in _FILES})

    def _tensors(self) -> dict[str, Floats]:
        return {name: np.asarray(getattr(self, name), order="C") for name in _TENSOR_NAMES}

    def _description(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "kind": KIND,
            "behaviors": list(self.behaviors),
            "target": self.target,
            "dimensions": self.dimensions,
            "content": {"features": int(self.content_weight.shape[0]), "norm": float(self.content_norm)},
            "trained": dict(self.trained),
        }


_TENSOR_NAMES = ("vectors", "biases", "code_bias", "touched_bonus", "content_weight", "content_bias")


def _check_tensors(artifact: MetricArtifact) -> None:
    for name in _TENSOR_NAMES:
        tensor = getattr(artifact, name)
        if not isinstance(tensor, np.ndarray) or tensor.dtype != np.float32:
            raise ArtifactError(TENSORS, name, "not a float32 array")
    if artifact.vectors.ndim != 2 or artifact.content_weight.ndim != 2 or 0 in artifact.vectors.shape[1:]:
        raise ArtifactError(TENSORS, "vectors" if artifact.vectors.ndim != 2 else "content_weight", "not a matrix")
    items, behaviors = len(artifact.item_ids), len(artifact.behaviors)
    width = artifact.dimensions + 2 + behaviors
    shapes = {
        "vectors": (items, artifact.dimensions),
        "biases": (items, 2 + behaviors),
        "code_bias": (3, behaviors),
        "touched_bonus": (),
        "content_weight": (artifact.content_weight.shape[0], width),
        "content_bias": (width,),
    }
    for name, shape in shapes.items():
        tensor = getattr(artifact, name)
        if tensor.shape != shape:
            raise ArtifactError(TENSORS, name, f"has shape {list(tensor.shape)}, needs {list(shape)}")
        if not np.isfinite(tensor).all():
            raise ArtifactError(TENSORS, name, "not finite")
    if not artifact.content_weight.shape[0]:
        raise ArtifactError(TENSORS, "content_weight", "has no features")


def _read_description(content: bytes) -> dict[str, Any]:
    description: dict[str, Any] = _read_json(DESCRIPTION, content, dict)
    for key, kind in _KEYS.items():
        if type(description.get(key)) is not kind:
            raise ArtifactError(DESCRIPTION, key, f"missing or not of type {kind.__name__}")
    if description["format"] != FORMAT:
        raise ArtifactError(
            DESCRIPTION, "format", f"version {description['format']} where this release reads {FORMAT}: train again"
        )
    if description["kind"] != KIND:
        raise ArtifactError(DESCRIPTION, "kind", f"{description['kind']!r} where {KIND!r} is expected")
    if not all(isinstance(each, str) and each for each in description["behaviors"]):
        raise ArtifactError(DESCRIPTION, "behaviors", "not a list of non-empty strings")
    if type(description["content"].get("norm")) is not float:
        raise ArtifactError(DESCRIPTION, "content.norm", "missing or not a number")
    return description


def _read_tensors(content: bytes) -> dict[str, Floats]:
    try:
        tensors = load_tensors(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArtifactError(TENSORS, "$", f"not a safetensors file ({error})") from error
    if set(tensors) != set(_TENSOR_NAMES):
        raise ArtifactError(TENSORS, "$", f"holds {sorted(tensors)}, not {sorted(_TENSOR_NAMES)}")
    return tensors


def _read_json(file: str, content: bytes, kind: type) -> Any:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(file, "$", f"not JSON ({error})") from error
    if not isinstance(value, kind):
        raise ArtifactError(file, "$", f"not a JSON {kind.__name__}")
    return value


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(path.name, "$", f"cannot be read from {path.parent} ({error.strerror})") from error


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True).encode()


def _replace_folder(folder: Path, fresh: Path) -> None:
    """Put `fresh` where `folder` is: a folder cannot be renamed onto a full one, so the old one steps aside."""
    if not folder.exists():
        fresh.rename(folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        folder.replace(aside)
        fresh.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
