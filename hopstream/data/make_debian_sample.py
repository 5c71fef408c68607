"""Make the sample catalogue out of the package metadata of the Debian archive.

    python -m hopstream.data.make_debian_sample OUT_DIR

Needs a Debian system whose package lists are loaded (``apt-get update``). The same lists give the same bytes.
"""

import lzma
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from pathlib import Path

import numpy as np

from hopstream.data.debian_archive import Package, Triple, parse_packages, relations, well_connected
from hopstream.data.hold_out import HOLD_OUT_SEED, hold_out
from hopstream.errors import DataError, HopstreamError

__all__ = ["main", "make_sample"]

NAME = "debian"
MAX_TAGS = 32
RELEASE_FILES = Path("/var/lib/apt/lists")
README = """\
# The sample catalogue: what Debian's packages need of each other

Items are binary packages; a "user" is a source package; its behaviours are what any of its binary packages
`depends` on (Pre-Depends too), `recommends` and `suggests`, among the packages of *other* sources. Of
alternatives (`a | b`) the first that exists counts; a virtual package stands for the alphabetically first one
that provides it.

Which packages count: those that at least two other source packages relate to; which source packages: those
with at least two such packages. Both rules are applied until neither drops anything (their fixed point).

| | |
|---|---|
| binary packages in the archive | {archive:,} |
| items | {items:,} |
| users | {users:,} |
| behaviours to train on | {train:,} ({train_behaviors}) |
| held out | {held_out:,} pairs of {held_out_users:,} users |

Held out for measuring: a seeded tenth (rounded down, so at least one) of the items of every basket of ten or
more, with all their behaviours. An item's text is its name and its one-line description; its tags are
`section::…` and its debtags, in the order of their names, at most {max_tags} ({cut} of the items had more,
cut from the end). The files are RecBole atomic files; the order of their lines is a seeded shuffle and says
nothing.

## Origin and licence

{origin}
From `apt-cache dumpavail` on {date}, made by `hopstream/data/make_debian_sample.py`. Only package names,
relations, sections, tags and one-line descriptions are here: metadata that Debian publishes for its `main`,
where all is free by the Debian Free Software Guidelines. A description comes from its package's
`debian/control`; its authors and its licence are named in that package's `debian/copyright`
(`/usr/share/doc/PACKAGE/copyright` once installed, or https://tracker.debian.org/pkg/SOURCE). Debian is a
registered trademark of Software in the Public Interest, Inc.; nobody there endorses this use.
"""


def make_sample(dump: str, origin: str, date: str, out: Path) -> str:
    """Make the sample of ``dump`` (what ``apt-cache dumpavail`` prints) in ``out``; return its README."""
    packages = parse_packages(dump)
    triples = sorted(well_connected(relations(packages)))
    users = sorted({user for user, _, _ in triples})
    items = sorted({item for _, item, _ in triples})
    held_out = _held_out(triples, users, items)
    train = [triple for triple, is_test in zip(triples, held_out, strict=True) if not is_test]
    test = [triple for triple, is_test in zip(triples, held_out, strict=True) if is_test]
    cut = sum(len(packages[item].tags) > MAX_TAGS for item in items)

    out.mkdir(parents=True, exist_ok=True)
    _write(out / f"{NAME}.item.xz", _item_header(), (_item_line(packages[item]) for item in items))
    _write(out / f"{NAME}.train.inter.xz", _inter_header(), map("\t".join, train))
    _write(out / f"{NAME}.test.inter.xz", _inter_header(), map("\t".join, test))
    readme = README.format(
        archive=len(packages),
        items=len(items),
        users=len(users),
        train=len(train),
        train_behaviors=", ".join(f"{name} {n:,}" for name, n in Counter(t[2] for t in train).most_common()),
        held_out=len({triple[:2] for triple in test}),
        held_out_users=len({user for user, _, _ in test}),
        max_tags=MAX_TAGS,
        cut=cut,
        origin=origin,
        date=date,
    )
    (out / "README.md").write_text(readme, encoding="utf-8")
    return readme


def _held_out(triples: Sequence[Triple], users: Sequence[str], items: Sequence[str]) -> Sequence[bool]:
    user_codes = {user: code for code, user in enumerate(users)}
    item_codes = {item: code for code, item in enumerate(items)}
    by_user = np.array([user_codes[user] for user, _, _ in triples])
    by_item = np.array([item_codes[item] for _, item, _ in triples])
    return [bool(is_held_out) for is_held_out in hold_out(by_user, by_item, users, items)]


def _item_header() -> str:
    return "item_id:token\tname:token_seq\tdescription:token_seq\ttags:token_seq"


def _item_line(package: Package) -> str:
    return "\t".join((package.name, package.name, package.description, " ".join(package.tags[:MAX_TAGS])))


def _inter_header() -> str:
    return "user_id:token\titem_id:token\tbehavior:token"


def _write(path: Path, header: str, lines: Iterable[str]) -> None:
    """Write an atomic file, its lines in the order of a seeded hash: a shuffle that no library can change."""
    salt = HOLD_OUT_SEED.to_bytes(16, "little")
    shuffled = sorted(lines, key=lambda line: blake2b(line.encode(), salt=salt).digest())
    text = "".join(f"{line}\n" for line in (header, *shuffled))
    path.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def _dump() -> str:
    apt_cache = shutil.which("apt-cache")
    if apt_cache is None:
        raise HopstreamError("apt-cache is not on PATH: the sample can only be made on a Debian system")
    return subprocess.run([apt_cache, "dumpavail"], check=True, capture_output=True, encoding="utf-8").stdout


def _origin() -> tuple[str, str]:
    """Say what the package lists are of, as Markdown, and the day of the newest of them."""
    lines, dates = [], []
    for path in sorted(RELEASE_FILES.glob("*InRelease")):
        text = path.read_text(encoding="utf-8", errors="replace")
        release = {key: _release_field(text, key, path) for key in ("Origin", "Suite", "Codename", "Date")}
        day = parsedate_to_datetime(release["Date"]).astimezone(UTC)
        dates.append(day)
        lines.append(f"- {release['Origin']}, codename {release['Codename']} ({release['Suite']}), {day:%Y-%m-%d}\n")
    return "".join(lines), f"{max(dates, default=datetime.now(UTC)):%Y-%m-%d}"


def _release_field(text: str, key: str, path: Path) -> str:
    if found := re.search(rf"^{key}: (.*)$", text, re.MULTILINE):
        return found.group(1)
    raise DataError(path, None, f"has no field {key}: run apt-get update")


def main(arguments: Sequence[str]) -> int:
    """Run the script; return the exit code."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m hopstream.data.make_debian_sample OUT_DIR", file=sys.stderr)  # noqa: T201
        return 2
    out = Path(arguments[0])
    try:
        origin, date = _origin()
        print(make_sample(_dump(), origin, date, out))  # noqa: T201
    except (HopstreamError, OSError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    for path in sorted(out.glob(f"{NAME}.*")):
        print(f"{path.stat().st_size:>9,} bytes  {path}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
