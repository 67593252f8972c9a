"""The micro-batches of an optimizer step over all processes: how many they are, and how much each counts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers.trainer_utils import has_length

from ..batches import CollatedApart, LabelKind, companion_of, count_rows, find_labels, kind_of_batch
from ..features.models import unwrap, unwrap_adapter
from ..mixins import TrainerBase
from ..processes import gather_counts


class StepFacts(NamedTuple):
    """What all processes agree on, so that all of them take the same way.

    Attributes:
        batches: the least number of micro-batches that a process has.
        mean_rows: the mean number of rows of a micro-batch; `None` where all have the same, or it can't be told.
        together: whether every primary batch was collated together with its companion.
        label_kind: the least kind of labels, where targets of several widths are of another kind; `None` before any
            step was looked at.
        paired: whether every primary batch came with a companion.
        counted: whether the Trainer counted the items of the step, by which losses may divide.
    """

    batches: int = 0
    mean_rows: float | None = None
    together: bool = True
    label_kind: LabelKind | None = None
    paired: bool = True
    counted: bool = False


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
    width = _width(batches, label_names) if kind == LabelKind.TARGETS else 0
    counts, totals, joined, kinds, widths, all_known, all_paired = gather_counts(
        accelerator, len(rows), sum(rows), together, kind, width, known, paired
    )
    least = LabelKind(min(kinds))
    if least == LabelKind.TARGETS and (0 in widths or len(set(widths)) > 1):
        least = LabelKind.OTHER
    common = min(counts)
    if common < max(counts):
        (totals,) = gather_counts(accelerator, sum(rows[:common]))
    even = len(set(totals)) == 1 and len(set(rows[:common])) <= 1
    mean_rows = None if even or not common or not all(all_known) else sum(totals) / (len(totals) * common)
    return StepFacts(common, mean_rows, all(joined), least, all(all_paired))


def _width(batches: Sequence[Any], label_names: Sequence[str]) -> int:
    """How many targets each example has; 0 where they differ from batch to batch."""
    widths = {find_labels(batch, label_names).shape[1:].numel() for batch in batches}
    return widths.pop() if len(widths) == 1 else 0


class ShortenedLoader:
    """A data loader that says it is shorter than it is."""

    def __init__(self, dataloader: Any, length: int) -> None:
        self._dataloader = dataloader
        self._length = length

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataloader, name)

    def __len__(self) -> int:
        return self._length


class StepsMixin(TrainerBase):
    """The part of `ITRAMixin` that looks at an optimizer step before it runs, and weighs its batches by their sizes."""

    _itra_step: StepFacts
    _itra_running: bool
    _itra_in_step: bool

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        """The stock values, for the least number of batches that any process has."""
        if self.accelerator.num_processes > 1 and has_length(dataloader):
            (batches,) = gather_counts(self.accelerator, len(dataloader))
            if min(batches) < max(batches):
                self._itra_warn_once(
                    f"The processes have {batches} batches an epoch; each stops after {min(batches)}, for all of them "
                    "have to take each step together."
                )
                dataloader = ShortenedLoader(dataloader, min(batches))
        return super().set_initial_training_values(args, dataloader)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Collects the micro-batches of one optimizer step, as the Trainer does, and looks at them.

        Where a process has run out of batches, none takes the step: they would wait for each other for ever.
        """
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._itra_step = look_ahead(self.accelerator, batches, self.label_names, self._itra_num_labels())
        if self._itra_step.batches < len(batches):
            batches = batches[: self._itra_step.batches]
            items = self._get_num_items_in_batch(batches, device)
        self._itra_step = self._itra_step._replace(counted=items is not None)
        return batches, items

    def _itra_weigh_result(self, result: Any, model: nn.Module, rows: int) -> Any:
        if isinstance(result, (tuple, list)):
            return self._itra_weigh_rows(result[0], model, rows), *result[1:]
        return self._itra_weigh_rows(result, model, rows)  # some give no outputs, asked or not

    def _itra_weigh_rows(self, loss: Tensor, model: nn.Module, rows: int) -> Tensor:
        """Makes the mean of the batches' means the examples' mean, where the batches of one step differ in size."""
        mean_rows = self._itra_step.mean_rows
        training = self._itra_running and (model.training or self._itra_in_step) and torch.is_grad_enabled()
        if mean_rows is None or not training or self._itra_task_loss_is_scaled():
            return loss
        return loss * (rows / mean_rows)

    def _itra_scale(self) -> int:
        """What makes the task loss that of a whole step: the base class may have divided it already."""
        return self._itra_accumulation_steps() if self._itra_task_loss_is_scaled() else 1

    def _itra_task_loss_is_scaled(self) -> bool:
        """Whether `training_step` takes the loss as already divided by the gradient accumulation steps."""
        declared = getattr(self, "loss_is_scaled_for_ga", None)  # older Trainers don't have it
        normalised = self.compute_loss_func is not None or (self.model_accepts_loss_kwargs and self._itra_step.counted)
        return normalised if declared is None else declared

    def _itra_accumulation_steps(self) -> int:
        return getattr(self, "current_gradient_accumulation_steps", 1)  # unknown outside training

    def _itra_num_labels(self) -> int | None:
        return getattr(getattr(unwrap_adapter(unwrap(self.model)), "config", None), "num_labels", None)
