"""JSON and JSON Lines files: strings stay strings, whatever they look like; numbers and booleans keep their type."""

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from .decoding import BYTE_ORDER_MARK, check_beginning, undecodable

BLANK = re.compile(r"[ \t\r\n]*")
REST = re.compile(r"[ \t\r]*")  # of a line
UNFIT = re.compile("[\0\ud800-\udfff]")  # in names of columns
INEXACT = "whole numbers of more than 53 bits among fractions or NaN"
UNSTORABLE = "a number of more than 64 bits or half of a surrogate pair"


class Written(str):
    """A number by its characters."""


class Repeating(dict[str, Any]):
    """An object that names a column twice.

    Attributes:
        name: of the first such column.
    """

    name: str


def read_json(
    paths: Sequence[str], encoding: str, as_written: Sequence[str]
) -> tuple[pa.Table, dict[str, tuple[int, str]]]:
    """The rows of JSON files: lists of objects, objects a line or one after the other, or an object of columns.

    A column that a row lacks is null there. One that holds objects, or values of several types, becomes
    their JSON text.

    Args:
        paths: of files that are there.
        encoding: of the files.
        as_written: columns whose numbers become strings of their characters.

    Returns:
        The table; and for each column that is no good as text or label, the place of the file, and what is wrong.

    Raises:
        ValueError: a file is no such JSON; the message has the row.
    """
    numbers: dict[str, Any] = {"parse_int": Written, "parse_float": Written} if as_written else {}
    decoder = json.JSONDecoder(object_pairs_hook=_object, **numbers)
    rows: list[dict[str, Any]] = []
    starts: list[int] = []
    columns, problems = {}, {}
    try:
        for path in paths:
            starts.append(len(rows))
            rows += _rows(path, encoding, decoder)
        for name in dict.fromkeys(chain.from_iterable(rows)):
            convert = _as_written if name in as_written else _as_number if as_written else None
            values = [row.pop(name, None) for row in rows]  # which frees them as soon as the column is made
            columns[name], problem = _column(values if convert is None else [*map(convert, values)])
            if problem is not None:
                number = bisect_right(starts, problem[0]) - 1
                row = problem[0] - starts[number] + 1
                problems[name] = (number, f", row {row}: column {name!r} has {problem[1]}")
    except RecursionError:
        raise ValueError(f"{', '.join(paths)}: it is nested too deeply.") from None
    return pa.table(columns), problems


def _rows(path: str, encoding: str, decoder: json.JSONDecoder) -> list[dict[str, Any]]:
    check_beginning(path)
    values = _values(path, _text(path, encoding), decoder)
    if isinstance(values[0], list):
        if len(values) > 1:
            raise ValueError(f"{path}: there is more after its list of rows; a file is one list, or one object a line.")
        values = values[0]
    elif len(values) == 1 and isinstance(values[0], dict):
        values = _rows_of_columns(values[0]) or values
    rows = [{"text": value} if isinstance(value, str) else value for value in values]  # a list of texts
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, row {number}: it is {_kind(row) or 'null'}, where a row is an object.")
        if isinstance(row, Repeating):
            raise ValueError(f"{path}, row {number}: it has column {row.name!r} twice.")
    for name in dict.fromkeys(chain.from_iterable(rows)):
        if UNFIT.search(name):
            raise ValueError(f"{path}: the name {name!r} has NUL or half of a surrogate pair; rename it.")
    return rows


def _text(path: str, encoding: str) -> str:
    content = Path(path).read_bytes()
    try:
        return content.decode(encoding).removeprefix(BYTE_ORDER_MARK)
    except UnicodeError as error:
        before = content[: getattr(error, "start", 0)].decode(encoding, "ignore").split("\n")
        row = 1 + sum(bool(line.strip()) for line in before[:-1])
        raise undecodable(path, encoding, row) from None


def _values(path: str, text: str, decoder: json.JSONDecoder) -> list[Any]:
    """The JSON values of a file, one after the other; of what follows a list, only that there is something."""
    values: list[Any] = []
    place = BLANK.match(text).end()  # type: ignore[union-attr]
    while place < len(text):
        try:
            value, end = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            if values and isinstance(values[0], list):
                return [*values, None]
            row = None if text[place] == "[" else len(values) + 1  # of a list, only the line is known
            raise _broken(path, text, row, error) from None
        values.append(value)
        rest = REST.match(text, end).end()  # type: ignore[union-attr]
        if not isinstance(values[0], list) and text[rest : rest + 1] not in ("", "\n"):
            raise _broken(path, text, len(values), json.JSONDecodeError("Extra data", text, rest))
        place = BLANK.match(text, end).end()  # type: ignore[union-attr]
    if not values:
        raise ValueError(f"{path} is empty.")
    return values


def _broken(path: str, text: str, row: int | None, error: json.JSONDecodeError) -> ValueError:
    place = len(text.rstrip()) if error.pos == len(text) else error.pos
    line, column = text.count("\n", 0, place) + 1, place - text.rfind("\n", 0, place)
    where = f"line {line}" if row is None else f"row {row} (line {line})"
    return ValueError(f"{path}, {where}: it is broken JSON: {error.msg} at character {column} of the line.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        value = Repeating(value)
        value.name = next(name for name in value if names.count(name) > 1)
    return value


def _rows_of_columns(value: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an object of columns, which are lists, or objects by row; none, if it isn't one."""
    if any(isinstance(each, Repeating) for each in (value, *value.values())):
        return []
    columns = {name: list(each.values()) if isinstance(each, dict) else each for name, each in value.items()}
    if not all(isinstance(each, list) for each in columns.values()) or len(set(map(len, columns.values()))) != 1:
        return []
    if len({tuple(each) for each in value.values() if isinstance(each, dict)}) > 1:
        return []
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _column(values: list[Any]) -> tuple[pa.Array, tuple[int, str] | None]:
    """The values, or their JSON text where they are no good as texts or labels, and then the first place and why."""
    problem = _problem(values)
    if problem is None:
        try:
            return pa.array(values), None
        except (pa.ArrowException, OverflowError, UnicodeError):
            problem = next(
                ((row, UNSTORABLE) for row, value in enumerate(values) if not _storable(value)), (0, INEXACT)
            )
    return pa.array([None if value is None else json.dumps(value) for value in values], pa.string()), problem


def _problem(values: list[Any]) -> tuple[int, str] | None:
    """The place of the first value that is no text or label, or not of the kind of those before, and what it is."""
    known = ""
    if {*map(type, values)} <= {type(None), str}:
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
        known = kind
    return None


def _kind(value: Any) -> str:
    """In words; empty for null."""
    if value is None:
        return ""
    if isinstance(value, list):
        inner = {_kind(item) for item in value} - {""}
        if len(inner) > 1:
            return "a list of several types"
        return f"a list of {inner.pop().split(' ')[1]}s" if inner else "a list"
    kinds = {bool: "a boolean", Written: "a number", str: "a string", dict: "an object", Repeating: "an object"}
    return kinds.get(type(value), "a number")


def _storable(value: Any) -> bool:
    try:
        pa.array([value])
    except (pa.ArrowException, OverflowError, UnicodeError):
        return False
    return True


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
