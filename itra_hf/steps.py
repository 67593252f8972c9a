"""What the micro-batches of an optimizer step are like, over all processes, before the step runs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from accelerate import Accelerator
from torch import Tensor

from .forward import find_labels
from .gathering import gather_counts
from .label_kinds import LabelKind, kind_of
from .sampling import COMPANION, CollatedApart


class StepFacts(NamedTuple):
    """What all processes agree on, so that all of them take the same way.

    Attributes:
        batches: the least number of micro-batches that a process has.
        mean_rows: the mean number of rows of a micro-batch; `None` where all have the same, or it can't be told.
        together: whether every primary batch was collated together with its companion.
        label_kind: the least kind of labels; `None` before any step was looked at.
        paired: whether every primary batch came with a companion.
    """

    batches: int = 0
    mean_rows: float | None = None
    together: bool = True
    label_kind: LabelKind | None = None
    paired: bool = True


def look_ahead(
    accelerator: Accelerator, batches: Sequence[Any], label_names: Sequence[str], num_labels: int | None
) -> StepFacts:
    """The facts of one optimizer step, by one collective.

    Args:
        accelerator: knows the processes.
        batches: this process's micro-batches.
        label_names: the model's label arguments.
        num_labels: see `kind_of`.
    """
    rows = [count_rows(batch, label_names) for batch in batches]
    together = all(not isinstance(companion_of(batch), CollatedApart) for batch in batches)
    kind = min((kind_of_batch(batch, label_names, num_labels) for batch in batches), default=LabelKind.CLASS_IDS)
    known, paired = 0 not in rows, all(companion_of(batch) is not None for batch in batches)
    counts, totals, joined, least, all_known, all_paired = gather_counts(
        accelerator, len(rows), sum(rows), together, kind, known, paired
    )
    common = min(counts)
    if common < max(counts):
        (totals,) = gather_counts(accelerator, sum(rows[:common]))
    even = len(set(totals)) == 1 and len(set(rows[:common])) <= 1
    mean_rows = None if even or not common or not all(all_known) else sum(totals) / (len(totals) * common)
    return StepFacts(common, mean_rows, all(joined), LabelKind(min(least)), all(all_paired))


def kind_of_batch(batch: Any, label_names: Sequence[str], num_labels: int | None) -> LabelKind:
    """The kind of a batch's labels, see `kind_of`; several label arguments, none of them `labels`, are no class."""
    if not isinstance(batch, Mapping):
        return LabelKind.NONE
    names = [name for name in label_names if batch.get(name) is not None]
    if len(names) > 1 and "labels" not in names:  # such as an answer's start and its end
        return LabelKind.OTHER
    return kind_of(find_labels(batch, label_names), num_labels)


def count_rows(batch: Any, label_names: Sequence[str]) -> int:
    """The examples of a batch: as many as labels, or as rows of all its tensors; 0 where that can't be told."""
    if not isinstance(batch, Mapping):
        return 0
    labels = find_labels(batch, label_names)
    if isinstance(labels, Tensor) and labels.dim() > 0:
        return len(labels)
    rows = {len(value) for value in batch.values() if isinstance(value, Tensor) and value.dim() > 0}
    return rows.pop() if len(rows) == 1 else 0


def companion_of(batch: Any) -> Mapping[str, Any] | None:
    """The companion batch that came with a primary batch; `None` without."""
    companion = batch.get(COMPANION) if isinstance(batch, Mapping) else None
    return companion if isinstance(companion, Mapping) else None
