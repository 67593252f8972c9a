"""What the labels of a batch are, and which alignment goes with them."""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from torch import Tensor

from .forward import find_labels
from .kernels import drop_column, is_class_ids
from .matching import Distance
from .mmd import Alignment

WIDEST = 1000  # targets an example, beyond which comparing them costs more than the model


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
    if is_class_ids(labels):
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


def alignment_for(kind: LabelKind, matching_loss: Distance) -> Alignment:
    """What `alignment='auto'` means for labels of a kind; the MMD alone has a joint form."""
    if kind == LabelKind.CLASS_IDS:
        return "conditional"
    return "joint" if kind == LabelKind.TARGETS and matching_loss == "mmd" else "marginal"


def needed_labels(batch: Mapping[str, Any], alignment: Alignment, label_names: Sequence[str]) -> Tensor | None:
    """The labels of a batch, where the alignment looks at labels.

    Args:
        batch: as the collator made it.
        alignment: see `MatchingLoss`.
        label_names: the model's label arguments.

    Raises:
        ValueError: there are none, or not in a tensor.
    """
    if alignment == "marginal":
        return None
    labels = find_labels(batch, label_names)
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
