"""Data sets by name: a folder, whose splits and files the datasets library finds, or one on the Hub."""

import dataclasses
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets.exceptions import DatasetGenerationError

from .data_arguments import check_encoding, checked_delimiter
from .files import KINDS, Reading, read_files

PATTERN = re.compile(r"[*?\[\]{}]")
HONOURED = {"name", "version", "data_files", "data_dir", "description", "features", "sep", "delimiter", "encoding"}
# These change nothing where cells are their characters.
HONOURED |= {"keep_default_na", "na_filter", "low_memory", "engine", "memory_map", "chunksize", "batch_size"}


class Found(NamedTuple):
    """The files of a folder.

    Attributes:
        kind: `csv`, `json` or `parquet`.
        files: of each split, by its name.
        delimiter: that the folder's card names; `None` if it doesn't.
        encoding: likewise.
        features: likewise.
    """

    kind: str
    files: dict[str, list[str]]
    delimiter: str | None
    encoding: str | None
    features: datasets.Features | None


def load_named(
    name: str, config: str | None, reading: Reading, cache_dir: str | None, token: str | None
) -> Mapping[str, datasets.Dataset]:
    """Loads all splits of a data set. CSV, TSV, JSON and Parquet files of a folder are read as `read_files` reads them.

    Args:
        name: a folder, or a name on the Hub.
        config: its configuration.
        reading: of the files of a folder.
        cache_dir: of datasets.
        token: of the Hub.

    Raises:
        FileNotFoundError: there is none of this name.
        ValueError: files that can't be read.
    """
    found = find_files(name, config) if os.path.isdir(name) else None
    if found is None:
        try:
            return datasets.load_dataset(name, config, cache_dir=cache_dir, token=token)
        except DatasetGenerationError as error:
            raise ValueError(f"{name} can't be read: {error.__cause__ or error}") from error
    reading = reading._replace(
        delimiter=reading.delimiter or found.delimiter, encoding=found.encoding or reading.encoding
    )
    splits = {}
    for split, paths in found.files.items():
        data = read_files(paths, reading, cache_dir, found.kind, split)
        splits[split] = data if found.features is None else _as_declared(data, found.features, name)
    return splits


def find_files(folder: str, config: str | None) -> Found | None:
    """The files of a folder's splits; `None` where they are of other kinds.

    Raises:
        ValueError: they are packed, or the folder's card has them read with options that are not honoured.
    """
    with tempfile.TemporaryDirectory() as cache, _without_pattern(folder) as base:
        # An empty cache: else what an earlier run made of the files would count as declared.
        builder = datasets.load_dataset_builder(base, config, cache_dir=cache)
        base = os.path.realpath(base)
        files = {
            str(split): [os.path.join(folder, os.path.relpath(path, base)) for path in paths]
            for split, paths in (builder.config.data_files or {}).items()
        }
    options = {
        each.name: getattr(builder.config, each.name)
        for each in dataclasses.fields(builder.config)
        if getattr(builder.config, each.name) != getattr(type(builder.config)(), each.name)
    }
    if builder.name not in KINDS.values():
        return None
    _check_honoured(folder, options, chain.from_iterable(files.values()))
    endings = {os.path.splitext(path)[1].lower() for paths in files.values() for path in paths}
    delimiter, encoding = options.get("sep"), options.get("encoding")
    if delimiter is not None:
        delimiter = checked_delimiter(delimiter, f"In the card of {folder}, sep")
    if encoding is not None:
        check_encoding(encoding, f"In the card of {folder}, encoding")
    return Found(
        builder.name,
        files,
        None if delimiter == "\t" and ".tsv" in endings else delimiter,  # the ending says it, file by file
        encoding,
        builder.info.features,
    )


def _check_honoured(folder: str, options: Iterable[str], paths: Iterable[str]) -> None:
    """Raises a `ValueError` for options of a card that would change what is read, and for files that can't be read."""
    if unknown := sorted(set(options) - HONOURED):
        raise ValueError(
            f"The card of {folder} sets {', '.join(unknown)}, which is not honoured, for cells are read as their "
            "characters. Leave it out, or give the files by train_file, validation_file and test_file."
        )
    for path in paths:
        if os.path.splitext(path)[1].lower() not in {*KINDS, ".ndjson", ".txt"}:
            raise ValueError(
                f"{path} is packed, or has an ending that is not known; unpack it, and let its name end in "
                f"one of {', '.join(KINDS)}."
            )


@contextmanager
def _without_pattern(folder: str) -> Iterator[str]:
    """The folder, or, where its path would be taken as a pattern, one of links to its files."""
    if not PATTERN.search(os.path.realpath(folder)):
        yield os.path.abspath(folder)  # datasets does not know "."
        return
    with tempfile.TemporaryDirectory() as links:
        for root, _, names in os.walk(folder):
            inside = os.path.join(links, os.path.relpath(root, folder))
            os.makedirs(inside, exist_ok=True)
            for name in names:
                os.symlink(os.path.realpath(os.path.join(root, name)), os.path.join(inside, name))
        yield links


def _as_declared(data: datasets.Dataset, features: datasets.Features, folder: str) -> datasets.Dataset:
    """The data with the types that the folder's card declares; an empty cell is no number."""

    def without_blanks(table: pa.Table) -> pa.Table:
        columns = {}
        for name in table.column_names:
            column = table.column(name)
            if pa.types.is_string(column.type) and features.get(name) != datasets.Value("string"):
                column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
            columns[name] = column
        return pa.table(columns)

    if data.features == features:
        return data
    try:
        formatted: Any = data.with_format("arrow").map(without_blanks, batched=True)
        return formatted.with_format(None).select_columns(list(features)).cast(features)
    except (ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise ValueError(f"The data in {folder} are not what its card declares them to be: {error}") from error
