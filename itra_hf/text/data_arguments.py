"""Which data to train on, and how its files and labels are read: the fields of a configuration that say so."""

import os
from dataclasses import dataclass
from typing import Any, get_args

from ..config import setting
from .metrics import ProblemType

USUAL_TEXTS, USUAL_LABELS = ("text", "sentence"), ("label", "labels")


def checked_delimiter(delimiter: str, setting: str) -> str:
    """The delimiter of CSV files that a setting asks for; a backslash and a t stand for a tab.

    Raises:
        ValueError: it can be none.
    """
    if delimiter == "\\t":  # as it is easily written on a command line
        return "\t"
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ValueError(f"{setting}={delimiter!r} must be one character, neither a quotation mark nor a line end.")
    return delimiter


def check_encoding(encoding: str, setting: str) -> None:
    """Checks that a setting names an encoding of text.

    Raises:
        ValueError: it doesn't.
    """
    try:
        b"a".decode(encoding)
    except UnicodeError:  # one of several bytes a character
        pass
    except (LookupError, ValueError, TypeError):
        raise ValueError(f"{setting}={encoding!r} is no encoding of text; try utf-8, latin-1 or cp1252.") from None


def expand_paths(args: Any, *names: str) -> None:
    """Puts the home folder for `~` at the start of fields that may hold a path; YAML files have no shell to do it."""
    for name in names:
        value = getattr(args, name)
        if isinstance(value, str):
            setattr(args, name, os.path.expanduser(value))


@dataclass
class DataArguments:
    """Which data to train on, named as in the text-classification example of transformers.

    Raises:
        ValueError: neither a data set nor a training file, or a value out of range.
    """

    dataset_name: str | None = setting("A data set on the Hub, or a folder that datasets.load_dataset reads.")
    dataset_config_name: str | None = setting("The configuration of that data set.")
    train_split_name: str = setting("The data set's split to train on.", "train")
    validation_split_name: str | None = setting("The data set's split to evaluate on; default: 'validation', if any.")
    test_split_name: str | None = setting("The data set's split to test on; default: 'test', if any.")
    train_file: str | None = setting("A CSV, TSV, JSON, JSONL or Parquet file to train on; CSV cells are characters.")
    validation_file: str | None = setting("A file to evaluate on, of any of these kinds; TSV is quoted as CSV is.")
    test_file: str | None = setting("A file to test on, of any of these kinds; its labels may be missing.")
    text_column_names: str | None = setting(
        "The text column, or two joined by a comma for text pairs; default: 'text' or 'sentence'."
    )
    label_column_name: str | None = setting("The label column; default: 'label' or 'labels'.")
    label_delimiter: str | None = setting("Splits a cell into several labels, for multi-label CSV and TSV files.")
    csv_delimiter: str | None = setting("Between the cells of CSV and TSV files; default: a comma, in TSV a tab.")
    file_encoding: str = setting("Of CSV, TSV and JSON files, such as latin-1, cp1252 or utf-16.", "utf-8")
    problem_type: ProblemType | None = setting(
        "What the labels are: 'single_label_classification', 'multi_label_classification' or 'regression'; default: "
        "inferred from them, as the log says."
    )
    do_regression: bool = setting("The same as problem_type: regression.", False)
    validation_fraction: float = setting("Part of the training data cut off for evaluation where none is given.", 0.1)
    max_seq_length: int = setting("Longer texts are cut to this many tokens.", 128)
    max_train_samples: int | None = setting("Train on a random subset of this size.")
    max_eval_samples: int | None = setting("Evaluate on a random subset of this size.")
    max_predict_samples: int | None = setting("Test on a random subset of this size.")
    preprocessing_num_workers: int | None = setting("Processes that tokenise.")

    def __post_init__(self) -> None:
        """Checks what can be checked before data is read, and expands `~` in paths."""
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
        expand_paths(self, "dataset_name", "train_file", "validation_file", "test_file")
        asked, allowed = self.asked_problem, get_args(ProblemType)
        if self.do_regression and asked != "regression":
            raise ValueError(f"do_regression=True contradicts problem_type={asked!r}; leave one of them out.")
        if asked not in (None, *allowed):
            raise ValueError(f"problem_type={asked!r} is not one of {', '.join(map(repr, allowed))}.")
        if self.label_delimiter is not None and asked not in (None, "multi_label_classification"):
            raise ValueError(f"label_delimiter splits cells into several labels, which {asked} does not have.")
        if self.csv_delimiter is not None:
            self.csv_delimiter = checked_delimiter(self.csv_delimiter, "csv_delimiter")
        check_encoding(self.file_encoding, "file_encoding")
        columns = self.text_columns
        if len(columns) > 2 or "" in columns:
            raise ValueError(f"text_column_names={self.text_column_names!r} must be one column or two, like 'a,b'.")

    @property
    def asked_problem(self) -> ProblemType | None:
        """What `problem_type` and `do_regression` say that the labels are."""
        return "regression" if self.do_regression and self.problem_type is None else self.problem_type

    @property
    def text_columns(self) -> list[str]:
        """The text columns that were named."""
        return [] if self.text_column_names is None else [n.strip() for n in self.text_column_names.split(",")]

    @property
    def text_choices(self) -> list[tuple[str, ...]]:
        """For each text of an example, the columns of which the first that is there holds it."""
        return [(name,) for name in self.text_columns] or [USUAL_TEXTS]

    @property
    def label_choices(self) -> tuple[str, ...]:
        """The columns of which the first that is there holds the labels."""
        return USUAL_LABELS if self.label_column_name is None else (self.label_column_name,)

    @property
    def most_samples(self) -> dict[str, int | None]:
        """The largest size of each split, by its name; `None` for all of it."""
        return {"train": self.max_train_samples, "validation": self.max_eval_samples, "test": self.max_predict_samples}
