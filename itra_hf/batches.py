"""What a batch holds: labels, rows and its companion; two batches as one, and outputs cut back to one."""

import dataclasses
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

COMPANION = "itra_companion"  # the key of the companion batch in a batch of pairs
UNLABELLED = -100  # the class id that PyTorch's losses ignore; such an example belongs to no class
WIDEST = 1000  # targets an example, beyond which comparing them costs more than the model


class FeatureBatch(NamedTuple):
    """The features and labels of a primary and a companion batch.

    Attributes:
        features: `[n, dim]`.
        labels: `[n, ...]`, or `None`.
        companion_features: `[m, dim]`, or `None` where the companion is yet to come from the primary batch or memory.
        companion_labels: `[m, ...]`, or `None`.
    """

    features: Tensor
    labels: Tensor | None
    companion_features: Tensor | None = None
    companion_labels: Tensor | None = None


class CollatedApart(dict):
    """A companion batch that the collator made by itself, so its shapes may differ from the primary batch's."""


def unpair(inputs: Any) -> tuple[Any, Mapping[str, Any] | None]:
    """A batch as the loader gave it in its two halves.

    Returns:
        The primary batch, of the type of `inputs`, and its companion; `None` where there is none.
    """
    companion = companion_of(inputs)
    if companion is None:
        return inputs, None
    return type(inputs)({name: value for name, value in inputs.items() if name != COMPANION}), companion


def companion_of(batch: Any) -> Mapping[str, Any] | None:
    """The companion batch that came with a primary batch; `None` without."""
    companion = batch.get(COMPANION) if isinstance(batch, Mapping) else None
    return companion if isinstance(companion, Mapping) else None


def concatenate(primary: Mapping[str, Any], companion: Mapping[str, Any], rows: int) -> dict[str, Any] | None:
    """Both batches as one, primary rows first; tensors and lists with one entry an example are joined.

    Other values are the primary batch's.

    Args:
        primary: the primary batch.
        companion: the companion batch.
        rows: how many examples each of them has.

    Returns:
        The joint batch, or `None` where a tensor has no row an example, or no counterpart in the companion batch.
    """
    both: dict[str, Any] = {}
    for name, value in primary.items():
        other = companion.get(name)
        if isinstance(value, Tensor):
            if not isinstance(other, Tensor) or value.dim() == 0 or len(value) != rows or other.shape != value.shape:
                return None
            value = torch.cat([value, other])
        elif isinstance(value, (list, tuple)) and len(value) == rows:
            if not isinstance(other, type(value)):
                return None
            value = [*value, *other]
        both[name] = value
    return both


def cut_rows(value: Any, rows: int, total: int) -> Any:
    """Cuts every tensor with `total` rows, however deeply nested in outputs, to its first `rows` rows."""
    if isinstance(value, Tensor):
        return value[:rows] if value.dim() > 0 and len(value) == total else value
    if isinstance(value, Mapping):
        return type(value)(**{key: cut_rows(item, rows, total) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        items = [cut_rows(item, rows, total) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(value, **{name: cut_rows(getattr(value, name), rows, total) for name in fields})
    return value


def count_rows(batch: Any, label_names: Sequence[str]) -> int:
    """The examples of a batch: as many as labels, or as rows of all its tensors; 0 where that can't be told."""
    if not isinstance(batch, Mapping):
        return 0
    labels = find_labels(batch, label_names)
    if isinstance(labels, Tensor) and labels.dim() > 0:
        return len(labels)
    rows = {len(value) for value in batch.values() if isinstance(value, Tensor) and value.dim() > 0}
    return rows.pop() if len(rows) == 1 else 0


class LabelKind(IntEnum):
    """What a batch's labels are; of several batches the least tells what they all have."""

    NONE = 0  # none, or not in a tensor
    OTHER = 1  # not one row an example, such as a label a token, or very many targets
    TARGETS = 2  # floats, or several labels an example
    CLASS_IDS = 3  # one an example


def kind_of(labels: Any, num_labels: int | None) -> LabelKind:
    """The kind of a batch's labels, by dtype and shape; of rows of integers also by their values.

    Args:
        labels: as the collator made them: `[batch]` or `[batch, 1]` class ids or floats, `[batch, num_labels]` targets.
        num_labels: of the model's config, which tells several labels an example from a label a token; `None` without.
    """
    if not isinstance(labels, Tensor):
        return LabelKind.NONE
    labels = drop_column(labels)
    assert labels is not None
    if is_class_ids(labels) and num_labels != 1:  # a model of one number learns numbers
        return LabelKind.CLASS_IDS
    if labels.dim() == 1:
        return LabelKind.TARGETS
    if labels.dim() != 2 or labels.shape[1] > WIDEST:
        return LabelKind.OTHER
    if labels.is_floating_point():  # a model of one number has one a token
        return LabelKind.OTHER if num_labels == 1 else LabelKind.TARGETS
    # Labels of tokens may be as many as there are classes, by chance.
    several = labels.shape[1] == num_labels and bool(((labels == 0) | (labels == 1)).all())
    return LabelKind.TARGETS if several else LabelKind.OTHER


def kind_of_batch(batch: Any, label_names: Sequence[str], num_labels: int | None) -> LabelKind:
    """The kind of a batch's labels, see `kind_of`; several label arguments, none of them `labels`, are no class."""
    if not isinstance(batch, Mapping):
        return LabelKind.NONE
    names = [name for name in label_names if batch.get(name) is not None]
    if len(names) > 1 and "labels" not in names:  # such as an answer's start and its end
        return LabelKind.OTHER
    return kind_of(find_labels(batch, label_names), num_labels)


def find_labels(batch: Mapping[str, Any], label_names: Sequence[str]) -> Any:
    """The first of a model's label arguments that a batch holds, as the collator made it; `None` without."""
    names = sorted(label_names, key=lambda name: name != "labels")  # others may be of another kind
    return next((batch[name] for name in names if batch.get(name) is not None), None)


def labels_for(
    batch: Any, alignment: str | None, label_names: Sequence[str], num_labels: int | None = None
) -> Tensor | None:
    """The labels of a batch, where the alignment looks at labels.

    Args:
        batch: as the collator made it.
        alignment: see `MatchingLoss`; `None` where the labels are to decide it, of which there may be none.
        label_names: the model's label arguments.
        num_labels: see `kind_of`; a model of one number learns integers as numbers, unless alignment is conditional.

    Raises:
        ValueError: there are none, or not in a tensor.
    """
    if alignment == "marginal" or not isinstance(batch, Mapping):
        return None
    labels = find_labels(batch, label_names)
    if alignment != "conditional" and num_labels == 1 and isinstance(labels, Tensor):
        labels = labels.float().masked_fill(labels == UNLABELLED, torch.nan)
    if alignment is None:
        return drop_column(labels) if isinstance(labels, Tensor) else None
    if labels is None:
        raise ValueError(
            f"{alignment} alignment needs labels, but the batch has only {', '.join(batch)} (looked for "
            f"{', '.join(label_names) or 'none, since the model takes no labels'}); alignment='marginal' works without."
        )
    if not isinstance(labels, Tensor):
        raise ValueError(
            f"{alignment} alignment needs labels in a tensor, but the collator returns {type(labels).__name__}; "
            "alignment='marginal' works with any."
        )
    return drop_column(labels)


def is_class_ids(labels: Tensor) -> bool:
    """Whether `labels` are class ids: one integer an example."""
    return labels.dim() == 1 and not labels.is_floating_point()


def drop_column(labels: Tensor | None) -> Tensor | None:
    """`[n, 1]` labels, which transformers takes as class ids too, as `[n]`; others as they are."""
    return labels[:, 0] if labels is not None and labels.dim() == 2 and labels.shape[1] == 1 else labels
