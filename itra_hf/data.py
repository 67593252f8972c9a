"""Data for `itra-hf train`: from files or the Hub to tokenised splits whose labels the model understands."""

import math
import os
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
from sklearn.model_selection import train_test_split
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from .metrics import ProblemType

logger = logging.get_logger(__name__)

READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", {"keep_default_na": False}),
    ".tsv": ("csv", {"keep_default_na": False, "sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
}


def _field(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class DataArguments:
    """Which data to train on, named as in the text-classification example of transformers.

    Raises:
        ValueError: neither a data set nor a training file, or a value out of range.
    """

    dataset_name: str | None = _field("A data set on the Hub, or a folder that datasets.load_dataset reads.")
    dataset_config_name: str | None = _field("The configuration of that data set.")
    train_split_name: str = _field("The data set's split to train on.", "train")
    validation_split_name: str | None = _field("The data set's split to evaluate on; default: 'validation', if any.")
    test_split_name: str | None = _field("The data set's split to test on; default: 'test', if any.")
    train_file: str | None = _field("A CSV, TSV, JSON, JSONL or Parquet file to train on.")
    validation_file: str | None = _field("A file to evaluate on, of any of these kinds; TSV is quoted as CSV is.")
    test_file: str | None = _field("A file to test on, of any of these kinds; its labels may be missing.")
    text_column_names: str | None = _field(
        "The text column, or two joined by a comma for text pairs; default: 'text' or 'sentence'."
    )
    label_column_name: str | None = _field("The label column; default: 'label' or 'labels'.")
    label_delimiter: str | None = _field("Splits a cell into several labels, for multi-label CSV and TSV files.")
    do_regression: bool = _field("Take integer labels as numbers to predict; float labels always are.", False)
    validation_fraction: float = _field("Part of the training data cut off for evaluation where none is given.", 0.1)
    max_seq_length: int = _field("Longer texts are cut to this many tokens.", 128)
    max_train_samples: int | None = _field("Train on a random subset of this size.")
    max_eval_samples: int | None = _field("Evaluate on a random subset of this size.")
    max_predict_samples: int | None = _field("Test on a random subset of this size.")
    preprocessing_num_workers: int | None = _field("Processes that tokenise.")

    def __post_init__(self) -> None:
        """Checks what can be checked before data is read."""
        if (self.dataset_name is None) == (self.train_file is None):
            raise ValueError("Give either dataset_name or train_file.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction={self.validation_fraction!r} must be between 0 and 1.")
        for name in ("max_seq_length", "max_train_samples", "max_eval_samples", "max_predict_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value!r} must be at least 1.")
        if self.label_delimiter == "":
            raise ValueError("label_delimiter='' must be a character or more; leave it out for one label a text.")
        columns = self.text_columns
        if len(columns) > 2 or "" in columns:
            raise ValueError(f"text_column_names={self.text_column_names!r} must be one column or two, like 'a,b'.")

    @property
    def text_columns(self) -> list[str]:
        """The text columns that were named."""
        return [] if self.text_column_names is None else [n.strip() for n in self.text_column_names.split(",")]

    @property
    def most_samples(self) -> dict[str, int | None]:
        """The largest size of each split, by its name; `None` for all of it."""
        return {
            "train": self.max_train_samples,
            "validation": self.max_eval_samples,
            "test": self.max_predict_samples,
        }


@dataclass
class Task:
    """What there is to learn.

    Attributes:
        problem_type: as in a model's config.
        label_names: the class names, by id; one dummy name for regression.
        text_columns: one or two.
        label_column: its name.
    """

    problem_type: ProblemType
    label_names: list[str]
    text_columns: list[str]
    label_column: str


def load_splits(args: DataArguments, cache_dir: str | None = None, token: str | None = None) -> datasets.DatasetDict:
    """Reads the splits `train`, `validation` and `test`, as far as they are given.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file of another kind, or a split that the data set doesn't have.
    """
    files = {"train": args.train_file, "validation": args.validation_file, "test": args.test_file}
    splits = {name: _read_file(path, cache_dir) for name, path in files.items() if path is not None}
    if args.dataset_name is None:
        return datasets.DatasetDict(splits)
    hub = datasets.load_dataset(args.dataset_name, args.dataset_config_name, cache_dir=cache_dir, token=token)
    for name in ("train", "validation", "test"):
        asked = getattr(args, f"{name}_split_name")
        if asked is not None and asked not in hub:
            raise ValueError(f"{args.dataset_name} has no split {asked!r}; it has: {', '.join(hub)}.")
        if name not in splits and (asked or name) in hub:
            splits[name] = hub[asked or name]
    return datasets.DatasetDict(splits)


def _read_file(path: str, cache_dir: str | None) -> datasets.Dataset:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path!r} (looked in {os.getcwd()}).")
    ending = os.path.splitext(path)[1].lower()
    if ending not in READERS:
        raise ValueError(f"{path!r} ends in {ending!r}, not in one of {', '.join(READERS)}.")
    reader, options = READERS[ending]
    return datasets.load_dataset(reader, data_files=path, split="train", cache_dir=cache_dir, **options)


def infer_task(args: DataArguments, train: datasets.Dataset) -> Task:
    """Finds the columns, the kind of labels and their names in the training data.

    Labels are class ids or names (one an example), lists of them or delimited cells (several an example), or
    floats (regression).

    Raises:
        ValueError: a column that is not there; the message lists those that are.
    """
    label_column = _find_column(train, [args.label_column_name], ["label", "labels"], "label_column_name")
    asked: list[str | None] = [*args.text_columns] or [None]
    texts = [_find_column(train, [name], ["text", "sentence"], "text_column_names") for name in asked]
    feature = train.features[label_column]
    values = _read_labels(train, "training", label_column, args)
    if not values:
        raise ValueError("The training data has no rows.")
    if args.do_regression or isinstance(values[0], float):
        return Task("regression", ["LABEL_0"], texts, label_column)
    several = isinstance(values[0], list)
    seen = {label for value in values for label in value} if several else set(values)
    names = _class_label_names(feature) or [str(label) for label in _in_order(seen)]
    if len(names) < 2:
        raise ValueError(f"Column {label_column!r} of the training data holds one label only: {names}.")
    return Task("multi_label_classification" if several else "single_label_classification", names, texts, label_column)


def _find_column(data: datasets.Dataset, asked: list[str | None], usual: list[str], setting: str) -> str:
    names = [name for name in asked if name is not None] or usual
    for name in names:
        if name in data.column_names:
            return name
    raise ValueError(
        f"The training data has no column {' or '.join(map(repr, names))}; it has: {', '.join(data.column_names)}. Set "
        f"{setting}."
    )


def _read_labels(data: datasets.Dataset, split: str, column: str, args: DataArguments) -> list[Any]:
    """The label column, with cells of several labels split.

    Raises:
        ValueError: a row without a label, or lists that are no lists of label names or ids.
    """
    values = data[column][:]
    if args.label_delimiter is not None:
        if any(isinstance(value, list) for value in values):
            raise ValueError(f"Column {column!r} holds lists already; label_delimiter is for text cells.")
        return [_split_cell(value, args.label_delimiter) for value in values]
    missing = _missing_rows(data, column)
    if missing:
        raise ValueError(f"Row {missing[0] + 1} of the {split} data has no label in column {column!r}.")
    for value in values:
        if isinstance(value, list) and (
            len(set(value)) < len(value) or any(item is None or isinstance(item, float) for item in value)
        ):
            raise ValueError(
                f"Column {column!r} of the {split} data holds {value}; several labels a text are lists of different "
                "label names or ids, not 0/1 vectors."
            )
    return values


def _missing_rows(data: datasets.Dataset, column: str) -> list[int]:
    """Rows without a label: null, an empty cell, or the Hub's -1 for hidden class labels."""
    hidden = _class_label_names(data.features[column]) is not None
    return [
        row for row, value in enumerate(data[column][:]) if value is None or value == "" or (hidden and value == -1)
    ]


def _split_cell(cell: Any, delimiter: str) -> list[str]:
    return [] if cell is None else [part.strip() for part in str(cell).split(delimiter) if part.strip()]


def _class_label_names(feature: Any) -> list[str] | None:
    inner = getattr(feature, "feature", feature)
    return list(inner.names) if isinstance(inner, datasets.ClassLabel) else None


def _in_order(labels: set[Any]) -> list[Any]:
    numbers = all(isinstance(label, int) for label in labels)
    return sorted(labels) if numbers else sorted(map(str, labels))


def encode_labels(data: datasets.Dataset, split: str, task: Task, args: DataArguments) -> datasets.Dataset:
    """Adds a column `labels` of class ids, multi-hot floats or floats, unless the split has no labels.

    Args:
        data: one split.
        split: its name, for messages.
        task: as inferred from the training data.
        args: says how cells hold several labels.

    Raises:
        ValueError: a label that the training data does not have, or a missing one.
    """
    may_miss = split == "test" and task.label_column in data.column_names and args.label_delimiter is None
    if may_miss and len(_missing_rows(data, task.label_column)) == len(data):
        data = data.remove_columns(task.label_column)
    if task.label_column not in data.column_names:
        if split == "test":
            return data
        raise ValueError(
            f"The {split} data has no column {task.label_column!r}; it has: {', '.join(data.column_names)}."
        )
    names = _class_label_names(data.features[task.label_column])
    ids = {name: index for index, name in enumerate(task.label_names)}

    def class_id(label: Any) -> int:
        name = names[label] if names is not None and isinstance(label, int) else str(label)
        if name not in ids:
            raise ValueError(
                f"The {split} data has the label {name!r}, which is not one of those known: "
                f"{', '.join(task.label_names)}."
            )
        return ids[name]

    def encode(value: Any) -> Any:
        if task.problem_type == "regression":
            return _to_float(value, split, task.label_column)
        if task.problem_type == "single_label_classification":
            return class_id(value)
        present = {class_id(label) for label in value}
        return [float(index in present) for index in range(len(ids))]

    encoded = [encode(value) for value in _read_labels(data, split, task.label_column, args)]
    if "labels" in data.column_names:
        data = data.remove_columns("labels")
    kind = datasets.Value("int64" if task.problem_type == "single_label_classification" else "float32")
    several = task.problem_type == "multi_label_classification"
    return data.add_column("labels", encoded, feature=datasets.Sequence(kind) if several else kind)


def _to_float(value: Any, split: str, column: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"Column {column!r} of the {split} data holds {value!r}, which is no number.") from None


def cut_validation(train: datasets.Dataset, task: Task, fraction: float, seed: int) -> datasets.DatasetDict:
    """Cuts a validation split off the training data, with each class in proportion where that is possible.

    Examples that are the only one of their class stay in the training data.

    Args:
        train: with encoded `labels`.
        task: what there is to learn.
        fraction: the part to cut off.
        seed: of the cut.

    Returns:
        The splits `train` and `validation`.

    Raises:
        ValueError: fewer than two examples.
    """
    rows, strata, kept = np.arange(len(train)), None, np.array([], dtype=int)
    how = "at random"
    if task.problem_type == "single_label_classification":
        labels = np.asarray(train["labels"][:])
        counts = np.bincount(labels, minlength=len(task.label_names))
        single = counts[labels] < 2
        present = np.count_nonzero(counts > 1)
        size = math.ceil(len(rows[~single]) * fraction)  # as scikit-learn rounds
        if present and present <= size <= len(rows[~single]) - present:
            rows, kept = rows[~single], rows[single]
            strata, how = labels[rows], "stratified by class"
    if len(rows) < 2:
        raise ValueError("The training data is too small to cut a validation split off; give a validation file.")
    left, right = train_test_split(rows, test_size=fraction, random_state=seed, stratify=strata)
    logger.warning(
        f"No validation data given: {len(right)} of {len(train)} training examples are held out for it, {how}."
    )
    parts = {"train": np.sort(np.concatenate([left, kept])), "validation": np.sort(right)}
    return datasets.DatasetDict({name: train.select(part) for name, part in parts.items()})


def subset(data: datasets.Dataset, size: int | None, seed: int) -> datasets.Dataset:
    """A random subset of at most `size` examples; all of them where `size` is `None`."""
    if size is None or size >= len(data):
        return data
    return data.shuffle(seed=seed).select(range(size))


def tokenize(
    data: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, task: Task, max_length: int, processes: int | None
) -> datasets.Dataset:
    """Turns the text columns into model inputs, unpadded; keeps `labels` and drops the rest.

    Raises:
        ValueError: a text column that this split doesn't have.
    """
    for name in task.text_columns:
        if name not in data.column_names:
            raise ValueError(f"There is no column {name!r}; there are: {', '.join(data.column_names)}.")

    def convert(batch: dict[str, list[Any]]) -> dict[str, Any]:
        texts = [["" if text is None else str(text) for text in batch[name]] for name in task.text_columns]
        return dict(tokenizer(*texts, truncation=True, max_length=max_length))

    dropped = [name for name in data.column_names if name != "labels"]
    return data.map(convert, batched=True, remove_columns=dropped, num_proc=processes, desc="Tokenizing")
