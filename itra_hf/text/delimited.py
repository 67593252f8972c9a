"""CSV and TSV files, in which a cell is its characters: all columns are strings, whatever they look like."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import chain, islice
from typing import TextIO

import pyarrow as pa

from .decoding import BYTE_ORDER_MARK, check_beginning, undecodable
from .plain_csv import is_plain, plain_tables

BATCH = 500  # rows; with more, the columns that are made of them fall out of the caches
MANY_LINES = 1_000  # in one cell
LARGEST_CELL = 2**31 - 1
# Lone surrogates, which no decoded text holds: for the end of the file, and for what the csv module refuses.
END, RETURN, NUL = "\ud800", "\ud801", "\ud802"
UNDECODABLE = re.compile("[\ud800-\udfff]")  # errors="surrogateescape" makes some of bytes in another encoding
SHORT_WORD = re.compile(r"\S{1,30}")
EXCELS_LINE = re.compile(r"sep=.?\s*", re.IGNORECASE)
TWICE = "A quotation mark inside a quoted cell is written twice."


class DelimitedFile:
    """A CSV or TSV file, quoted as RFC 4180 has it; lines without characters are no rows.

    A row with too few fields has empty cells at its end. A carriage return or NUL inside a cell is a character of it;
    outside quotation marks, those just before a line end belong to the line end.

    Attributes:
        path: the file.
        names: of the columns; a repeated one gets a number, `a.1`, and one without a name is `Unnamed: 2`.
        warnings: what is odd about the rows that were read so far: what to say after the path.
    """

    def __init__(self, path: str, delimiter: str, encoding: str) -> None:
        """Reads the header.

        Raises:
            ValueError: the file is empty, or its header can't be read.
        """
        check_beginning(path)
        self.path, self.warnings = path, list[str]()
        self._delimiter, self._encoding, self._newline = delimiter, encoding, "\n"
        self._done = 0  # data rows that were handed out
        self._odd_row: int | None = None  # the first whose quotation marks are not as they should be
        self._short = self._swallowed = False  # whether that was warned of
        with self._open() as file:
            first = file.readline()
        if "\r" in first and not first.endswith("\n"):
            self._newline = ""  # lines that end in carriage returns, as on old Macs
        header = next(self._rows(), None)
        if header is None:
            raise ValueError(f"{path} is empty.")
        header = self._unshielded(header, 0)
        if any("\0" in name for name in header):
            raise ValueError(f"{path}: the header holds NUL characters, as UTF-16 does; set file_encoding to utf-16.")
        if EXCELS_LINE.fullmatch(line := delimiter.join(header)):
            raise ValueError(f"{path} begins with {line!r}, for Excel; remove that line, and set csv_delimiter.")
        self.names = distinct_names(header)

    def tables(self) -> Iterator[pa.Table]:
        """The rows, some thousands at a time, after a table without any.

        Raises:
            ValueError: a row with more fields than the header, bytes in another encoding, or an open quotation mark.
        """
        schema = pa.schema([(name, pa.string()) for name in self.names])
        yield schema.empty_table()
        for table in self._tables(schema):
            self._look_for_swallowed_rows(table)
            self._done += len(table)
            yield table

    def _tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        if is_plain(self.path, self._delimiter, self._encoding):
            try:
                yield from plain_tables(self.path, schema, self._delimiter)
                return
            except pa.ArrowInvalid:
                pass  # the other way goes on there, and says what is wrong
        remaining = islice(self._rows(), 1 + self._done, None)
        while rows := list(islice(remaining, BATCH)):
            if {*map(len, rows)} != {len(self.names)}:
                rows = self._fitted(rows)
            if rows:
                yield self._table(rows, schema)

    def _table(self, rows: list[list[str]], schema: pa.Schema) -> pa.Table:
        try:
            return pa.table([pa.array(column, pa.string()) for column in zip(*rows, strict=True)], schema)
        except UnicodeEncodeError:  # Arrow takes no surrogates
            return self._table(
                [self._unshielded(row, number) for number, row in enumerate(rows, self._done + 1)], schema
            )

    def _unshielded(self, row: list[str], number: int) -> list[str]:
        """The characters of a row's cells."""
        row = [cell.replace(RETURN, "\r").replace(NUL, "\0") for cell in row]
        if any(map(UNDECODABLE.search, row)):
            raise undecodable(self.path, self._encoding, number)
        return row

    @contextmanager
    def _open(self) -> Iterator[TextIO]:
        try:
            with open(self.path, encoding=self._encoding, newline=self._newline, errors="surrogateescape") as file:
                if file.read(1) != BYTE_ORDER_MARK:
                    file.seek(0)
                yield file
        except UnicodeError:  # an encoding of several bytes a character
            raise undecodable(self.path, self._encoding, None) from None

    def _rows(self) -> Iterator[list[str]]:
        """The parsed rows, header and all, shielded; strictly up to a row whose quotation marks are odd."""
        csv.field_size_limit(LARGEST_CELL)  # of the whole process
        done = 0
        for strict in (True, False):
            with self._open() as file:
                lines = (_shielded(line) if "\r" in line or "\0" in line else line for line in file)
                reader = csv.reader(chain(lines, [END]), delimiter=self._delimiter, strict=strict)
                try:
                    for row in islice(filter(None, reader), done, None):
                        if END in row[-1]:
                            self._check_end(row, done)
                            return
                        yield row
                        done += 1
                except csv.Error:
                    if not strict:
                        raise
                    self._odd_row = done

    def _check_end(self, row: list[str], number: int) -> None:
        """Looks at the quotation marks, given what was parsed last."""
        if row != [END] and number == 0:
            raise ValueError(f"{self.path}: the header has a quotation mark that is never closed.")
        if row != [END]:
            raise ValueError(
                f"{self.path}, row {self._odd_row}: a quotation mark that opens a cell there is not closed where the "
                f"cell ends. {TWICE}"
            )
        if self._odd_row is not None:
            self.warnings.append(
                f", row {self._odd_row}: text follows the closing quotation mark of a cell, so that quotation marks "
                f"are lost or rows run together. {TWICE}"
            )

    def _fitted(self, rows: list[list[str]]) -> list[list[str]]:
        """The rows with as many fields as the header, without those of nothing but spaces."""
        width, fitted = len(self.names), list[list[str]]()
        for row in rows:
            number, count = self._done + len(fitted) + 1, f"{len(row)} field" + "s" * (len(row) != 1)
            if len(row) > width:
                odd = "" if self._odd_row is None else f" Or quotation marks are unbalanced in row {self._odd_row}."
                raise ValueError(
                    f"{self.path}, row {number}: it has {count}, and the header {width}. A cell that holds "
                    f"{self._delimiter!r} must stand in quotation marks; for another delimiter, set csv_delimiter.{odd}"
                )
            if len(row) == 1 < width and not row[0].replace(RETURN, "").strip():
                continue
            if len(row) < width and not self._short:
                self._short = True
                self.warnings.append(
                    f", row {number}: it has {count}, and the header {width}; the cells that are missing at its end, "
                    "and in other such rows, are taken as empty."
                )
            fitted.append(row + [""] * (width - len(row)))
        return fitted

    def _look_for_swallowed_rows(self, table: pa.Table) -> None:
        """Warns of the first cell whose lines look like rows, or that has very many."""
        if self._swallowed or self._odd_row is not None:
            return
        columns = cache(lambda position: table.column(position).to_pylist())
        known = cache(lambda position: {*columns(position)} - {""})
        for position, name in enumerate(self.names):
            characters = table.column(position).combine_chunks().buffers()[2]
            if characters is None or b"\n" not in characters.to_pybytes():
                continue  # without a look at each cell
            for number, cell in enumerate(columns(position), self._done + 1):
                breaks = cell.count("\n")
                if breaks >= MANY_LINES or (breaks and self._looks_like_rows(cell, position, known)):
                    self._swallowed = True
                    self.warnings.append(
                        f", row {number}: the cell in column {name!r} has {breaks + 1} lines, as if a quotation mark "
                        f"had swallowed rows. {TWICE}"
                    )
                    return

    def _looks_like_rows(self, cell: str, column: int, known: Callable[[int], set[str]]) -> bool:
        """Whether a cell's lines have a row's delimiters: tabs, or between them short words or values of other rows."""
        width = len(self.names)
        if width == 1 or cell.count(self._delimiter) != cell.count("\n") * (width - 1):
            return False
        lines = [line.removesuffix("\r").split(self._delimiter) for line in cell.split("\n")]
        if [len(line) for line in lines] != [width - column, *[width] * (len(lines) - 2), column + 1]:
            return False
        if self._delimiter == "\t":  # prose has commas, but hardly tabs
            return True
        inner = [*chain(*lines)][1:-1]  # the cell's own first and last parts are pieces of fields
        fields = {(column + 1 + start) % width: inner[start::width] for start in range(width)}
        return any(
            found and (all(map(SHORT_WORD.fullmatch, found)) or {*found} <= known(position))
            for position, found in fields.items()
        )


def _shielded(line: str) -> str:
    body = line.removesuffix("\n").rstrip("\r")  # outside quotation marks, all of these end the row
    return body.replace("\r", RETURN).replace("\0", NUL) + line[len(body) :]


def distinct_names(header: list[str]) -> list[str]:
    """The columns' names, each of them once and none empty; see `DelimitedFile.names`."""
    names: dict[str, None] = {}
    repeated: Counter[str] = Counter()
    for position, name in enumerate(header):
        name = wanted = name or f"Unnamed: {position}"
        while name in names:
            repeated[wanted] += 1
            name = f"{wanted}.{repeated[wanted]}"
        names[name] = None
    return list(names)
