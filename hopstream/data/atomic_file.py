"""One RecBole atomic file: a header of typed names, then one line of tab-separated fields per record.

The bytes are untrusted until checked; every fault is a DataError that names the line and the remedy.
Format: https://recbole.io/docs/user_guide/data/atomic_files.html
"""

import gzip
import lzma
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from hopstream.errors import DataError
from messages import MalformedMessage
from messages.rules import MAX_ID_BYTES, identifier

__all__ = ["MAX_FILE_BYTES", "AtomicFile", "read_atomic_file"]

MAX_FILE_BYTES = 2 << 30  # unpacked: a small .xz can hold far more than memory does
FIELD_TYPES = ("token", "token_seq", "float", "float_seq")


@dataclass(frozen=True, slots=True)
class AtomicFile:
    """The columns of one file, as text; row i stands on line i + 2."""

    path: Path
    columns: dict[str, list[str]]
    types: dict[str, str]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def fault(self, row: int, problem: str) -> DataError:
        """Make the error for something wrong in one row."""
        return DataError(self.path, row + 2, problem)

    def ids(self, name: str) -> list[str]:
        """Give a column whose values name something, by the rules that messages have for ids.

        Raises:
            DataError: there is no such column, or one of its values is no id.

        """
        if name not in self.columns:
            raise DataError(self.path, 1, f"no column {name}:token; the header has {self._header()}")
        column = self.columns[name]
        for value in set(column):
            try:
                identifier(name, value)
            except MalformedMessage as error:
                problem = f"{error}: {value[:40]!r}; give 1 to {MAX_ID_BYTES} bytes of printable text"
                raise self.fault(column.index(value), problem) from error
        return column

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Give a column of finite numbers, f8[len(self)].

        Raises:
            DataError: one of its values is no finite number.

        """
        return self._finite(name, range(len(self)))

    def optional_numbers(self, name: str) -> NDArray[np.float64]:
        """Give a column of finite numbers in which fields may be empty, f8[len(self)], NaN for those.

        Raises:
            DataError: a value that is there is no finite number.

        """
        rows = [row for row, value in enumerate(self.columns[name]) if value]
        values = np.full(len(self), np.nan)
        values[rows] = self._finite(name, rows)
        return values

    def _finite(self, name: str, rows: Sequence[int]) -> NDArray[np.float64]:
        column = self.columns[name]
        try:
            values = np.array([column[row] for row in rows], dtype=np.float64)
        except ValueError:
            row = next(row for row in rows if not _is_number(column[row]))
            raise self.fault(row, f"{name} is {column[row][:40]!r}, not a number") from None
        if not np.isfinite(values).all():
            row = rows[int(np.argmin(np.isfinite(values)))]
            raise self.fault(row, f"{name} is {column[row][:40]!r}: give a finite number")
        return values

    def _header(self) -> str:
        return ", ".join(f"{name}:{kind}" for name, kind in self.types.items())


def read_atomic_file(path: Path) -> AtomicFile:
    """Read one atomic file, plain or packed (``.gz``, ``.xz``).

    Raises:
        DataError: it cannot be read, is not UTF-8, has no header, or a line has not as many fields as the header.

    """
    header, *lines = _text(path).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    if not header.strip():
        raise DataError(path, 1, "is empty: expected a header such as user_id:token<TAB>item_id:token")
    types = dict(_header_fields(path, header.split("\t")))
    tabs = len(types) - 1
    for row, line in enumerate(lines):
        if line.count("\t") != tabs:
            problem = f"{line.count(chr(9)) + 1} fields where the header has {tabs + 1}, separated by tabs"
            raise DataError(path, row + 2, problem)
    # One join and one split of everything: several times faster than splitting line by line.
    fields = "\t".join(lines).split("\t") if lines else []
    return AtomicFile(path, {name: fields[at :: tabs + 1] for at, name in enumerate(types)}, types)


def _header_fields(path: Path, fields: Iterable[str]) -> Iterable[tuple[str, str]]:
    seen = set()
    for field in fields:
        name, _, kind = field.strip().partition(":")
        if not name or kind not in FIELD_TYPES:
            problem = f"header field {field[:40]!r} is not name:type with a type of {', '.join(FIELD_TYPES)}"
            raise DataError(path, 1, problem)
        if name in seen:
            raise DataError(path, 1, f"two columns are called {name}: rename or drop one")
        seen.add(name)
        yield name, kind


def _text(path: Path) -> str:
    """Unpack and decode a whole file, with a cap on its size; a line ends with LF then."""
    try:
        with _open(path) as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:  # gzip.BadGzipFile is one, too
        raise DataError(path, None, f"cannot be read: {error.strerror or error}") from error
    except (lzma.LZMAError, zlib.error, EOFError) as error:
        raise DataError(path, None, f"is damaged or not packed as its name says: {error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise DataError(path, None, f"holds more than {MAX_FILE_BYTES >> 30} GiB: split or sample it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(path, line, "is not UTF-8 here: convert the file, for example with iconv") from error
    return text.replace("\r\n", "\n") if "\r\n" in text else text


def _open(path: Path) -> BinaryIO | gzip.GzipFile | lzma.LZMAFile:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    return lzma.open(path, "rb") if path.suffix == ".xz" else path.open("rb")


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
