"""CSV and TSV files, in which a cell is its characters: all columns are strings, whatever they look like."""

import csv
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain, islice
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .decoding import ESCAPED, check_beginning, open_text, undecodable
from .plain_csv import is_plain, plain_tables

BATCH = 500  # rows; with more, the columns that are made of them fall out of the caches
MANY_LINES = 1_000  # in one cell
LARGEST_CELL = 2**31 - 1
# Lone surrogates, which no decoded text holds: for the end of the file, and for what the csv module refuses.
END, RETURN, NUL = "\ud800", "\ud801", "\ud802"
SHORT_WORD = re.compile(r"\S{1,30}")
EXCELS_LINE = re.compile(r'"?sep=.?"?\s*', re.IGNORECASE)
TWICE = "A quotation mark inside a quoted cell is written twice."


class DelimitedFile:
    """A CSV or TSV file, quoted as RFC 4180 has it; lines without characters are no rows.

    A row with too few fields has empty cells at its end. A carriage return or NUL inside a cell is a character of it;
    outside quotation marks, those just before a line end belong to the line end.

    Attributes:
        path: the file.
        names: of the columns; a repeated one gets a number, `a.1`, and one without a name is `Unnamed: 2`.
        warnings: what is odd about the rows that were read so far.
    """

    def __init__(self, path: str, delimiter: str, encoding: str) -> None:
        """Reads the header.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is empty, or its header can't be read.
        """
        check_beginning(path)
        self.path, self.warnings = path, list[str]()
        self._delimiter, self._encoding, self._newline = delimiter, encoding, "\n"
        self._parsed = self._rows = 0
        self._odd_row: int | None = None  # the first whose quotation marks are not as they should be
        self._short = self._swallowed = False  # whether that was warned of
        try:
            with open_text(path, encoding) as file:
                first = file.readline()
            if not first.endswith("\n") and "\r" in first:
                self._newline = ""  # lines that end in carriage returns, as on old Macs
            with open_text(path, encoding, self._newline) as file:
                header = _unshielded(next(self._reader(file, strict=False, shielded=True)))
        except UnicodeError:
            raise undecodable(path, encoding, self._undecodable_row()) from None
        if header == [END]:
            raise ValueError(f"{path} is empty.")
        if END in header[-1]:
            raise ValueError(f"{path}: the header has a quotation mark that is never closed.")
        if any("\0" in name for name in header):
            raise ValueError(f"{path}: the header holds NUL characters, as UTF-16 does; set file_encoding to utf-16.")
        if EXCELS_LINE.fullmatch(first):
            raise ValueError(
                f"{path} begins with {first.strip()!r}, for Excel; remove that line, and set csv_delimiter."
            )
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
            self._rows += len(table)
            yield table

    def _tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        if is_plain(self.path, self._delimiter, self._encoding):
            try:
                yield from plain_tables(self.path, schema, self._delimiter)
                return
            except pa.ArrowInvalid:
                self._parsed = self._rows  # the other way goes on there, and says what is wrong
        try:
            for rows in self._batches():
                yield pa.table([pa.array(column, pa.string()) for column in zip(*rows, strict=True)], schema)
        except UnicodeError:
            raise undecodable(self.path, self._encoding, self._undecodable_row()) from None

    def _batches(self) -> Iterator[list[list[str]]]:
        # The csv module stops at a lone carriage return and, if strict, at text after a closing quotation mark. Then it
        # goes on less strictly after the rows that are done, so that sound files alone are read at full speed.
        for strict, shielded in ((True, False), (True, True), (False, True)):
            try:
                yield from self._parse(strict, shielded)
                return
            except csv.Error:
                if shielded:
                    self._odd_row = self._first_odd_row()
        raise AssertionError("the csv module accepts any text if it isn't strict")

    def _parse(self, strict: bool, shielded: bool) -> Iterator[list[list[str]]]:
        with open_text(self.path, self._encoding, self._newline) as file:
            reader = self._reader(file, strict, shielded)
            deque(islice(reader, 1 + self._parsed), maxlen=0)  # the header, and what is done
            while rows := list(islice(reader, BATCH)):
                ended = END in rows[-1][-1]
                if ended and rows.pop() != [END]:
                    raise ValueError(
                        f"{self.path}, row {self._odd_row}: a quotation mark that opens a cell there is not closed "
                        f"where the cell ends. {TWICE}"
                    )
                self._parsed += len(rows)
                if shielded:
                    rows = [_unshielded(row) for row in rows]
                if set(map(len, rows)) - {len(self.names)}:
                    rows = self._fitted(rows)
                if rows:
                    yield rows
                if ended:
                    break
        if not strict:
            self.warnings.append(
                f"{self.path}, row {self._odd_row}: text follows the closing quotation mark of a cell, so that "
                f"quotation marks are lost or rows run together. {TWICE}"
            )

    def _reader(self, file: TextIO, strict: bool, shielded: bool) -> Iterator[list[str]]:
        """The parsed rows of an open file, header and all, and at last `[END]`, if no quotation mark is open."""
        csv.field_size_limit(LARGEST_CELL)  # of the whole process
        lines = chain(map(_shielded, file) if shielded else file, [END])
        return filter(None, csv.reader(lines, delimiter=self._delimiter, strict=strict))

    def _fitted(self, rows: list[list[str]]) -> list[list[str]]:
        """The rows with as many fields as the header, without those of nothing but spaces."""
        width, fitted = len(self.names), list[list[str]]()
        for row in rows:
            number = self._rows + len(fitted) + 1
            if len(row) > width:
                odd = "" if self._odd_row is None else f" Or quotation marks are unbalanced in row {self._odd_row}."
                raise ValueError(
                    f"{self.path}, row {number}: it has {_count(len(row), 'field')}, and the header {width}. A cell "
                    f"that holds {self._delimiter!r} must stand in quotation marks; for another delimiter, set "
                    f"csv_delimiter.{odd}"
                )
            if len(row) == 1 < width and not row[0].strip():
                continue
            if len(row) < width and not self._short:
                self._short = True
                self.warnings.append(
                    f"{self.path}, row {number}: it has {_count(len(row), 'field')}, and the header {width}; the "
                    "cells that are missing at its end, and in other such rows, are taken as empty."
                )
            fitted.append(row + [""] * (width - len(row)))
        return fitted

    def _look_for_swallowed_rows(self, table: pa.Table) -> None:
        """Warns of the first cell whose lines look like rows, or that has very many."""
        if self._swallowed or self._odd_row is not None:
            return
        width = table.num_columns
        known = cache(lambda position: {*table.column(position).to_pylist()} - {""})
        for column, name in enumerate(self.names):
            characters = table.column(column).combine_chunks().buffers()[2]
            if characters is None or b"\n" not in characters.to_pybytes():
                continue  # without a look at each cell
            breaks = pc.count_substring(table.column(column), "\n").to_numpy()
            marks = pc.count_substring(table.column(column), self._delimiter).to_numpy()
            suspects = (breaks >= MANY_LINES) | ((breaks > 0) & (width > 1) & (marks == breaks * (width - 1)))
            for row in np.flatnonzero(suspects):
                if breaks[row] >= MANY_LINES or self._looks_like_rows(table, int(row), column, known):
                    self._swallowed = True
                    self.warnings.append(
                        f"{self.path}, row {self._rows + row + 1}: the cell in column {name!r} has {breaks[row] + 1} "
                        f"lines, as if a quotation mark had swallowed rows. {TWICE}"
                    )
                    return

    def _looks_like_rows(self, table: pa.Table, row: int, column: int, known: Callable[[int], set[str]]) -> bool:
        """Whether a cell's lines have a row's delimiters: tabs, or between them short words or values of other rows."""
        lines = [line.split(self._delimiter) for line in table.column(column)[row].as_py().split("\n")]
        width, last = table.num_columns, len(lines) - 1
        fields: list[list[str]] = [[] for _ in self.names]
        for number, parts in enumerate(lines):
            first = column if number == 0 else 0
            if len(parts) != (column + 1 if number == last else width - first):
                return False
            for position, part in enumerate(parts, first):
                # The cell's own first and last parts are pieces of fields.
                if not (number == 0 and position == column) and not (number == last and position == column):
                    fields[position].append(part.removesuffix("\r"))
        return self._delimiter == "\t" or any(  # prose has commas, but hardly tabs
            found and (all(map(SHORT_WORD.fullmatch, found)) or {*found} <= known(position))
            for position, found in enumerate(fields)
        )

    def _first_odd_row(self) -> int:
        """The data row, from 1, at which a strict parser stops; it runs over the file once more."""
        row = -1
        try:
            with open_text(self.path, self._encoding, self._newline) as file:
                for _ in self._reader(file, strict=True, shielded=True):
                    row += 1
        except csv.Error:
            pass
        return row + 1

    def _undecodable_row(self) -> int | None:
        """The first data row with bytes in another encoding, from 1; 0: the header; `None`: it can't be told."""
        try:
            with open_text(self.path, self._encoding, self._newline, errors="surrogateescape") as file:
                for number, row in enumerate(self._reader(file, strict=False, shielded=True)):
                    if any(map(ESCAPED.search, row)):
                        return number
        except UnicodeError:  # an encoding of several bytes a character
            pass
        return None


def _shielded(line: str) -> str:
    body = line.removesuffix("\n").rstrip("\r")  # outside quotation marks, all of these end the row
    return body.replace("\r", RETURN).replace("\0", NUL) + line[len(body) :]


def _unshielded(row: list[str]) -> list[str]:
    return [cell.replace(RETURN, "\r").replace(NUL, "\0") for cell in row]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


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
