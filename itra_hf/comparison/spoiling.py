"""Harder training data: labels flipped at random, classes thinned out or left out, examples kept out."""

from dataclasses import replace

import datasets
import numpy as np

from ..text.data import DataArguments, Task, subset
from .plan import Run

SINGLE = "single_label_classification"
UNKNOWN = "unknown"  # the split of the tested examples whose classes are left out
HELD_OUT = "held_out"  # the split of the training examples that a temperature is fitted on
UNKNOWN_STREAM, HELD_OUT_STREAM = 1, 2  # so that these choices are no other draw's


def spoil(
    run: Run, splits: datasets.DatasetDict, task: Task, data_args: DataArguments
) -> tuple[datasets.DatasetDict, Task, str]:
    """Cuts the splits to size, leaves classes and examples out, thins classes and flips labels, as the run says.

    Returns:
        The splits, with `UNKNOWN` and `HELD_OUT` where the run has such examples; the task of the classes that are
        left, and the name of the split to test on.

    Raises:
        ValueError: data that the run's settings don't go with.
    """
    for name in splits.keys() - {"train"}:
        splits[name] = subset(splits[name], data_args.most_samples[name], 0)  # the same for all seeds
    tested = "test" if "test" in splits and "labels" in splits["test"].column_names else "validation"
    if run.unknown_classes:
        splits, task = leave_out_classes(splits, task, tested, run.unknown_classes, run.seed)
    if task.problem_type != SINGLE and (run.label_noise or run.class_imbalance > 1 or run.temperature_share):
        raise ValueError(
            "label_noise, class_imbalance and temperature_share need one class an example; this is "
            f"{task.problem_type}."
        )
    train = splits["train"]
    if run.class_imbalance > 1:
        train = train.select(thin_classes(np.asarray(train["labels"][:]), run.class_imbalance, run.seed))
    train = subset(train, run.train_samples, run.seed)
    if run.label_noise:
        labels = np.asarray(train["labels"][:])
        train = relabelled(train, flip_labels(labels, run.label_noise, len(task.label_names), run.seed))
    if run.temperature_share:
        rows = np.random.default_rng([run.seed, HELD_OUT_STREAM]).permutation(len(train))
        held_out = round(run.temperature_share * len(train))
        if not 0 < held_out < len(train):
            raise ValueError(
                f"temperature_share={run.temperature_share} of {len(train)} examples keeps none out, or all."
            )
        splits[HELD_OUT], train = train.select(rows[:held_out]), train.select(np.sort(rows[held_out:]))
    splits["train"] = train
    return splits, task, tested


def flip_labels(labels: np.ndarray, share: float, classes: int, seed: int) -> np.ndarray:
    """Gives `round(share * n)` of the `[n]` class ids another one, drawn uniformly from the others."""
    random = np.random.default_rng(seed)
    rows = random.choice(len(labels), round(share * len(labels)), replace=False)
    flipped = labels.copy()
    flipped[rows] = (labels[rows] + random.integers(1, classes, len(rows))) % classes
    return flipped


def thin_classes(labels: np.ndarray, ratio: float, seed: int) -> np.ndarray:
    """The rows, ascending, of `[n]` class ids to keep so that classes' sizes fall geometrically, in a random order.

    The class that comes first keeps all of its examples, the last `1 / ratio` of them, at least one.
    """
    random = np.random.default_rng(seed)
    present = random.permutation(np.unique(labels))
    kept = []
    for place, label in enumerate(present):
        rows = np.flatnonzero(labels == label)
        share = ratio ** (-place / max(1, len(present) - 1))
        kept.append(random.choice(rows, max(1, round(share * len(rows))), replace=False))
    return np.sort(np.concatenate(kept))


def check_unknown_classes(count: int, task: Task) -> None:
    """Checks that so many classes can be left out.

    Raises:
        ValueError: they can't, for there is not one class an example, or fewer than two would be left.
    """
    classes = len(task.label_names)
    if count and task.problem_type != SINGLE:
        raise ValueError(f"unknown_classes={count} needs one class an example; this is {task.problem_type}.")
    if count and classes < count + 2:
        raise ValueError(
            f"unknown_classes={count} leaves fewer than two of the {classes} classes to train on; at most "
            f"{max(0, classes - 2)} can be left out."
        )


def leave_out_classes(
    splits: datasets.DatasetDict, task: Task, tested: str, count: int, seed: int
) -> tuple[datasets.DatasetDict, Task]:
    """Leaves classes out of all splits that have `labels`, class ids, and numbers the others anew from 0, in order.

    Which ones is the same for all variants of a seed.

    Returns:
        The splits, with the examples of those classes that were to be tested as one more, `UNKNOWN`, with the ids of
        before; and the task of the known classes.

    Raises:
        ValueError: see `check_unknown_classes`; or a split that is needed would have no rows.
    """
    check_unknown_classes(count, task)
    labels = {name: np.asarray(data["labels"][:]) for name, data in splits.items() if "labels" in data.column_names}
    # A class may be named and have no rows, or none in one of the two splits that matter.
    present = np.intersect1d(labels["train"], labels[tested])
    if len(present) < count + 2:
        raise ValueError(
            f"unknown_classes={count} leaves fewer than two of the {len(present)} classes that both the training and "
            f"the {tested} split have."
        )
    unknown = np.random.default_rng([seed, UNKNOWN_STREAM]).choice(present, count, replace=False)
    known = np.setdiff1d(np.arange(len(task.label_names)), unknown)
    parts = datasets.DatasetDict(splits)
    for name, ids in labels.items():
        rows = np.flatnonzero(np.isin(ids, known))
        if not len(rows):
            raise ValueError(f"unknown_classes: the {name} split has no example of the known classes.")
        parts[name] = relabelled(splits[name].select(rows), np.searchsorted(known, ids[rows]))
    parts[UNKNOWN] = splits[tested].select(np.flatnonzero(np.isin(labels[tested], unknown)))
    return parts, replace(task, label_names=[task.label_names[each] for each in known])


def relabelled(data: datasets.Dataset, labels: np.ndarray) -> datasets.Dataset:
    """The examples with other `labels`, `[n]`."""
    return data.remove_columns("labels").add_column("labels", labels)
