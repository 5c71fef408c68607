"""Debian's package metadata as interactions: which source relates to which package, and how."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

__all__ = ["BEHAVIORS", "Package", "parse_packages", "relations", "well_connected"]

BEHAVIORS = {
    "Pre-Depends": "depends",
    "Depends": "depends",
    "Recommends": "recommends",
    "Suggests": "suggests",
}

_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")

Triple = tuple[str, str, str]  # source package, binary package, behaviour


@dataclass(frozen=True, slots=True)
class Package:
    """One binary package: its fields are those of deb-control(5), one line each."""

    name: str
    source: str
    description: str
    tags: tuple[str, ...]
    fields: Mapping[str, str]


def parse_packages(dump: str) -> dict[str, Package]:
    """Read the output of ``apt-cache dumpavail``: the package of every name.

    Packages that no archive offers (installed by hand: without a ``Filename``) are left out.
    """
    packages = {}
    for paragraph in dump.split("\n\n"):
        fields = _fields(paragraph)
        if "Package" in fields and "Filename" in fields:
            name = fields["Package"]
            packages[name] = Package(
                name=name,
                source=fields.get("Source", name).split()[0],
                description=" ".join(fields.get("Description", "").split()),
                tags=_tags(fields),
                fields=fields,
            )
    return packages


def _fields(paragraph: str) -> dict[str, str]:
    """Split one paragraph of deb-control(5); a line that starts with white space continues the one before."""
    fields: dict[str, str] = {}
    name = ""
    for line in paragraph.splitlines():
        if line[:1] in (" ", "\t"):
            fields[name] += line
        else:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    return fields


def _tags(fields: Mapping[str, str]) -> tuple[str, ...]:
    """Give the section as a tag, then debtags by name."""
    debtags = sorted({tag.strip() for tag in fields.get("Tag", "").split(",")} - {""})
    return (f"section::{fields.get('Section', 'unknown')}", *debtags)


def relations(packages: Mapping[str, Package]) -> set[Triple]:
    """Every relation of a source package's binaries to a package of another source."""
    providers = _providers(packages.values())
    triples = set()
    for package in packages.values():
        for field, behavior in BEHAVIORS.items():
            for target in _targets(package.fields.get(field, ""), packages, providers):
                if packages[target].source != package.source:
                    triples.add((package.source, target, behavior))
    return triples


def _providers(packages: Iterable[Package]) -> dict[str, str]:
    """Find the package that stands for every virtual name: the alphabetically first that provides it."""
    providers: dict[str, str] = {}
    for package in packages:
        for entry in package.fields.get("Provides", "").split(","):
            if name := _NAME.match(entry.strip()):
                virtual = name.group()
                providers[virtual] = min(package.name, providers.get(virtual, package.name))
    return providers


def _targets(relation: str, packages: Mapping[str, Package], providers: Mapping[str, str]) -> Iterator[str]:
    """Yield the package that each entry of a relation field names: of alternatives, the first that exists."""
    for entry in relation.split(","):
        for alternative in entry.split("|"):
            name = _NAME.match(alternative.strip())
            if name and name.group() in packages:
                yield name.group()
                break
            if name and name.group() in providers:
                yield providers[name.group()]
                break


def well_connected(triples: set[Triple], item_users: int = 2, user_items: int = 2) -> set[Triple]:
    """Drop items that too few users relate to and users with too few items, until neither is left."""
    while True:
        pairs = {(user, item) for user, item, _ in triples}
        users_of_item = Counter(item for _, item in pairs)
        items_of_user = Counter(user for user, _ in pairs)
        kept = {
            (user, item, behavior)
            for user, item, behavior in triples
            if users_of_item[item] >= item_users and items_of_user[user] >= user_items
        }
        if len(kept) == len(triples):
            return kept
        triples = kept
