"""JSON and JSON Lines files: strings stay strings, whatever they look like; numbers and booleans keep their type."""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any, TextIO

import pyarrow as pa

from .decoding import ESCAPED, check_beginning, open_text, undecodable

BATCH = 10_000  # rows
WHITESPACE = " \t\r\n"
END = object()
UNFIT = re.compile("[\0\ud800-\udfff]")  # in names of columns
INEXACT = "whole numbers of more than 53 bits among fractions or NaN"


class Written(str):
    """A number by its characters."""


class JSONTable:
    """The rows of JSON files: lists of objects, objects a line or one after the other, or an object of columns.

    Columns that hold objects, or values of several types, become their JSON text, and `problems` says so.

    Attributes:
        problems: for a column that is no good as text or label, by its name, the reason.
    """

    def __init__(self, encoding: str, as_written: Sequence[str]) -> None:
        """Starts with no rows.

        Args:
            encoding: of the files.
            as_written: columns whose numbers become strings of their characters.
        """
        self.problems: dict[str, str] = {}
        self._encoding, self._as_written = encoding, as_written
        self._rows = 0
        self._paths: list[str] = []
        self._chunks: dict[str, list[pa.Array]] = {}
        self._kinds: dict[str, str] = {}

    def read(self, path: str) -> None:
        """Appends the rows of a file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no such JSON; the message has the row.
        """
        check_beginning(path)
        self._paths.append(path)
        number = 1
        rows = _records(path, self._encoding, _decoder(bool(self._as_written)))
        try:
            while batch := list(islice(rows, BATCH)):
                for name in {**self._chunks, **dict.fromkeys(chain.from_iterable(batch))}:
                    if UNFIT.search(name):
                        raise ValueError(f"{path}: the name {name!r} has NUL or half of a surrogate pair; rename it.")
                    chunks = self._chunks.setdefault(name, [pa.nulls(self._rows)] if self._rows else [])
                    chunks.append(self._array(path, number, name, [row.get(name) for row in batch]))
                self._rows += len(batch)
                number += len(batch)
        except RecursionError:
            raise ValueError(f"{path} is nested too deeply.") from None

    def table(self) -> pa.Table:
        """All rows; a column that a row lacks is null there."""
        return pa.table({name: self._joined(name, chunks) for name, chunks in self._chunks.items()})

    def _joined(self, name: str, chunks: list[pa.Array]) -> pa.ChunkedArray:
        tables = [pa.table({"column": chunk}) for chunk in chunks]
        try:
            return pa.concat_tables(tables, promote_options="permissive").column("column")
        except pa.ArrowException:
            self.problems.setdefault(name, f"{', '.join(self._paths)}: column {name!r} has {INEXACT}")
            texts = [pa.array([_text(value) for value in chunk.to_pylist()], pa.string()) for chunk in chunks]
            return pa.chunked_array(texts)

    def _array(self, path: str, number: int, name: str, values: list[Any]) -> pa.Array:
        if name in self._as_written:
            values = [_as_written(value) for value in values]
        elif self._as_written:
            values = [_as_number(value) for value in values]
        problem = self._problem(name, values)
        if problem is None:
            try:
                return pa.array(values)
            except (pa.ArrowException, OverflowError, UnicodeError):
                offset = next((row for row, value in enumerate(values) if not _storable(value)), None)
                what = "a number of more than 64 bits or half of a surrogate pair"
                problem = (0, INEXACT) if offset is None else (offset, what)
        offset, what = problem
        self.problems.setdefault(name, f"{path}, row {number + offset}: column {name!r} has {what}")
        return pa.array([_text(value) for value in values], pa.string())

    def _problem(self, name: str, values: list[Any]) -> tuple[int, str] | None:
        """The place of the first value that is no text or label, or not of the kind of those before, and what it is."""
        known = self._kinds.get(name, "")
        if set(map(type, values)) <= {type(None), str} and known in ("", "a string"):
            if any(values):
                self._kinds[name] = "a string"
            return None
        for row, value in enumerate(values):
            kind = _kind(value)
            if kind in ("", known) or (kind == "a list" and known.startswith(kind)):
                continue
            if kind.endswith(("object", "objects", "lists", "types")):
                return row, kind
            if known and not (known == "a list" and kind.startswith(known)):
                nan = ", for NaN is a number" if any(each != each for each in values) else ""
                return row, f"{kind}, and before that {known}{nan}"
            known = self._kinds[name] = kind
        return None


def _kind(value: Any) -> str:
    """In words; empty for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, Written):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, dict):
        return "an object"
    inner = {_kind(item) for item in value} - {""}
    if len(inner) > 1:
        return "a list of several types"
    kind = inner.pop() if inner else ""
    return f"a list of {kind.split(' ')[1]}s" if kind else "a list"


def _as_written(value: Any) -> Any:
    if isinstance(value, float):  # NaN or an infinity; NaN stands for nothing
        return None if value != value else Written(value)
    return [_as_written(item) for item in value] if isinstance(value, list) else value


def _as_number(value: Any) -> Any:
    if isinstance(value, Written):
        return int(value) if value.lstrip("-").isdigit() else float(value)
    if isinstance(value, list):
        return [_as_number(item) for item in value]
    return {name: _as_number(item) for name, item in value.items()} if isinstance(value, dict) else value


def _storable(value: Any) -> bool:
    try:
        pa.array([value])
    except (pa.ArrowException, OverflowError, UnicodeError):
        return False
    return True


def _text(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


def _decoder(as_written: bool) -> json.JSONDecoder:
    return json.JSONDecoder(parse_int=Written, parse_float=Written) if as_written else json.JSONDecoder()


def _records(path: str, encoding: str, decoder: json.JSONDecoder) -> Iterator[dict[str, Any]]:
    """The objects of a file, one a row."""
    try:
        with open_text(path, encoding) as file:
            values = _values(path, file, decoder)
            first = next(values, None)
            if isinstance(first, list):
                _check_end(path, values)
                values, first = iter(first), None
            elif isinstance(first, dict) and (columns := _columns(first)):
                second = next(values, None)
                values = chain([first] if second is None else [first, second], values)
                first = None
                if second is None:
                    values = iter(columns)
            start = [] if first is None else [first]
            for number, value in enumerate(chain(start, values), 1):
                if isinstance(value, str):
                    value = {"text": value}  # a list of texts
                if not isinstance(value, dict):
                    raise ValueError(f"{path}, row {number}: it is {_kind(value) or 'null'}, where a row is an object.")
                yield value
    except UnicodeError:
        raise undecodable(path, encoding, _undecodable_row(path, encoding)) from None


def _check_end(path: str, values: Iterator[Any]) -> None:
    """Raises a `ValueError` if something follows a list of rows."""
    try:
        rows_only = next(values, END) is END
    except UnicodeError:
        raise
    except ValueError:
        rows_only = False
    if not rows_only:
        raise ValueError(f"{path}: there is more after its list of rows; a file is one list, or one object a line.")


def _columns(value: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an object of columns, which are lists, or objects by row; none, if it isn't one."""
    columns = {name: list(each.values()) if isinstance(each, dict) else each for name, each in value.items()}
    if not all(isinstance(each, list) for each in columns.values()) or len(set(map(len, columns.values()))) != 1:
        return []
    if len({tuple(each) for each in value.values() if isinstance(each, dict)}) > 1:
        return []
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _values(path: str, file: TextIO, decoder: json.JSONDecoder) -> Iterator[Any]:
    """The JSON values of a file: one a line, or, if the first line isn't one, one after the other."""
    number = 0
    for line, text in enumerate(file, 1):
        if not text.strip(WHITESPACE):
            continue
        try:
            value = decoder.decode(text)
        except json.JSONDecodeError as error:
            if number:
                raise _broken(path, number + 1, line, error) from None
            yield from _values_over_lines(path, text + file.read(), line, decoder)
            return
        number += 1
        yield value
    if number == 0:
        raise ValueError(f"{path} is empty.")


def _values_over_lines(path: str, text: str, line: int, decoder: json.JSONDecoder) -> Iterator[Any]:
    """The JSON values of a text that begins in this line of a file."""
    number, place = 1, len(text) - len(text.lstrip(WHITESPACE))
    while place < len(text):
        try:
            value, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            row = None if text[place] == "[" else number  # of a list, only the line is known
            raise _broken(path, row, line + error.lineno - 1, error) from None
        place += len(text[place:]) - len(text[place:].lstrip(WHITESPACE))
        number += 1
        yield value


def _broken(path: str, row: int | None, line: int, error: json.JSONDecodeError) -> ValueError:
    where = f"line {line}" if row is None else f"row {row} (line {line})"
    return ValueError(f"{path}, {where}: it is broken JSON: {error.msg} at character {error.colno} of the line.")


def _undecodable_row(path: str, encoding: str) -> int | None:
    """The line with bytes in another encoding, without empty ones; `None` if it can't be told."""
    number = 0
    try:
        with open_text(path, encoding, errors="surrogateescape") as file:
            for text in file:
                number += bool(text.strip(WHITESPACE))
                if ESCAPED.search(text):
                    return number
    except UnicodeError:  # an encoding of several bytes a character
        pass
    return None
