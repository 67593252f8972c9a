"""Parquet files: columns keep their types, but for categories, which are decoded."""

from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.table import table_cast

from .delimited import distinct_names

EMPTY, ABSENT = datasets.Value("null"), "nothing"
BROKEN = (pa.ArrowException, OSError, KeyError, datasets.table.CastError)


def parquet_features(paths: Sequence[str]) -> tuple[datasets.Features, dict[str, tuple[int, str]]]:
    """The columns that can be read from all files, with the types that their own metadata declare if they are there.

    Returns:
        The columns; and for each that datasets has no type for, or that isn't in all files with one type, where nothing
        but null is any: the place of the file, and what is wrong.

    Raises:
        ValueError: a file can't be read.
    """
    features: dict[str, Any] = {}
    problems: dict[str, tuple[int, str]] = {}
    for number, path in enumerate(paths):
        try:
            schema = pq.read_schema(path)
        except BROKEN as error:
            raise _unreadable(path, error) from error
        found: dict[str, Any] = {}
        for name, field in zip(distinct_names(schema.names), schema, strict=True):
            try:
                found |= datasets.Features.from_arrow_schema(pa.schema([(name, _plain(field.type))], schema.metadata))
            except (ValueError, TypeError, NotImplementedError, KeyError):
                problems.setdefault(name, (number, f": column {name!r} has {field.type}"))
        features = features or found
        for name in {**features, **found}:
            before, now = features.get(name, ABSENT), found.get(name, ABSENT)
            if before != now and (EMPTY not in (before, now) or ABSENT in (before, now)):
                what = f": column {name!r} has {now}, and in {paths[0]}, of the same split, {before}"
                problems.setdefault(name, (number, what))
            features[name] = now if before in (EMPTY, ABSENT) and now != ABSENT else before
    return datasets.Features({name: each for name, each in features.items() if name not in problems}), problems


def parquet_tables(paths: Sequence[str], features: datasets.Features) -> Iterator[pa.Table]:
    """The rows of files that have these columns, after a table without any.

    Raises:
        ValueError: a file can't be read.
    """
    yield features.arrow_schema.empty_table()
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches():
                    found = dict(zip(distinct_names(batch.schema.names), batch.columns, strict=True))
                    table = pa.table({name: found[name].cast(_plain(found[name].type)) for name in features})
                    yield table_cast(table, features.arrow_schema)
        except BROKEN as error:
            raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> ValueError:
    return ValueError(f"{path} can't be read as Parquet: {error}")


def _plain(arrow_type: pa.DataType) -> pa.DataType:
    """The type without dictionaries and without other layouts of strings and lists."""
    types = pa.types
    if types.is_dictionary(arrow_type) or types.is_run_end_encoded(arrow_type):
        return _plain(arrow_type.value_type)
    if types.is_large_string(arrow_type) or types.is_string_view(arrow_type):
        return pa.string()
    if types.is_list(arrow_type) or types.is_large_list(arrow_type) or types.is_list_view(arrow_type):
        return pa.list_(_plain(arrow_type.value_type))
    return arrow_type
