import gzip
import lzma
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopstream.data import Dataset, Interactions, hold_out, read_dataset
from hopstream.errors import DataError
from hopstream.loading import items_of
from messages import Item

HEADER = "user_id:token\titem_id:token\tbehavior:token\n"
TRAIN = HEADER + "ann\tpen\tview\nann\tink\tbuy\nbob\tpen\tview\nbob\tpen\tbuy\ncat\tcup\tview\n"
TEST = HEADER + "ann\tcup\tbuy\ndan\tpen\tbuy\n"
ITEM = (
    "item_id:token\ttitle:token\tdescription:token_seq\ttags:token_seq\tclass:token_seq\tbrand:token\tprice:float\n"
    "pen\tA pen\tit writes\tblue red blue\toffice\tAcme Inc\t1.5\n"
    "ink\tInk\t\t\t\t\t\n"
    "jar\tJar\tholds ink\t\t\t\t2\n"
)


def folder_with(folder: Path, **files: str | bytes) -> Path:
    """Write `files`, named like shop.train.inter but with `_` for the dots after the first, into `folder`."""
    folder.mkdir(exist_ok=True)
    for part, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / f"shop.{part.replace('_', '.')}").write_bytes(data)
    return folder


def triples(data: Dataset, rows: Interactions) -> list[tuple[str, str, str]]:
    """Give interactions with their ids, sorted."""
    codes = zip(rows.users, rows.items, rows.behaviors, strict=True)
    return sorted((data.users[u], data.items[i], data.behaviors[b]) for u, i, b in codes)


def fault(folder: Path) -> DataError:
    """Read a folder that cannot be read; give the error."""
    with pytest.raises(DataError) as caught:
        read_dataset(folder)
    return caught.value


def test_reads_interactions_items_and_counts(tmp_path: Path) -> None:
    """Every line of the three files arrives under the ids it names, and its file's count says so."""
    data = read_dataset(folder_with(tmp_path, train_inter=TRAIN, test_inter=TEST, item=ITEM))
    assert data.name == "shop"
    assert triples(data, data.train) == sorted(tuple(line.split("\t")) for line in TRAIN.splitlines()[1:])
    assert triples(data, data.test) == [("ann", "cup", "buy"), ("dan", "pen", "buy")]
    assert data.behaviors == ("view", "buy")
    assert data.target_behavior == "buy"
    assert data.lines == {"shop.train.inter": 5, "shop.test.inter": 2, "shop.item": 3}
    assert sorted(data.items) == ["cup", "ink", "jar", "pen"]
    assert data.notes == ()


def test_texts_and_tags_come_from_the_item_file(tmp_path: Path) -> None:
    """Titles and descriptions make the text, other words the tags; an item without a line has neither."""
    data = read_dataset(folder_with(tmp_path, train_inter=TRAIN, test_inter=TEST, item=ITEM))
    texts = dict(zip(data.items, data.texts, strict=True))
    tags = dict(zip(data.items, data.tags, strict=True))
    assert texts == {"pen": "A pen it writes", "ink": "Ink", "jar": "Jar holds ink", "cup": ""}
    assert tags == {"pen": ("blue", "red", "class::office", "brand::Acme Inc"), "ink": (), "jar": (), "cup": ()}


def test_too_many_tags_are_cut_and_that_is_said(tmp_path: Path) -> None:
    """An item keeps its first 32 tags; the notes count the items that lost some."""
    item = "item_id:token\ttags:token_seq\npen\t" + " ".join(f"t{n}" for n in range(40)) + "\n"
    data = read_dataset(folder_with(tmp_path, train_inter=TRAIN, test_inter=TEST, item=item))
    assert data.tags[data.items.index("pen")] == tuple(f"t{n}" for n in range(32))
    assert data.notes == ("1 items have more than 32 tags and lost the last ones.",)


def test_numbers_and_groups_come_from_columns_of_their_names(tmp_path: Path) -> None:
    """Empty fields are none, as is a group that no message could carry; a group is a tag like every other token."""
    item = "item_id:token\tnumber:float\tgroup:token\npen\t1.5\t Acme \nink\t\tbad\x07name\njar\t-2e3\t\n"
    data = read_dataset(folder_with(tmp_path, train_inter=TRAIN, test_inter=TEST, item=item))
    assert dict(zip(data.items, data.numbers, strict=True)) == {"pen": 1.5, "ink": None, "jar": -2000.0, "cup": None}
    assert dict(zip(data.items, data.groups, strict=True)) == {"pen": "Acme", "ink": None, "jar": None, "cup": None}
    assert data.tags[data.items.index("pen")] == ("group::Acme",)
    pen = next(message for message in items_of(data, 7) if message.id == "pen")
    assert pen == Item("pen", tags=("group::Acme",), number=1.5, group="Acme", timestamp_ms=7)


def test_columns_of_other_types_are_no_numbers_and_no_groups(tmp_path: Path) -> None:
    """Words are tags whatever their column is called, and neither is made up where there is no such column."""
    item = "item_id:token\tnumber:token\tgroup:token_seq\npen\t7\ta b\n"
    data = read_dataset(folder_with(tmp_path, train_inter=TRAIN, test_inter=TEST, item=item))
    assert set(data.numbers) == set(data.groups) == {None}
    assert data.tags[data.items.index("pen")] == ("number::7", "group::a", "group::b")


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("xz", lzma.compress)])
def test_packed_files_read_like_plain_ones(tmp_path: Path, suffix: str, pack) -> None:
    """A packed folder is the same data set; only its files' names differ."""
    plain = read_dataset(folder_with(tmp_path / "plain", train_inter=TRAIN, test_inter=TEST))
    packed_files = {f"train_inter_{suffix}": pack(TRAIN.encode()), f"test_inter_{suffix}": pack(TEST.encode())}
    packed = read_dataset(folder_with(tmp_path / "packed", **packed_files))
    assert (packed.users, packed.items, packed.behaviors) == (plain.users, plain.items, plain.behaviors)
    assert triples(packed, packed.train) == triples(plain, plain.train)


def test_windows_line_ends_and_byte_order_marks_are_accepted(tmp_path: Path) -> None:
    """A file saved by a spreadsheet reads like any other."""
    saved = b"\xef\xbb\xbf" + TRAIN.replace("\n", "\r\n").encode()
    data = read_dataset(folder_with(tmp_path, train_inter=saved, test_inter=TEST))
    assert "cup" in data.items
    assert data.behaviors == ("view", "buy")


def test_behavior_and_times_are_optional(tmp_path: Path) -> None:
    """Without a behaviour column everything is one behaviour; times are kept where there are some."""
    times = "user_id:token\ttimestamp:float\titem_id:token\nann\t12.5\tpen\nbob\t9\tpen\n"
    data = read_dataset(folder_with(tmp_path, inter=times))
    assert data.behaviors == ("interaction",)
    assert data.target_behavior == "interaction"
    assert data.train.timestamps is not None
    assert sorted(data.train.timestamps) == [9.0, 12.5]


def test_validation_part_is_ignored_and_that_is_said(tmp_path: Path) -> None:
    """NAME.valid.inter is not read, and the notes name it."""
    data = read_dataset(folder_with(tmp_path, train_inter=TRAIN, test_inter=TEST, valid_inter="no atomic file"))
    assert len(data.train) == 5
    assert "shop.valid.inter is ignored" in data.notes[0]


def test_without_a_test_file_a_tenth_is_held_out(tmp_path: Path) -> None:
    """The hold-out takes whole pairs: no held-out pair is left in training by another behaviour."""
    lines = [f"ann\ti{n}\t{behavior}\n" for n in range(25) for behavior in ("view", "buy")]
    data = read_dataset(folder_with(tmp_path, train_inter=HEADER + "".join(lines)))
    held_out = {pair[:2] for pair in triples(data, data.test)}
    assert len(held_out) == len(data.held_out()) == 2
    assert not held_out & {pair[:2] for pair in triples(data, data.train)}
    assert len(data.train) + len(data.test) == 50
    assert "shop.test.inter is missing" in data.notes[0]


def test_the_order_of_lines_changes_nothing(tmp_path: Path) -> None:
    """Codes and hold-out depend on the ids alone, so a shuffled file is the same data set."""
    lines = [f"u{n % 7}\ti{n}\tbuy\n" for n in range(200)]
    one = read_dataset(folder_with(tmp_path / "one", inter=HEADER + "".join(lines)))
    other = read_dataset(folder_with(tmp_path / "other", inter=HEADER + "".join(reversed(lines))))
    assert (one.users, one.items) == (other.users, other.items)
    assert triples(one, one.test) == triples(other, other.test)


def test_codes_do_not_follow_the_ids(tmp_path: Path) -> None:
    """Ids that were given out in order do not get codes in order: nothing can profit from neighbouring ids."""
    lines = [f"u\t{n:04}\tbuy\n" for n in range(500)]
    data = read_dataset(folder_with(tmp_path, inter=HEADER + "".join(lines)))
    correlation = np.corrcoef(np.arange(500), [int(item) for item in data.items])[0, 1]
    assert abs(correlation) < 0.2


BROKEN = [
    ({"train_inter": ""}, 1, "is empty"),
    ({"train_inter": HEADER}, None, "holds no interactions"),
    ({"train_inter": "user_id:token\tbehavior:token\nann\tbuy\n"}, 1, "no column item_id"),
    ({"train_inter": "user_id\titem_id\nann\tpen\n"}, 1, "not name:type"),
    ({"train_inter": "user_id:token\tuser_id:token\nann\tpen\n"}, 1, "two columns"),
    ({"train_inter": TRAIN + "ann\tpen\n"}, 7, "2 fields where the header has 3"),
    ({"train_inter": TRAIN + "\nann\tpen\tbuy\n"}, 7, "1 fields where the header has 3"),
    ({"train_inter": TRAIN + "\tpen\tbuy\n"}, 7, "user_id: empty"),
    ({"train_inter": TRAIN + "ann\t" + "x" * 257 + "\tbuy\n"}, 7, "item_id: longer than 256 bytes"),
    ({"train_inter": TRAIN + "ann\tp\x07n\tbuy\n"}, 7, "item_id: holds a control character"),
    ({"train_inter": TRAIN + "ann\tpen\t\n"}, 7, "behavior: empty"),
    ({"train_inter": TRAIN.encode() + b"ann\tp\xff\tbuy\n"}, 7, "not UTF-8"),
    ({"train_inter": HEADER + "".join(f"a\tb\tc{n}\n" for n in range(40))}, None, "40 different values of behavior"),
    ({"train_inter": "user_id:token\titem_id:token\ttimestamp:float\na\tb\t1\na\tb\tsoon\n"}, 3, "not a number"),
    ({"train_inter": "user_id:token\titem_id:token\ttimestamp:float\na\tb\tinf\n"}, 2, "finite"),
    ({"train_inter_xz": TRAIN}, None, "is damaged or not packed"),
    ({"train_inter_xz": lzma.compress(TRAIN.encode())[:-20]}, None, "is damaged or not packed"),
    ({"train_inter_gz": TRAIN}, None, "cannot be read"),
    ({"train_inter_gz": gzip.compress(TRAIN.encode())[:-12]}, None, "is damaged or not packed"),
    ({"train_inter": TRAIN, "train_inter_xz": lzma.compress(TRAIN.encode())}, None, "the same part as"),
    ({"train_inter": TRAIN, "item": "item_id:token\npen\npen\n"}, 3, "stands on line 2 already"),
    ({"train_inter": TRAIN, "item": "title:token\npen\n"}, 1, "no column item_id"),
    (
        {"train_inter": TRAIN, "item": "item_id:token\tnumber:float\npen\t\nink\tdear\n"},
        3,
        "number is 'dear', not a num",
    ),
    ({"train_inter": TRAIN, "item": "item_id:token\tnumber:float\npen\t\nink\tnan\n"}, 3, "give a finite number"),
    ({"item": ITEM}, None, "holds no NAME.train.inter"),
]


@pytest.mark.parametrize(("files", "line", "problem"), BROKEN, ids=[problem for *_, problem in BROKEN])
def test_a_broken_file_is_one_error_that_names_the_line(tmp_path: Path, files, line, problem) -> None:
    """Whatever is wrong with a file ends in a DataError with its path, its line and what is wrong."""
    error = fault(folder_with(tmp_path, **files))
    assert error.line == line
    assert problem in error.problem
    assert str(tmp_path) in str(error)
    assert len(str(error)) < len(str(tmp_path)) + 300


def test_a_folder_must_hold_exactly_one_data_set(tmp_path: Path) -> None:
    """No folder, a file in its place and two data sets in one are told apart."""
    assert "no such folder" in fault(tmp_path / "nowhere").problem
    folder = folder_with(tmp_path, train_inter=TRAIN)
    assert "is a file" in fault(folder / "shop.train.inter").problem
    (folder / "market.inter").write_text(TRAIN)
    assert "several data sets (market, shop)" in fault(folder).problem


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cap is on the unpacked size, and reading stops there."""
    monkeypatch.setattr("hopstream.data.atomic_file.MAX_FILE_BYTES", 1 << 10)
    bomb = lzma.compress(HEADER.encode() + b"ann\tpen\tbuy\n" * 100_000)
    assert "GiB" in fault(folder_with(tmp_path, train_inter_xz=bomb)).problem


@given(junk=st.binary(max_size=200))
def test_arbitrary_bytes_never_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    """Bytes that are no atomic file end in a DataError, whatever they are."""
    folder = folder_with(tmp_path_factory.mktemp("junk"), train_inter=HEADER.encode() + junk)
    with suppress(DataError):
        read_dataset(folder)


@given(
    pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 39)), min_size=1, max_size=300),
    share=st.sampled_from([0.1, 0.3, 0.5]),
    smallest=st.integers(2, 12),
)
def test_hold_out_takes_its_share_of_large_baskets(pairs, share, smallest) -> None:
    """Of every large enough basket exactly the share, at least one item; a pair's rows stay together."""
    users, items = (np.array(column) for column in zip(*pairs, strict=True))
    mask = hold_out(users, items, list("abcde"), [str(n) for n in range(40)], share=share, smallest_basket=smallest)
    baskets, taken, kept = defaultdict(set), defaultdict(set), defaultdict(set)
    for (user, item), is_held_out in zip(pairs, mask, strict=True):
        baskets[user].add(item)
        (taken if is_held_out else kept)[user].add(item)
    for user, basket in baskets.items():
        large = len(basket) >= smallest
        assert len(taken[user]) == (max(int(len(basket) * share + 1e-9), 1) if large else 0)
        assert not taken[user] & kept[user]


def test_hold_out_is_the_same_everywhere() -> None:
    """A fixed draw: a change of it would silently change every figure measured on the sample."""
    items = np.arange(30)
    mask = hold_out(np.zeros(30, dtype=int), items, ["user"], [f"item{n}" for n in range(30)])
    assert np.flatnonzero(mask).tolist() == [12, 13, 19]
