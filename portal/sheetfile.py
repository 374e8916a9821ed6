"""A file of rows, as CSV or XLSX, read line by line: the encoding and the separator are found out, nothing in it is
evaluated, and no file weighs more than a few of its lines."""

import codecs
import csv
import io
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import IO, Any

from portal.texts import gettext as _

Cell = str | int | float  # numbers from a workbook only: there a comma is no question
MOST_BYTES = 200 * 1024 * 1024
MOST_COLUMNS = 100
MOST_ROWS = 2_500_000
_LINE = 1024 * 1024  # characters; what is longer is no line of a table
_PIECE = 1024 * 1024
_SAMPLE = 4096
# Of a workbook, which is a ZIP of XML files
_MOST_FILES = 2000
_MOST_UNPACKED = 1024 * 1024 * 1024
_MOST_WORDS = 64 * 1024 * 1024  # of the one part that has to be held whole
_MOST_RATIO = 100
_SMALL = 1024 * 1024  # parts up to this size may be packed as tightly as they like


class Unreadable(Exception):
    """The file can't be read as rows; the sentence says why and what to do."""


@dataclass(slots=True)
class Opened:
    """What is in a file. `rows` gives the number of a row's first line and its cells, once."""

    kind: str  # csv or xlsx
    encoding: str | None
    guessed: bool  # the encoding is likely, not certain
    separator: str | None
    header: tuple[str, ...]
    rows: Iterator[tuple[int, list[Cell]]]


def open_file(file: IO[bytes]) -> Opened:
    """Find out what a file is, and begin to read it; Unreadable where it is nothing of the kind.

    Unreadable may come from `rows` as well: what is wrong in the middle is seen there.
    """
    file.seek(0)
    start = file.read(8)
    file.seek(0)
    if not start:
        raise Unreadable(_("The file is empty."))
    if start.startswith(b"PK\x03\x04"):
        return _workbook(file)
    if start.startswith(b"\xd0\xcf\x11\xe0"):
        raise Unreadable(
            _(
                "This is an old Excel file, or one with a password. Save it as .xlsx without a password, or as CSV."
            )
        )
    return _text(file)


def read_text(file: IO[bytes], most: int) -> str:
    """A whole file of text, in whatever encoding."""
    file.seek(0, io.SEEK_END)
    if file.tell() > most:
        raise Unreadable(_("This kind of list may have up to {size} MB.").format(size=most // 1024 // 1024))
    encoding, _guessed = _encoding(file)
    file.seek(0)
    return file.read().decode(encoding)


# Text


def _text(file: IO[bytes]) -> Opened:
    encoding, guessed = _encoding(file)
    file.seek(0)
    lines = _Lines(io.TextIOWrapper(_Kept(file), encoding, newline=""))
    first = lines.peek()
    skipped = lines.skipped
    if first.lower().startswith("sep=") and len(first.strip()) == 5:  # a word of Excel's to itself
        separator, skipped = first.strip()[4], skipped + 1
        next(lines)
    else:
        separator = _separator(first)
    rows = _rows(csv.reader(lines, delimiter=separator, strict=True), skipped)
    header = next(rows, None)
    if header is None:
        raise Unreadable(_("The file is empty."))
    names = _names(header[1])
    return Opened("csv", _LABELS[encoding], guessed, separator, names, rows)


_LABELS = {
    "utf-8-sig": "UTF-8",
    "utf-8": "UTF-8",
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16",
    "utf-16-be": "UTF-16",
    "cp1252": "Windows-1252",
}


def _encoding(file: IO[bytes]) -> tuple[str, bool]:
    """What the bytes are, and whether that is a guess. The whole file is looked at: one letter may decide."""
    file.seek(0)
    sample = file.read(_SAMPLE)
    if sample.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        raise Unreadable(_("The file is in UTF-32. Save it as UTF-8."))
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", False
    if b"\0" in sample:
        even, odd = sample[::2].count(0), sample[1::2].count(0)
        half = len(sample) // 2
        if odd > half * 0.4 and even < half * 0.1:
            return "utf-16-le", True
        if even > half * 0.4 and odd < half * 0.1:
            return "utf-16-be", True
        raise Unreadable(_("This is no file of rows. Give a CSV or an Excel file (.xlsx)."))
    if _decodes(file, "utf-8"):
        return ("utf-8-sig" if sample.startswith(codecs.BOM_UTF8) else "utf-8"), False
    if _decodes(file, "cp1252"):
        return "cp1252", True
    raise Unreadable(_("The letters of this file can't be read. Save it as UTF-8."))


def _decodes(file: IO[bytes], encoding: str) -> bool:
    file.seek(0)
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        while piece := file.read(_PIECE):
            if b"\0" in piece:
                raise Unreadable(_("This is no file of rows. Give a CSV or an Excel file (.xlsx)."))
            decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


class _Kept(io.RawIOBase):
    """A file that stays open when what reads it is let go."""

    name = ""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def read1(self, size: int = -1) -> bytes:  # for TextIOWrapper
        return self._file.read(_PIECE if size < 0 else size)


class _Lines:
    """The lines of a text, none of which may be endless."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._number = 0
        self._first: str | None = None

    def peek(self) -> str:
        """The first line with something in it, left where it is."""
        for _count in range(100):
            line = self._read()
            if line.strip() or not line:
                break
        self._first = line
        return line

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self._first is not None:
            line, self._first = self._first, None
        else:
            line = self._read()
        if not line:
            raise StopIteration
        return line

    def _read(self) -> str:
        self._number += 1
        try:
            line = self._text.readline(_LINE)
        except UnicodeDecodeError:
            raise Unreadable(
                _("From line {line} on the letters of this file can't be read. Save it as UTF-8.").format(
                    line=self._number
                )
            ) from None
        if len(line) >= _LINE:
            raise Unreadable(_("Line {line} is far too long for a row of a table.").format(line=self._number))
        return line

    @property
    def skipped(self) -> int:
        """How many lines without anything stand before the first."""
        return self._number - 1


def _separator(line: str) -> str:
    """The sign that stands between the columns' names; outside of quotation marks."""
    counts = dict.fromkeys(",;\t|", 0)
    quoted = False
    for sign in line:
        if sign == '"':
            quoted = not quoted
        elif not quoted and sign in counts:
            counts[sign] += 1
    best = max(counts, key=lambda sign: counts[sign])
    return best if counts[best] else ","


def _rows(reader: Any, skipped: int) -> Iterator[tuple[int, list[Cell]]]:
    """Rows with something in them."""
    while True:
        line = reader.line_num + 1 + skipped
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise Unreadable(_quoting(line, str(error))) from None
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            if len(cells) > MOST_COLUMNS:
                raise Unreadable(
                    _("Line {line} has more than {most} columns.").format(line=line, most=MOST_COLUMNS)
                )
            yield line, cells


def _quoting(line: int, error: str) -> str:
    if "expected after" in error:
        return _(
            "Line {line} can't be read: inside a cell in quotation marks, a quotation mark is written twice."
        ).format(line=line)
    return _("The row in line {line} does not end: a quotation mark opens a cell and none closes it.").format(
        line=line
    )


def _names(cells: list[Cell]) -> tuple[str, ...]:
    return tuple(" ".join(str(cell).split())[:100] for cell in cells)


# Workbooks


def _workbook(file: IO[bytes]) -> Opened:
    _look_inside(file)
    file.seek(0)
    try:
        # What is used of it reads row by row; formulas are never worked out, their last results are taken.
        from openpyxl import load_workbook

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            book = load_workbook(file, read_only=True, data_only=True, keep_links=False)
            sheets = [one for one in book.worksheets if one.sheet_state == "visible"]
        if not sheets:
            raise Unreadable(_("There is no sheet in this file."))
        sheets[0].reset_dimensions()
        rows = _rows_of(sheets[0])
        header = next(rows, None)
    except Unreadable:
        raise
    except Exception as error:  # whatever a broken one brings about
        raise _broken() from error
    if header is None:
        raise Unreadable(_("The first sheet of this file is empty."))
    return Opened("xlsx", None, False, None, _names(header[1]), rows)


def _broken() -> Unreadable:
    return Unreadable(_("This can't be read as an Excel file. Open it, save it as .xlsx anew, or as CSV."))


def _rows_of(sheet: Any) -> Iterator[tuple[int, list[Cell]]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = sheet.iter_rows(max_col=MOST_COLUMNS, values_only=True)
        for line, values in enumerate(found, 1):
            cells = [_cell(value) for value in values]
            while cells and cells[-1] == "":
                cells.pop()
            if cells:
                yield line, cells
    except Exception as error:  # a part of it may be broken further down
        raise _broken() from error


def _cell(value: Any) -> Cell:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 1e15 else value
    if isinstance(value, int):
        return value if abs(value) < 10**15 else str(value)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, datetime) and value.time() == time(0):
        return value.date().isoformat()
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value).strip()


def _look_inside(file: IO[bytes]) -> None:
    """Refuse what would be too much unpacked, and what could pull in anything else."""
    try:
        size = file.seek(0, io.SEEK_END)
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            _is_bearable(parts, size)
            if "xl/workbook.xml" not in {part.filename for part in parts}:
                raise Unreadable(_("This is a packed file, but no Excel file. Give a CSV or an .xlsx."))
            for part in parts:
                if part.filename.lower().endswith((".xml", ".rels", ".vml")):
                    _has_no_entities(archive, part)
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        NotImplementedError,
        EOFError,
        OSError,
        ValueError,
    ) as error:
        raise _broken() from error


def _is_bearable(parts: list[zipfile.ZipInfo], size: int) -> None:
    if any(part.flag_bits & 1 for part in parts):
        raise Unreadable(_("The file has a password. Save it without one."))
    too_much = (
        len(parts) > _MOST_FILES
        or sum(part.compress_size for part in parts) > size  # its parts share their bytes
        or sum(part.file_size for part in parts) > _MOST_UNPACKED
        or any(
            part.file_size > _SMALL and part.file_size > _MOST_RATIO * max(part.compress_size, 1)
            for part in parts
        )
        or any(
            part.file_size > _MOST_WORDS and part.filename.lower().endswith("sharedstrings.xml")
            for part in parts
        )
    )
    if too_much:
        raise Unreadable(_("This Excel file is too large once it is unpacked. Save it as CSV."))


def _has_no_entities(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> None:
    """A document type may name other files, or words that grow when they are read; no workbook needs one."""
    rest = b""
    with archive.open(part) as opened:
        while piece := opened.read(_PIECE):
            text = (rest + piece).replace(b"\0", b"")  # of UTF-16
            if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
                raise Unreadable(_("This Excel file holds what no such file needs. Save it as CSV."))
            rest = text[-16:]
