"""What a data set says of its items: a text and tags for each, a number and a group where it has them."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hopstream.data.atomic_file import AtomicFile
from messages import MalformedMessage
from messages.rules import identifier

__all__ = ["MAX_TAGS", "MAX_TEXT_BYTES", "Catalogue", "catalogue_of"]

MAX_TAGS = 32
MAX_TEXT_BYTES = 4096

_TEXT_COLUMN = re.compile(r"title|name|description|text|summary")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Texts, tags, numbers and groups by item id, and what had to be cut, in sentences."""

    texts: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def catalogue_of(file: AtomicFile) -> Catalogue:
    """Make a catalogue of the columns of NAME.item; what columns become which is said in `read_dataset`.

    Raises:
        DataError: there is no column of item ids, one of them is no id or comes twice, or a number is none.

    """
    ids = file.ids("item_id")
    first_row: dict[str, int] = {}
    for row, item in enumerate(ids):
        if first_row.setdefault(item, row) != row:
            raise file.fault(row, f"item {item!r} stands on line {first_row[item] + 2} already: remove one")
    words = [name for name, kind in file.types.items() if name != "item_id" and kind.startswith("token")]
    described_by = [name for name in words if _TEXT_COLUMN.search(name)]
    tagged_by = [name for name in words if not _TEXT_COLUMN.search(name)]
    texts = [" ".join(filter(None, row)) for row in _rows(file, described_by)]
    tags = [tuple(_tags(file, tagged_by, row)) for row in range(len(file))]
    cut = {
        f"texts are longer than {MAX_TEXT_BYTES} bytes and were cut": sum(
            len(text.encode()) > MAX_TEXT_BYTES for text in texts
        ),
        f"items have more than {MAX_TAGS} tags and lost the last ones": sum(len(row) > MAX_TAGS for row in tags),
    }
    return Catalogue(
        texts={item: _cut(text) for item, text in zip(ids, texts, strict=True)},
        tags={item: row[:MAX_TAGS] for item, row in zip(ids, tags, strict=True)},
        numbers=_numbers(file, ids),
        groups=_groups(file, ids),
        notes=tuple(f"{count} {what}." for what, count in cut.items() if count),
    )


def _rows(file: AtomicFile, names: list[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(file.columns[name] for name in names), strict=True) if names else iter([()] * len(file))


def _tags(file: AtomicFile, names: list[str], row: int) -> Iterator[str]:
    """Yield the distinct tags of one item, in the order of the file; one that no message could carry is left out."""
    seen = set()
    for name in names:
        value = file.columns[name][row]
        for word in value.split() if file.types[name] == "token_seq" else filter(None, [value.strip()]):
            tag = word if name == "tags" else f"{name}::{word}"
            if tag not in seen and _fits_a_message(tag):
                seen.add(tag)
                yield tag


def _numbers(file: AtomicFile, ids: list[str]) -> dict[str, float]:
    if file.types.get("number") != "float":
        return {}
    numbers = file.optional_numbers("number").tolist()
    return {item: number for item, number in zip(ids, numbers, strict=True) if not math.isnan(number)}


def _groups(file: AtomicFile, ids: list[str]) -> dict[str, str]:
    """Give the groups by item; one that no message could carry is left out."""
    if file.types.get("group") != "token":
        return {}
    groups = map(str.strip, file.columns["group"])
    return {item: group for item, group in zip(ids, groups, strict=True) if _fits_a_message(group)}


def _fits_a_message(name: str) -> bool:
    try:
        identifier("name", name)
    except MalformedMessage:
        return False
    return True


def _cut(text: str) -> str:
    return text.encode()[:MAX_TEXT_BYTES].decode(errors="ignore")
