"""Label columns: what kind of labels they hold, what the classes are called, and what a model learns of them."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .metrics import ProblemType

INTEGER = re.compile(r"0|-?[1-9][0-9]*")
NUMBER = re.compile(r"\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", re.ASCII)
MARKER = re.compile(r"\s*(|[+-]?nan|<?na>?|#?n/a|nat|null|none|[+-]?inf(inity)?)\s*", re.IGNORECASE)
VECTORS = ({"0", "1"}, {"0.0", "1.0"}, {"true", "false"})
SHOWN = 20  # class names in a message


@dataclass
class Labels:
    """The label column of a split.

    Attributes:
        split: as messages call it.
        column: its name.
        values: its different values, each once, as Python has them.
        names: their class names; of floats and decimals, the digits.
        codes: `[m]` the place of each label in `values`, -1 where it is missing.
        lengths: `[n]` how many labels each row has, for columns of several; `None`: one a row, and m = n.
        missing: `[n]` whether the row has no label at all: null or an empty cell, or the Hub's -1 for hidden ones.
        declared: the names in the order that the data set declares, if it does.
        in_cells: whether several labels stood in one cell.
    """

    split: str
    column: str
    values: list[Any]
    names: list[str]
    codes: np.ndarray
    lengths: np.ndarray | None
    missing: np.ndarray
    declared: list[str] | None
    in_cells: bool = False

    @property
    def rows(self) -> np.ndarray:
        """`[m]` the row of each label, from 0."""
        lengths = np.ones(len(self.codes), dtype=np.int64) if self.lengths is None else self.lengths
        return np.repeat(np.arange(len(lengths)), lengths)

    @property
    def not_a_number(self) -> np.ndarray:
        """`[n]` whether the row's one label is NaN."""
        found = np.isin(self.codes, [code for code, value in enumerate(self.values) if value != value])
        return found if self.lengths is None else np.zeros(len(self.lengths), dtype=bool)

    def first(self, codes: Sequence[int]) -> tuple[str, int]:
        """The first row with one of these values, in words and counted from 1, and which value it is."""
        place = int(np.isin(self.codes, codes).argmax())
        return f"Row {self.rows[place] + 1} of the {self.split} data", int(self.codes[place])


def read_labels(data: datasets.Dataset, split: str, column: str, delimiter: str | None) -> Labels:
    """Reads a label column.

    Args:
        data: a split that has it.
        split: the split's name, for messages.
        column: its name.
        delimiter: splits a cell into several labels; `None`: a cell is one.

    Raises:
        ValueError: labels that are no strings, numbers, booleans or lists of these, or that are 0/1 vectors.
    """
    array = data.select_columns([column]).with_format("arrow")[:].column(column).combine_chunks()
    missing, lengths = array.is_null().to_numpy(zero_copy_only=False), None
    where = f"Column {column!r} of the {split} data"
    types = pa.types
    if types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type):
        if delimiter is not None:
            raise ValueError(f"{where} holds lists already; label_delimiter is for text cells.")
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy().astype(np.int64)
        array = array.flatten()
    _check_type(array.type, where, lengths is not None)
    codes, values, names = _distinct(array)
    if delimiter is not None:
        return _split_cells(Labels(split, column, values, names, codes, None, missing, None), delimiter)
    feature: Any = getattr(data.features[column], "feature", data.features[column])
    declared = list(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    if declared is not None:
        codes = np.where(np.isin(codes, [place for place, value in enumerate(values) if value == -1]), -1, codes)
        names = [declared[value] if 0 <= value < len(declared) else str(value) for value in values]
    if lengths is None:
        if "" in values:
            codes = np.where(codes == values.index(""), -1, codes)
        missing = codes < 0
    labels = Labels(split, column, values, names, codes, lengths, missing, declared)
    if lengths is not None:
        _check_lists(labels)
    return labels


def _check_type(arrow_type: pa.DataType, where: str, several: bool) -> None:
    types = pa.types
    if types.is_floating(arrow_type) or types.is_boolean(arrow_type):
        if several:
            raise ValueError(_no_vectors(where, f"lists of {arrow_type}"))
        return
    known = (types.is_string, types.is_large_string, types.is_integer, types.is_decimal, types.is_null)
    if not any(check(arrow_type) for check in known):
        raise ValueError(
            f"{where} holds {'lists of ' * several}{arrow_type}; labels are strings, numbers, booleans, or lists of "
            "label names or ids."
        )


def _no_vectors(where: str, what: str) -> str:
    return f"{where} holds {what}; several labels a text are lists of different label names or ids, not 0/1 vectors."


def _distinct(array: pa.Array) -> tuple[np.ndarray, list[Any], list[str]]:
    """The place of each value among the different ones, -1 for null; these; and their names."""
    if pa.types.is_null(array.type):
        return np.full(len(array), -1), [], []
    encoded = array.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    values = encoded.dictionary.to_pylist()
    if pa.types.is_floating(array.type):  # numpy's numbers know their precision, so that float32 has no digits too many
        return codes, values, [str(value) for value in encoded.dictionary.to_numpy(zero_copy_only=False)]
    return codes, values, [str(value) for value in values]


def _split_cells(cells: Labels, delimiter: str) -> Labels:
    parts = [[part.strip() for part in name.split(delimiter) if part.strip()] for name in cells.names]
    names = list(dict.fromkeys(part for each in parts for part in each))
    place = {name: number for number, name in enumerate(names)}
    rows = [parts[code] if code >= 0 else [] for code in cells.codes]
    codes = np.array([place[part] for row in rows for part in row], dtype=np.int64)
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    nothing = np.zeros(len(rows), dtype=bool)  # an empty cell is a row to which no label applies
    return Labels(cells.split, cells.column, [*names], names, codes, lengths, nothing, None, in_cells=True)


def _check_lists(labels: Labels) -> None:
    keys = labels.rows * (len(labels.values) + 1) + labels.codes
    found, counts = np.unique(keys, return_counts=True)
    odd = np.concatenate([labels.rows[labels.codes < 0], found[counts > 1] // (len(labels.values) + 1)])
    if len(odd):
        where = f"Row {odd.min() + 1} of the {labels.split} data, in column {labels.column!r},"
        raise ValueError(_no_vectors(where, "a list with a label twice or with an empty one"))


def _check_no_vectors(labels: Labels) -> None:
    """Lists that all have one length and hold nothing but 0 and 1 name the same classes in every row."""
    assert labels.lengths is not None
    lengths = set(labels.lengths.tolist()) - {0}
    if len(lengths) == 1 and max(lengths) > 1 and any({str(v).lower() for v in labels.values} <= v for v in VECTORS):
        example = ", ".join(str(labels.values[code]) for code in labels.codes[: max(lengths)])
        where = f"Column {labels.column!r} of the {labels.split} data"
        raise ValueError(_no_vectors(where, f"[{example}] and the like"))


def check_complete(labels: Labels, problem_type: ProblemType) -> None:
    """Checks that every row has a label; NaN is no class.

    Raises:
        ValueError: one has none.
    """
    missing = labels.missing if problem_type == "regression" else labels.missing | labels.not_a_number
    if missing.any():
        row = int(missing.argmax()) + 1
        raise ValueError(f"Row {row} of the {labels.split} data has no label in column {labels.column!r}.")


def infer_problem(labels: Labels, from_cells: bool, asked: ProblemType | None) -> ProblemType:
    """What kind of problem the labels pose.

    Several labels a row are a multi-label problem, floats regression, everything else classes. Cells of CSV and TSV
    files are regression if one has a decimal point or an exponent, and all are numbers or stand for a missing one.

    Args:
        labels: of the training data.
        from_cells: whether they are cells of a CSV or TSV file.
        asked: what the user says it is.

    Raises:
        ValueError: what is asked for doesn't go with the labels, or they are 0/1 vectors.
    """
    several = labels.lengths is not None
    if several:
        _check_no_vectors(labels)
    if asked is not None and several != (asked == "multi_label_classification"):
        has = "several labels a text" if several else "one label a text"
        way = " A list of labels is several, and so is a cell with label_delimiter." if not several else ""
        raise ValueError(f"problem_type={asked!r} does not go with column {labels.column!r}, which has {has}.{way}")
    if asked is not None:
        return asked
    if several:
        return "multi_label_classification"
    if from_cells:
        numbers = [name for name in labels.names if NUMBER.fullmatch(name)]
        decimal = any(set(name) & set(".eE") for name in numbers)
        if decimal and all(NUMBER.fullmatch(name) or MARKER.fullmatch(name) for name in labels.names):
            return "regression"
    return "regression" if any(isinstance(value, float) for value in labels.values) else "single_label_classification"


def class_names(labels: Labels) -> list[str]:
    """The class names by id: as declared, else in numeric order if all are plain integers, else in that of strings."""
    if labels.declared is not None:
        return labels.declared
    found = {labels.names[code] for code in np.unique(labels.codes[labels.codes >= 0])}
    return sorted(found, key=int) if all(map(INTEGER.fullmatch, found)) else sorted(found)


def quoted(names: Sequence[str]) -> str:
    """Class names in a message: the first of them, each in quotation marks."""
    shown = ", ".join(map(repr, names[:SHOWN]))
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def look_alike(names: Sequence[str]) -> list[list[str]]:
    """Class names that differ in case, white space, invisible characters or Unicode's ways to write a letter alone."""
    groups: dict[str, list[str]] = {}
    for name in names:
        plain = "".join(each for each in unicodedata.normalize("NFKC", name) if unicodedata.category(each) != "Cf")
        groups.setdefault(" ".join(plain.casefold().split()), []).append(name)
    return [each for each in groups.values() if len(each) > 1]


def encode(labels: Labels, problem_type: ProblemType, known: Sequence[str]) -> Any:
    """What a model learns.

    Args:
        labels: without a row that misses its label.
        problem_type: as in a model's config.
        known: the class names by id.

    Returns:
        Class ids, int64 `[n]`; numbers, float32 `[n]`; or for each row of several labels a list of 0.0 and 1.0 by id.

    Raises:
        ValueError: a label that is not known, or that is no number.
    """
    if problem_type == "regression":
        return _numbers(labels)[labels.codes]
    ids = {name: number for number, name in enumerate(known)}
    unknown = [code for code in np.unique(labels.codes) if labels.names[code] not in ids]
    if unknown:
        row, code = labels.first(unknown)
        raise ValueError(
            f"{row} has the label {labels.names[code]!r}, which is not one of those known: {quoted(known)}."
        )
    by_code = np.array([ids.get(name, -1) for name in labels.names], dtype=np.int64)
    if labels.lengths is None:
        return by_code[labels.codes]
    hot = np.zeros((len(labels.lengths), len(known)), dtype=np.float32)
    hot[labels.rows, by_code[labels.codes]] = 1
    return pa.FixedSizeListArray.from_arrays(hot.reshape(-1), len(known)).cast(pa.list_(pa.float32()))


def _numbers(labels: Labels) -> np.ndarray:
    """The values as float32 numbers `[k]`."""
    found = np.full(len(labels.values), np.nan, dtype=np.float32)
    for code, value in enumerate(labels.values):
        if not isinstance(value, str) or NUMBER.fullmatch(value):
            with np.errstate(over="ignore"):
                found[code] = np.float32(float(value))
    bad = [code for code in np.unique(labels.codes) if not np.isfinite(found[code])]
    if bad:
        row, code = labels.first(bad)
        raise ValueError(
            f"{row} has {labels.values[code]!r} in column {labels.column!r}, which is no number that a model can "
            "learn. If the labels are classes, set problem_type to single_label_classification."
        )
    return found
