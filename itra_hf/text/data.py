"""Data for `itra-hf train`: from files or the Hub to tokenised splits whose labels the model understands."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.model_selection import train_test_split
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from .data_arguments import USUAL_LABELS, DataArguments
from .files import Reading, read_files
from .labels import SHOWN, check_complete, class_names, encode, infer_problem, look_alike, quoted, read_labels
from .metrics import ProblemType
from .named_data import load_named

logger = logging.get_logger(__name__)

ROW = "__row__"  # a column of the test split: the row of its file, from 0
LONGEST = 2**31 - 1  # tokenizers count no further
SPLIT_NAMES = {"train": "training"}  # in messages


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
        ValueError: a file of another kind or that can't be read, or a split that the data set doesn't have.
    """
    files = {"train": args.train_file, "validation": args.validation_file, "test": args.test_file}
    used = (*args.text_choices, args.label_choices)
    classes = args.asked_problem not in (None, "regression")
    reading = Reading(args.csv_delimiter, args.file_encoding, used, args.label_choices if classes else ())
    splits = {name: read_files([path], reading, cache_dir) for name, path in files.items() if path is not None}
    if args.dataset_name is None:
        return datasets.DatasetDict(splits)
    found = load_named(args.dataset_name, args.dataset_config_name, reading, cache_dir, token)
    for name in ("train", "validation", "test"):
        asked = getattr(args, f"{name}_split_name")
        if asked is not None and asked not in found:
            raise ValueError(f"{args.dataset_name} has no split {asked!r}; it has: {', '.join(found)}.")
        if name not in splits and (asked or name) in found:
            splits[name] = found[asked or name]
    return datasets.DatasetDict(splits)


def infer_task(args: DataArguments, train: datasets.Dataset) -> Task:
    """Finds the columns, the kind of labels and their names in the training data, and logs what was inferred.

    Labels are class ids or names (one an example), lists of them or delimited cells (several an example), or
    numbers (regression).

    Raises:
        ValueError: a column that is not there; the message lists those that are. Or labels that teach nothing, or
            that are not what `problem_type` says.
    """
    label_column = _find_column(train, "train", args.label_choices, "label_column_name")
    texts = [_find_column(train, "train", names, "text_column_names") for names in args.text_choices]
    if reserved := {"labels", ROW} & {*texts}:
        raise ValueError(f"A text column can't be called {reserved.pop()!r}; rename it.")
    if label_column in texts:
        raise ValueError(f"Column {label_column!r} can't be both text and label; set label_column_name to another.")
    if not len(train):
        raise ValueError("The training data has no rows.")
    labels = read_labels(train, "training", label_column, args.label_delimiter)
    problem_type = infer_problem(labels, train.info.builder_name == "csv", args.asked_problem)
    check_complete(labels, problem_type)
    if problem_type == "regression":
        names, found = ["LABEL_0"], "numbers to predict"
    else:
        names = class_names(labels)
        found = f"{len(names)} classes, {quoted(names)}"
        for group in look_alike(names)[:SHOWN]:
            logger.warning(f"Column {label_column!r} has {quoted(group)}, which look alike and are different classes.")
    if problem_type != "regression" and len(names) < 2:
        raise ValueError(f"Column {label_column!r} of the training data holds one label only: {names}.")
    if args.asked_problem is None:
        logger.warning(f"Column {label_column!r} is taken as {problem_type}: {found}. If it isn't, set problem_type.")
    return Task(problem_type, names, texts, label_column)


def _find_column(data: datasets.Dataset, split: str, names: Sequence[str], setting: str = "") -> str:
    """The first of these columns that is there."""
    found, advice = data.column_names, ""
    for name in names:
        if name in found:
            return name
    if setting:
        several = len(found) == 1 and any(mark in found[0] for mark in ";\t|,")
        advice = f" Set {setting}{', or csv_delimiter if these are several columns' if several else ''}."
    raise ValueError(
        f"The {SPLIT_NAMES.get(split, split)} data has no column {' or '.join(map(repr, names))}; it has: "
        f"{', '.join(map(repr, found))}.{advice}"
    )


def encode_labels(data: datasets.Dataset, split: str, task: Task, args: DataArguments) -> datasets.Dataset:
    """Adds a column `labels` of class ids, multi-hot floats or floats, unless the split has no labels.

    Args:
        data: one split.
        split: its name, for messages.
        task: as inferred from the training data.
        args: says how cells hold several labels.

    Raises:
        ValueError: a label that the training data does not have, or a missing one; or text columns that aren't there
            or hold no strings.
    """
    said = SPLIT_NAMES.get(split, split)
    _check_texts(data, said, task)
    if task.label_column not in data.column_names:
        if split == "test":
            return _without_labels(data, task, args)
        _find_column(data, split, [task.label_column])
    labels = read_labels(data, said, task.label_column, args.label_delimiter)
    nothing = labels.in_cells and not len(labels.codes)
    if split == "test" and (nothing or (labels.missing | labels.not_a_number).all()):
        return data.remove_columns([name for name in data.column_names if name in (task.label_column, "labels")])
    several = task.problem_type == "multi_label_classification"
    if several != (labels.lengths is not None):
        has = "one label a text" if several else "several labels a text"
        raise ValueError(f"Column {task.label_column!r} of the {said} data has {has}, unlike the training data.")
    check_complete(labels, task.problem_type)
    encoded = encode(labels, task.problem_type, task.label_names)
    if "labels" in data.column_names:
        data = data.remove_columns("labels")
    kind = datasets.Value("int64" if task.problem_type == "single_label_classification" else "float32")
    return data.add_column("labels", encoded, feature=datasets.Sequence(kind) if several else kind)


def _without_labels(data: datasets.Dataset, task: Task, args: DataArguments) -> datasets.Dataset:
    """A test split that has no label column, without what else could be taken for encoded labels.

    Raises:
        ValueError: it has a column that is probably the label column by another name.
    """
    names = {task.label_column, *(USUAL_LABELS if args.label_column_name is None else ())}
    for name in data.column_names:
        if name not in task.text_columns and name.casefold() in map(str.casefold, names):
            raise ValueError(
                f"The test data has no column {task.label_column!r}, which the training data has, but one called "
                f"{name!r}. If that has the labels, give it the same name in both; if not, take it out."
            )
    return data.remove_columns([name for name in data.column_names if name == "labels"])


def _check_texts(data: datasets.Dataset, split: str, task: Task) -> None:
    if not len(data):
        raise ValueError(f"The {split} data has no rows.")
    for name in task.text_columns:
        _find_column(data, split, [name])
        found = data.data.schema.field(name).type
        strings = (pa.types.is_string(found), pa.types.is_large_string(found), pa.types.is_null(found))
        if not any(strings) or isinstance(data.features[name], datasets.ClassLabel):
            raise ValueError(f"Column {name!r} of the {split} data holds {found}, where texts must be strings.")
    texts = data.data.column(task.text_columns[0])  # the second text of a pair may be missing
    texts = texts.cast(pa.string()) if pa.types.is_null(texts.type) else texts
    missing = pc.equal(pc.utf8_trim_whitespace(texts), "").fill_null(True).to_numpy()
    if missing.all():
        raise ValueError(f"Column {task.text_columns[0]!r} of the {split} data has no text in any row.")
    if missing.any():
        logger.warning(
            f"Column {task.text_columns[0]!r} of the {split} data has no text in {missing.sum()} of {len(data)} rows, "
            f"first in row {missing.argmax() + 1}; they are taken as empty texts."
        )


def cut_validation(train: datasets.Dataset, task: Task, fraction: float, seed: int) -> datasets.DatasetDict:
    """Cuts a validation split off the training data.

    Each class is cut in proportion, and the only example of one stays in the training data. Where there are too few
    examples for that, the cut is at random, and the log names the classes that training is left without.

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
    if task.problem_type == "single_label_classification":
        lost = sorted({*labels[right]} - {*labels[parts["train"]]})
        if lost:
            names = quoted([task.label_names[each] for each in lost])
            logger.warning(f"All examples of {names} are held out, so they are not learnt; give a validation file.")
    return datasets.DatasetDict({name: train.select(part) for name, part in parts.items()})


def subset(data: datasets.Dataset, size: int | None, seed: int) -> datasets.Dataset:
    """A random subset of at most `size` examples; all of them where `size` is `None`."""
    if size is None or size >= len(data):
        return data
    return data.shuffle(seed=seed).select(range(size))


def tokenize(
    data: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, task: Task, max_length: int, processes: int | None
) -> datasets.Dataset:
    """Turns the text columns into model inputs, unpadded; keeps `labels` and the rows of the file, drops the rest.

    A text that is no token, of a tokenizer that adds none of its own, becomes one of padding, which is attended to.

    Raises:
        ValueError: nothing of a text would be left.
    """
    special = tokenizer.num_special_tokens_to_add(pair=len(task.text_columns) == 2)
    if max_length <= special:
        raise ValueError(
            f"max_seq_length={max_length} leaves no room for text, for the tokenizer adds {special} tokens of its own; "
            f"set it to {special + 1} or more."
        )

    def convert(batch: dict[str, list[Any]]) -> dict[str, Any]:
        texts = [["" if text is None else text for text in batch[name]] for name in task.text_columns]
        inputs = dict(tokenizer(*texts, truncation=True, max_length=min(max_length, LONGEST)))
        for row in (row for row, ids in enumerate(inputs.get("input_ids", ())) if not ids):
            for name, values in inputs.items():
                values[row] = [{"input_ids": tokenizer.pad_token_id, "attention_mask": 1}.get(name, 0)]
        return inputs

    dropped = [name for name in data.column_names if name not in ("labels", ROW)]
    return data.map(convert, batched=True, remove_columns=dropped, num_proc=processes, desc="Tokenizing")
