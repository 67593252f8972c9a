"""Reads CSV, TSV, JSON, JSON Lines and Parquet files by their content, into memory-mapped tables that runs share.

What is read is kept in the datasets cache under a digest of the files' content, of how they are read and of this code.
So neither a name nor a modification time decides what comes back.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
import xxhash
from datasets.exceptions import DatasetGenerationError
from transformers.utils import logging

from .delimited import DelimitedFile
from .json_files import read_json
from .parquet_files import parquet_features, parquet_tables

logger = logging.get_logger(__name__)

KINDS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
CODE = ("files", "decoding", "delimited", "plain_csv", "json_files", "parquet_files")  # which decides what is read
PIECE = 1 << 20  # bytes that are hashed at one time

Remark = tuple[int, str]  # the place of a file among those of a split, and what to say after its path


class Reading(NamedTuple):
    """How files are read.

    Attributes:
        delimiter: of CSV and TSV files; `None`: a tab where the name ends in .tsv, else a comma.
        encoding: of CSV, TSV and JSON files, which may begin with a byte order mark.
        used: of each of these groups of columns, the first that is there must hold texts or labels of one type.
        as_written: columns of JSON files whose numbers become strings of their characters.
    """

    delimiter: str | None = None
    encoding: str = "utf-8"
    used: tuple[tuple[str, ...], ...] = ()
    as_written: tuple[str, ...] = ()


def read_files(
    paths: Sequence[str], reading: Reading, cache_dir: str | None = None, kind: str | None = None, split: str = "train"
) -> datasets.Dataset:
    """Reads files of one kind, one after the other, as one table.

    CSV and TSV columns are strings. JSON strings, numbers, booleans and lists of them keep their type, other JSON
    becomes its text. Parquet columns keep theirs, but for categories, which are decoded.

    Args:
        paths: at least one.
        reading: how.
        cache_dir: of datasets; `None`: its default.
        kind: `csv`, `json` or `parquet`; `None`: by the first file's name.
        split: the name of the split that the files make up, memory-mapped.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file can't be read so; the message names it, and the row where that is known.
    """
    for path in paths:
        check_exists(path)
    try:
        builder = _Builder(paths, reading, kind or kind_of(paths[0]), cache_dir, split)
        builder.download_and_prepare()
    except OSError as error:
        if error.filename in paths:
            raise
        raise ValueError(
            f"What is read from {paths[0]} can't be kept in the datasets cache: {error}. Set cache_dir or the variable "
            "HF_DATASETS_CACHE to a folder that can be written."
        ) from error
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, (ValueError, OSError)):
            raise error.__cause__ from None
        raise
    info = builder.info
    for number, warning in json.loads(info.description or "[]"):
        logger.warning(f"{paths[number]}{warning}")
    info.builder_name, info.description = builder.kind, ""
    if info.splits[split].num_examples:
        return builder.as_dataset(split)
    return datasets.Dataset(info.features.arrow_schema.empty_table(), info, datasets.NamedSplit(split))


def check_exists(path: str) -> None:
    """Raises a `FileNotFoundError` that says where it was looked for, if there is no such file."""
    if os.path.isdir(path):
        raise FileNotFoundError(f"{path!r} is a folder; name one file in it, or the folder as dataset_name.")
    if not os.path.isfile(path):
        pattern = ", and patterns are not looked up" if any(mark in path for mark in "*?[") else ""
        raise FileNotFoundError(f"There is no file {path!r} (looked in {os.getcwd()}{pattern}).")


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def kind_of(path: str) -> str:
    """The kind of file by its name's ending.

    Raises:
        ValueError: none that is known.
    """
    ending = _ending(path)
    if ending not in KINDS:
        raise ValueError(f"{path!r} ends in {ending!r}, not in one of {', '.join(KINDS)}.")
    return KINDS[ending]


class _Builder(datasets.ArrowBasedBuilder):
    """Keeps the table of some files in the datasets cache, under a digest of all that decides it."""

    def __init__(self, paths: Sequence[str], reading: Reading, kind: str, cache_dir: str | None, split: str) -> None:
        self.paths, self.reading, self.kind, self.split = paths, reading, kind, split
        self.digests = [digest(path) for path in paths]
        tab = [_ending(path) == ".tsv" for path in paths]
        key = json.dumps([_digest_of_code(), kind, split, tab, reading, self.digests])
        super().__init__(cache_dir, dataset_name="itra_hf", hash=hashlib.sha256(key.encode()).hexdigest()[:32])

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo()

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=self.split)]

    def _generate_tables(self) -> Iterator[tuple[int, pa.Table]]:
        warnings: list[Remark] = []
        tables = {"csv": _delimited, "json": _json, "parquet": _parquet}[self.kind]
        yield from enumerate(tables(self.paths, self.reading, warnings))
        if [digest(path) for path in self.paths] != self.digests:
            raise ValueError(f"{', '.join(self.paths)}: the content changed while it was read; start again.")
        # They are said whenever the rows are used, of the paths that are given then.
        self.info.description = json.dumps(warnings)


def digest(path: str) -> str:
    """A hash of a file's content, 128 bits in hex."""
    found = xxhash.xxh3_128()  # it takes a tenth of the time of SHA-256, and nobody forges files here
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            found.update(piece)
    return found.hexdigest()


@cache
def _digest_of_code() -> str:
    return hashlib.sha256(b"".join(Path(__file__).with_stem(name).read_bytes() for name in CODE)).hexdigest()


def _delimited(paths: Sequence[str], reading: Reading, warnings: list[Remark]) -> Iterator[pa.Table]:
    names: list[str] | None = None
    for number, path in enumerate(paths):
        file = DelimitedFile(path, reading.delimiter or ("\t" if _ending(path) == ".tsv" else ","), reading.encoding)
        names = names or file.names
        if sorted(file.names) != sorted(names):
            raise ValueError(
                f"{path} has the columns {', '.join(map(repr, file.names))}, and {paths[0]}, which is of the same "
                f"split, {', '.join(map(repr, names))}."
            )
        for table in file.tables():
            yield table.select(names)
        warnings += [(number, warning) for warning in file.warnings]


def _json(paths: Sequence[str], reading: Reading, warnings: list[Remark]) -> Iterator[pa.Table]:
    table, problems = read_json(paths, reading.encoding, reading.as_written)
    if not table.num_columns:
        raise ValueError(f"{', '.join(paths)}: there are no rows.")
    _check_used(table.column_names, reading, problems, paths)
    yield table


def _parquet(paths: Sequence[str], reading: Reading, warnings: list[Remark]) -> Iterator[pa.Table]:
    features, problems = parquet_features(paths)
    _check_used([*features, *problems], reading, problems, paths)
    warnings += [(number, f"{what}; it is left out") for number, what in problems.values()]
    yield from parquet_tables(paths, features)


def _check_used(names: Sequence[str], reading: Reading, problems: dict[str, Remark], paths: Sequence[str]) -> None:
    """Raises a `ValueError` for a column that is used and has a problem."""
    for group in reading.used:
        used = next((name for name in group if name in names), "")
        if used in problems:
            number, what = problems[used]
            raise ValueError(
                f"{paths[number]}{what}. Texts must be strings, and labels strings, numbers or lists of them, all of "
                "one kind."
            )
