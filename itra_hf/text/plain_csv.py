"""A fast way through CSV and TSV files that leave no doubt: UTF-8, with quotation marks around cells alone."""

import mmap
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.csv

PIECE = 1 << 21  # bytes that are looked at in one go; a processor's cache holds them
LONGEST = 1 << 22  # bytes of a row, beyond which the other way takes over
QUOTE, NEWLINE, RETURN = b'"\n\r'
MARK = b"\xef\xbb\xbf"


def is_plain(path: str, delimiter: str, encoding: str) -> bool:
    """Whether the header comes first, every quotation mark opens a cell, closes one or is doubled, and lines end alike.

    Then all parsers agree on the file, as long as its rows have the header's fields.
    """
    if encoding.lower().replace("_", "-") not in ("utf-8", "utf8", "utf-8-sig") or not delimiter.isascii():
        return False
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        data = np.frombuffer(content, np.uint8)
        try:
            return _is_plain(data, len(MARK) if content[:3] == MARK else 0, ord(delimiter))
        finally:
            del data  # else the map can't be closed


def _is_plain(data: np.ndarray, start: int, delimiter: int) -> bool:
    """The same of bytes `[n]` that begin at `start`."""
    if data[start : start + 1].tobytes() in (b"\n", b"\r"):
        return False  # Arrow would count the empty line as the header
    quotes = 0
    for place in range(start, len(data), PIECE):
        piece = data[place : place + PIECE]
        returns = np.flatnonzero(piece == RETURN) + place
        if len(returns) and (returns[-1] == len(data) - 1 or (data[returns + 1] != NEWLINE).any()):
            return False
        found = np.flatnonzero(piece == QUOTE) + place
        opening, closing = found[quotes % 2 :: 2], found[(quotes + 1) % 2 :: 2]
        # The second of a doubled mark counts as opening, the first as closing.
        before = data[np.maximum(opening - 1, 0)]
        after = data[np.minimum(closing + 1, len(data) - 1)]
        starts = (before == delimiter) | (before == NEWLINE) | (before == QUOTE) | (opening == start)
        ends = (after == delimiter) | (after == NEWLINE) | (after == RETURN) | (after == QUOTE)
        if not starts.all() or not ends.all():
            return False
        quotes += len(found)
    return quotes % 2 == 0


def plain_tables(path: str, schema: pa.Schema, delimiter: str) -> Iterator[pa.Table]:
    """The rows of such a file, some thousands at a time, with these columns, all of strings.

    Raises:
        ArrowInvalid: a row with more or fewer fields than there are columns, or that is too long, or no UTF-8.
    """
    numbers = [str(number) for number in range(len(schema))]
    options = {
        "read_options": pyarrow.csv.ReadOptions(column_names=numbers, skip_rows_after_names=1, block_size=LONGEST),
        "parse_options": pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        "convert_options": pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(numbers, pa.string()),
            strings_can_be_null=False,
            quoted_strings_can_be_null=False,
        ),
    }
    with pyarrow.csv.open_csv(path, **options) as reader:
        for batch in reader:
            yield pa.table(batch.columns, schema)
