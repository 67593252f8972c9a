"""Reads CSV, TSV, JSON, JSON Lines and Parquet files by their content, into memory-mapped tables that runs share.

What is read is kept in the datasets cache under a digest of the files' content, of how they are read and of this code.
So neither a name nor a modification time decides what comes back.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from datasets.exceptions import DatasetGenerationError
from datasets.table import table_cast
from transformers.utils import logging

from . import decoding, delimited, json_files, plain_csv

logger = logging.get_logger(__name__)

KINDS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
NOTHING = datasets.Value("null")
PIECE = 1 << 20  # bytes that are hashed at one time


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
    paths: Sequence[str],
    reading: Reading,
    cache_dir: str | None = None,
    kind: str | None = None,
    split: str = "train",
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
    _check_exist(paths)
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


def _check_exist(paths: Sequence[str]) -> None:
    for path in paths:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"There is no file {path!r} (looked in {os.getcwd()}).")


def kind_of(path: str) -> str:
    """The kind of file by its name's ending.

    Raises:
        ValueError: none that is known.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending not in KINDS:
        raise ValueError(f"{path!r} ends in {ending!r}, not in one of {', '.join(KINDS)}.")
    return KINDS[ending]


class _Builder(datasets.ArrowBasedBuilder):
    """Keeps the table of some files in the datasets cache, under a digest of all that decides it."""

    def __init__(self, paths: Sequence[str], reading: Reading, kind: str, cache_dir: str | None, split: str) -> None:
        self.paths, self.reading, self.kind, self.split = paths, reading, kind, split
        self.digests = [digest(path) for path in paths]
        tab = [os.path.splitext(path)[1].lower() == ".tsv" for path in paths]
        key = json.dumps([_digest_of_code(), kind, split, tab, reading, self.digests])
        super().__init__(cache_dir, dataset_name="itra_hf", hash=hashlib.sha256(key.encode()).hexdigest()[:32])

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo()

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=self.split)]

    def _generate_tables(self) -> Iterator[tuple[int, pa.Table]]:
        warnings: list[str] = []
        tables = {"csv": _delimited, "json": _json, "parquet": _parquet}[self.kind]
        yield from enumerate(tables(self.paths, self.reading, warnings))
        if [digest(path) for path in self.paths] != self.digests:
            raise ValueError(f"{', '.join(self.paths)}: the content changed while it was read; start again.")
        # They are said whenever the rows are used, of the paths that are given then.
        self.info.description = json.dumps([_without_path(warning, self.paths) for warning in warnings])


def _without_path(warning: str, paths: Sequence[str]) -> tuple[int, str]:
    """The place of the path with which a warning begins, and the rest."""
    number = next(number for number, path in enumerate(paths) if warning.startswith((f"{path},", f"{path}:")))
    return number, warning.removeprefix(paths[number])


def digest(path: str) -> str:
    """A hash of a file's content, 128 bits in hex."""
    found = xxhash.xxh3_128()  # it takes a tenth of the time of SHA-256, and nobody forges files here
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            found.update(piece)
    return found.hexdigest()


@cache
def _digest_of_code() -> str:
    modules = (decoding.__file__, delimited.__file__, json_files.__file__, plain_csv.__file__, __file__)
    return hashlib.sha256(b"".join(Path(name).read_bytes() for name in modules)).hexdigest()


def _delimited(paths: Sequence[str], reading: Reading, warnings: list[str]) -> Iterator[pa.Table]:
    names: list[str] | None = None
    for path in paths:
        tab = os.path.splitext(path)[1].lower() == ".tsv"
        file = delimited.DelimitedFile(path, reading.delimiter or ("\t" if tab else ","), reading.encoding)
        names = names or file.names
        if sorted(file.names) != sorted(names):
            raise ValueError(
                f"{path} has the columns {', '.join(map(repr, file.names))}, and {paths[0]}, which is of the same "
                f"split, {', '.join(map(repr, names))}."
            )
        for table in file.tables():
            yield table.select(names)
        warnings += file.warnings


def _json(paths: Sequence[str], reading: Reading, warnings: list[str]) -> Iterator[pa.Table]:
    read = json_files.JSONTable(reading.encoding, reading.as_written)
    for path in paths:
        read.read(path)
    table = read.table()
    if not table.num_columns:
        raise ValueError(f"{', '.join(paths)}: there are no rows.")
    _check_used(table.column_names, reading.used, read.problems)
    yield table


def _parquet(paths: Sequence[str], reading: Reading, warnings: list[str]) -> Iterator[pa.Table]:
    features, problems = _parquet_features(paths[0])
    for path in paths[1:]:
        others, their_problems = _parquet_features(path)
        problems = {**_differences(paths[0], features, path, others), **their_problems, **problems}
        features = {**features, **others, **{name: each for name, each in features.items() if each != NOTHING}}
    _check_used([*features, *problems], reading.used, problems)
    warnings += [f"{problem}; it is left out" for problem in problems.values()]
    kept = datasets.Features({name: each for name, each in features.items() if name not in problems})
    for path in paths:
        with _open_parquet(path) as file:
            yield kept.arrow_schema.empty_table()
            for batch in file.iter_batches():
                yield table_cast(_decoded(batch, list(kept)), kept.arrow_schema)


@contextmanager
def _open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, KeyError, datasets.table.CastError) as error:
        raise ValueError(f"{path} can't be read as Parquet: {error}") from error


def _differences(first: str, features: Mapping[str, Any], path: str, others: Mapping[str, Any]) -> dict[str, str]:
    """For each column that isn't in two files of a split with one type: what its types are; nothing but null is any."""
    problems = {}
    for name in {**features, **others}:
        types = [each.get(name, "nothing") for each in (features, others)]
        if types[0] != types[1] and NOTHING not in types:
            problems[name] = f"{path}: column {name!r} has {types[1]}, and in {first}, of the same split, {types[0]}"
    return problems


def _parquet_features(path: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The columns that datasets has a type for, as its own metadata say if they are there, and why not the others."""
    with _open_parquet(path) as file:
        schema = file.schema_arrow
    features: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, field in zip(delimited.distinct_names(schema.names), schema, strict=True):
        try:
            plain = pa.schema([(name, _plain(field.type))], schema.metadata)
            features |= datasets.Features.from_arrow_schema(plain)
        except (ValueError, TypeError, NotImplementedError, KeyError):
            problems[name] = f"{path}: column {name!r} has {field.type}"
    return features, problems


def _decoded(batch: pa.RecordBatch, names: Sequence[str]) -> pa.Table:
    """The columns of these names, as plain types."""
    found = dict(zip(delimited.distinct_names(batch.schema.names), batch.columns, strict=True))
    return pa.table({name: found[name].cast(_plain(found[name].type)) for name in names})


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


def _check_used(names: Sequence[str], groups: Sequence[Sequence[str]], problems: dict[str, str]) -> None:
    """Raises a `ValueError` for a column that is used and has a problem."""
    for group in groups:
        used = next((name for name in group if name in names), None)
        if used in problems:
            raise ValueError(
                f"{problems[used]}. Texts must be strings, and labels strings, numbers or lists of them, all of one "
                "kind."
            )
