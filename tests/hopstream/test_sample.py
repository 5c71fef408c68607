import itertools
import lzma
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from hopstream.data import SAMPLE, Dataset, read_dataset
from hopstream.data.debian_archive import parse_packages, relations, well_connected
from hopstream.data.make_debian_sample import main, make_sample

DUMP = """\
Package: libwrite1
Source: write (1.2-3)
Version: 1.2
Provides: libwrite-api (= 4), writer
Description: letters on paper
Tag: role::shared-lib, made-of::ink,
 works-with::text
Section: libs
Filename: pool/main/w/libwrite1.deb

Package: write-tools
Source: write
Depends: libwrite1 (= 1.2), libc9 (>= 2)
Pre-Depends: python9:any
Description: tools for it
Section: utils
Filename: pool/main/w/write-tools.deb

Package: fastwrite
Provides: writer
Depends: nothing-such | libc9, missing
Filename: pool/main/f/fastwrite.deb

Package: poem
Depends: writer, libwrite-api (>= 3) | fastwrite
Recommends: libc9 | python9
Suggests: fastwrite
Filename: pool/main/p/poem.deb

Package: libc9
Filename: pool/main/l/libc9.deb

Package: python9
Filename: pool/main/p/python9.deb

Package: local-only
Depends: libc9
"""


@pytest.fixture(scope="module")
def sample() -> Dataset:
    """The committed sample."""
    return read_dataset(SAMPLE)


def test_packages_are_read_field_by_field() -> None:
    """Folded fields, source names with versions and packages that no archive offers are read as they mean."""
    packages = parse_packages(DUMP)
    assert "local-only" not in packages
    assert packages["libwrite1"].source == "write"
    assert packages["libwrite1"].tags == ("section::libs", "made-of::ink", "role::shared-lib", "works-with::text")
    assert packages["fastwrite"].source == "fastwrite"


def test_relations_resolve_alternatives_and_virtual_packages() -> None:
    """The first alternative that exists counts, the first provider stands for a virtual name, own packages do not."""
    assert relations(parse_packages(DUMP)) == {
        ("write", "libc9", "depends"),
        ("write", "python9", "depends"),
        ("fastwrite", "libc9", "depends"),
        ("poem", "fastwrite", "depends"),  # `writer`: fastwrite comes before libwrite1
        ("poem", "libwrite1", "depends"),
        ("poem", "libc9", "recommends"),
        ("poem", "fastwrite", "suggests"),
    }


def test_well_connected_is_a_fixed_point() -> None:
    """Dropping an item can leave a user with too little, and so on: what remains satisfies both rules."""
    chain = {(f"u{n}", f"i{n + d}", "depends") for n in range(5) for d in range(2)}
    assert well_connected(chain) == set()
    square = {(user, item, "depends") for user in "ab" for item in "xy"}
    assert well_connected(square | {("a", "z", "depends"), ("c", "x", "depends")}) == square


def test_the_same_dump_gives_the_same_bytes(tmp_path: Path) -> None:
    """The script is deterministic, and the order of packages in the archive does not show."""
    paragraphs = [
        f"Package: p{n}\nDepends: {', '.join(f'p{(n * m) % 30}' for m in range(2, 17))}\nFilename: f" for n in range(30)
    ]
    make_sample("\n\n".join(paragraphs), "", "today", tmp_path / "one")
    make_sample("\n\n".join(reversed(paragraphs)), "", "today", tmp_path / "two")
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["README.md", "debian.item.xz", "debian.test.inter.xz", "debian.train.inter.xz"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_wrong_call_of_the_script_says_how_to_call_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a folder the script ends with 2, the exit code of wrong usage."""
    assert main([]) == 2
    assert "OUT_DIR" in capsys.readouterr().err


def test_the_committed_sample_is_small_and_says_where_it_is_from() -> None:
    """At most 3 MB in the repository, with its origin."""
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) <= 3_000_000
    assert "bookworm" in (SAMPLE / "README.md").read_text()


def test_the_readme_counts_what_the_files_hold(sample: Dataset) -> None:
    """The numbers of the sample's README are those that the reader finds."""
    readme = (SAMPLE / "README.md").read_text()
    assert f"| items | {len(sample.items):,} |" in readme
    assert f"| users | {len(sample.users):,} |" in readme
    assert f"| behaviours to train on | {len(sample.train):,} " in readme
    held_out = sample.held_out()
    assert f"| held out | {len(held_out):,} pairs of {len(held_out.users):,} users |" in readme


def test_the_sample_is_described_and_complete(sample: Dataset) -> None:
    """Every item has a text that starts with its name and a section, and nobody relates to anything else."""
    assert sample.behaviors == ("depends", "recommends", "suggests")
    assert sample.target_behavior == "depends"
    assert all(text.startswith(f"{item} ") for item, text in zip(sample.items, sample.texts, strict=True))
    assert all(tags[0].startswith("section::") for tags in sample.tags)
    assert sample.lines["debian.item.xz"] == len(sample.items)
    assert sample.notes == ()


def test_the_sample_keeps_its_promises_on_counts(sample: Dataset) -> None:
    """Two sources per item, two items per source, a tenth of every basket of ten held out with all behaviours."""
    train = set(zip(sample.train.users.tolist(), sample.train.items.tolist(), strict=True))
    test = set(zip(sample.test.users.tolist(), sample.test.items.tolist(), strict=True))
    assert not train & test
    baskets, held_out = defaultdict(set), Counter(user for user, _ in test)
    for user, item in train | test:
        baskets[user].add(item)
    assert min(map(len, baskets.values())) == 2
    assert min(Counter(item for _, item in train | test).values()) == 2
    for user, basket in baskets.items():
        assert held_out[user] == (len(basket) // 10 if len(basket) >= 10 else 0)


def test_the_order_of_lines_says_nothing() -> None:
    """Lines are shuffled: neighbours share their user no more often than chance has it."""
    with lzma.open(SAMPLE / "debian.train.inter.xz", "rt") as lines:
        users = [line.split("\t")[0] for line in lines][1:]
    neighbours = sum(one == other for one, other in itertools.pairwise(users))
    by_chance = sum(count * count for count in Counter(users).values()) / len(users)
    assert neighbours < 2 * by_chance + 20
