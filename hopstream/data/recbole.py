"""Read a folder with one data set in RecBole's atomic format.

    NAME.train.inter or NAME.inter   user_id:token, item_id:token, maybe behavior:token, maybe timestamp:float
    NAME.test.inter                  the same; where it is missing, a seeded tenth of every basket is held out
    NAME.item                        item_id:token and whatever describes an item

Each of them plain, ``.gz`` or ``.xz``. Other parts (NAME.valid.inter, NAME.user, …) are left alone.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hopstream.data.atomic_file import AtomicFile, read_atomic_file
from hopstream.data.catalogue import Catalogue, catalogue_of
from hopstream.data.dataset import Dataset, Interactions
from hopstream.data.hold_out import hold_out, stable_hashes
from hopstream.errors import DataError

__all__ = ["DEFAULT_BEHAVIOR", "MAX_BEHAVIORS", "read_dataset"]

DEFAULT_BEHAVIOR = "interaction"
MAX_BEHAVIORS = 32

_ID_ORDER_SEED = 0
_FILE = re.compile(r"(?P<name>.+?)\.(?P<part>(?:(?:train|test|valid)\.)?inter|item)(?:\.gz|\.xz)?")


def read_dataset(path: str | Path) -> Dataset:
    """Read the data set in the folder ``path``.

    An item's text is made of its columns called like a title, name, description, text or summary, in the file's
    order. Its tags are the words of a column ``tags`` as they are, and ``column::value`` for every other column
    of type token or token_seq. Its number is that of a column ``number:float``, its group what a column
    ``group:token`` holds; either may be empty. Other columns of numbers are not used.

    Raises:
        DataError: there is no such data set, or a file of it is not as the format says.

    """
    folder = Path(path)
    name, files = _find_files(folder)
    train = read_atomic_file(files["train.inter"] if "train.inter" in files else files["inter"])
    test = read_atomic_file(files["test.inter"]) if "test.inter" in files else None
    described = read_atomic_file(files["item"]) if "item" in files else None
    parts = [train] if test is None else [train, test]
    if not len(train):
        raise DataError(train.path, None, "holds no interactions, only a header")

    catalogue = Catalogue() if described is None else catalogue_of(described)
    users = _Codes([part.ids("user_id") for part in parts])
    items = _Codes([catalogue.texts, *(part.ids("item_id") for part in parts)])
    behaviors = _behavior_codes(parts)
    interactions = [_interactions(part, users, items, behaviors) for part in parts]
    notes = list(catalogue.notes)
    if "valid.inter" in files:
        notes.append(f"{files['valid.inter'].name} is ignored: only training and test interactions are used.")
    if test is None:
        held_out = hold_out(interactions[0].users, interactions[0].items, users.ids, items.ids)
        interactions = [interactions[0].where(~held_out), interactions[0].where(held_out)]
        notes.append(f"{name}.test.inter is missing: a seeded tenth of every basket of ten or more is held out.")
    return Dataset(
        name=name,
        users=users.ids,
        items=items.ids,
        behaviors=tuple(behaviors),
        texts=tuple(catalogue.texts.get(item, "") for item in items.ids),
        tags=tuple(catalogue.tags.get(item, ()) for item in items.ids),
        numbers=tuple(map(catalogue.numbers.get, items.ids)),
        groups=tuple(map(catalogue.groups.get, items.ids)),
        train=interactions[0],
        test=interactions[1],
        lines={file.path.name: len(file) for file in (*parts, described) if file is not None},
        notes=tuple(notes),
    )


def _find_files(folder: Path) -> tuple[str, dict[str, Path]]:
    """Find the one data set of a folder: its name, and the file of every part."""
    if not folder.is_dir():
        problem = "is a file: name the folder it lies in" if folder.is_file() else "there is no such folder"
        raise DataError(folder, None, problem)
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and (match := _FILE.fullmatch(path.name)):
            parts = found.setdefault(match["name"], {})
            if match["part"] in parts:
                raise DataError(path, None, f"the same part as {parts[match['part']].name}: remove one of them")
            parts[match["part"]] = path
    names = [name for name, parts in found.items() if parts.keys() & {"train.inter", "inter"}]
    if not names:
        raise DataError(folder, None, "holds no NAME.train.inter or NAME.inter (plain, .gz or .xz)")
    if len(names) > 1:
        raise DataError(folder, None, f"holds several data sets ({', '.join(names)}): give each its own folder")
    return names[0], found[names[0]]


class _Codes:
    """Ids and their codes, in the order of a hash of the id."""

    def __init__(self, columns: Iterable[Iterable[str]]) -> None:
        distinct = sorted(set().union(*columns))
        order = np.argsort(stable_hashes(distinct, _ID_ORDER_SEED), kind="stable")
        self.ids = tuple(distinct[at] for at in order)
        self.code_of = {text: code for code, text in enumerate(self.ids)}

    def encode(self, column: Sequence[str]) -> NDArray[np.int32]:
        return _encode(self.code_of, column)


def _encode(code_of: Mapping[str, int], column: Sequence[str]) -> NDArray[np.int32]:
    return np.fromiter(map(code_of.__getitem__, column), dtype=np.int32, count=len(column))


def _behaviors_of(part: AtomicFile) -> list[str]:
    return part.ids("behavior") if "behavior" in part.columns else [DEFAULT_BEHAVIOR] * len(part)


def _behavior_codes(parts: Sequence[AtomicFile]) -> dict[str, int]:
    """Number the behaviours, the most frequent in training first."""
    in_training, *_ = counts = [Counter(_behaviors_of(part)) for part in parts]
    names = sorted(set().union(*counts), key=lambda name: (-in_training[name], name))
    if len(names) > MAX_BEHAVIORS:
        problem = f"{len(names)} different values of behavior, at most {MAX_BEHAVIORS} are supported"
        raise DataError(parts[0].path, None, problem)
    return {name: code for code, name in enumerate(names)}


def _interactions(part: AtomicFile, users: _Codes, items: _Codes, behaviors: Mapping[str, int]) -> Interactions:
    return Interactions(
        users.encode(part.columns["user_id"]),
        items.encode(part.columns["item_id"]),
        _encode(behaviors, _behaviors_of(part)),
        part.numbers("timestamp") if "timestamp" in part.columns else None,
    )
