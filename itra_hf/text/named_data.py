"""Data sets by name: a folder, whose splits and files the datasets library finds, or one on the Hub."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets.exceptions import DatasetGenerationError

from .data_arguments import check_encoding, checked_delimiter
from .files import KINDS, Reading, read_files

HONOURED = {"name", "version", "data_files", "data_dir", "description", "features", "sep", "delimiter", "encoding"}
# These change nothing where cells are their characters.
HONOURED |= {"keep_default_na", "na_filter", "low_memory", "engine", "memory_map", "chunksize", "batch_size"}


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
    found = _find_files(name, config, reading) if os.path.isdir(name) else None
    if found is None:
        try:
            return datasets.load_dataset(name, config, cache_dir=cache_dir, token=token)
        except DatasetGenerationError as error:
            raise ValueError(f"{name} can't be read: {error.__cause__ or error}") from error
    builder, files, reading = found
    splits = {split: read_files(paths, reading, cache_dir, builder.name, split) for split, paths in files.items()}
    if (declared := builder.info.features) is not None:
        splits = {split: _as_declared(data, declared, name) for split, data in splits.items()}
    return splits


def _find_files(
    folder: str, config: str | None, reading: Reading
) -> tuple[datasets.DatasetBuilder, dict[str, list[str]], Reading] | None:
    """Datasets' builder of a folder, the files of each split, and how they are read; `None` for files of other kinds.

    Raises:
        ValueError: they are packed, or the folder's card has them read with options that are not honoured.
    """
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as links:
        # Links, for datasets would take the folder's path for a pattern; an empty cache, else what an earlier run made
        # of the files would count as declared.
        base = os.path.join(os.path.realpath(links), "data")
        shutil.copytree(os.path.abspath(folder), base, copy_function=os.symlink)
        builder = datasets.load_dataset_builder(base, config, cache_dir=cache)
        files = {
            str(split): [os.path.join(folder, os.path.relpath(path, base)) for path in paths]
            for split, paths in (builder.config.data_files or {}).items()
        }
    if builder.name not in KINDS.values():
        return None
    usual = type(builder.config)()
    options = {name: value for name, value in vars(builder.config).items() if value != getattr(usual, name, None)}
    paths = [*chain.from_iterable(files.values())]
    _check_honoured(folder, options, paths)
    if (delimiter := options.get("sep")) is not None and reading.delimiter is None:
        delimiter = checked_delimiter(delimiter, f"In the card of {folder}, sep")
        if not (delimiter == "\t" and any(path.lower().endswith(".tsv") for path in paths)):  # which says it itself
            reading = reading._replace(delimiter=delimiter)
    if (encoding := options.get("encoding")) is not None:
        check_encoding(encoding, f"In the card of {folder}, encoding")
        reading = reading._replace(encoding=encoding)
    return builder, files, reading


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


def _as_declared(data: datasets.Dataset, features: datasets.Features, folder: str) -> datasets.Dataset:
    """The data with the types that the folder's card declares; an empty cell is no number."""

    def without_blanks(table: pa.Table) -> pa.Table:
        for place, name in enumerate(table.column_names):
            column = table.column(name)
            if pa.types.is_string(column.type) and features.get(name) != datasets.Value("string"):
                column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
                table = table.set_column(place, name, column)
        return table

    if data.features == features:
        return data
    try:
        formatted: Any = data.with_format("arrow").map(without_blanks, batched=True)
        return formatted.with_format(None).select_columns(list(features)).cast(features)
    except (ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise ValueError(f"The data in {folder} are not what its card declares them to be: {error}") from error
