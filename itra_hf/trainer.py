"""The Trainer layer: in-training representation alignment for any `Trainer` subclass."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.utils import logging

from .companion_choice import NO_COMPANIONS, choose_companion
from .config_checks import PAIRED_COMPANIONS, check_alignment_arguments
from .diagnostics import COMPANION_LOST, FROZEN, NOTHING_TAPPED, OWN_LOSS, TrainingWatch, too_short
from .forward import PairedForward, batch_rows, concatenate, find_labels
from .gathering import agree
from .item_counts import computes_with_item_count, takes_item_count
from .kernels import drop_column
from .label_kinds import LabelKind, needed_labels
from .loading import CompanionEpoch
from .matching_batches import FeatureBatch
from .models import unwrap, unwrap_adapter
from .sampling import COMPANION, CollatedApart
from .steps import StepFacts, companion_of, count_rows, kind_of_batch, look_ahead
from .watching import WatchingMixin

logger = logging.get_logger(__name__)


class ITRAMixin(WatchingMixin):
    """Adds in-training representation alignment to a `Trainer` subclass; goes first among the bases.

    The subclass's own `compute_loss` gives the task loss: it is called with the primary batch and a model
    that runs the companion batch along. Settings come from `args`, if it is an `ITRAConfig` or another
    `AlignmentArguments`; else the defaults apply.

    Raises:
        ValueError: several GPUs in one process (`DataParallel`), unless `matching_weight` is 0.

    Example:
        ```python
        class WeightedITRATrainer(ITRAMixin, MyWeightedTrainer): ...
        ```
    """

    if not TYPE_CHECKING:  # so that editors show the constructor of the Trainer below

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # What a constructor below may already need: for logs, loaders and losses of its own.
            self._itra_watch, self._itra_companion_epoch = TrainingWatch(torch.device("cpu")), CompanionEpoch()
            self._itra_step, self._itra_normalised, self._itra_settled = StepFacts(), False, False
            self._itra_companion = self._itra_memory_because = self._itra_average = None
            self._itra_running = self._itra_in_step = self._itra_ran_aligned = self._itra_reports = False
            super().__init__(*args, **kwargs)
            self._itra_set_up()

    def _itra_set_up(self) -> None:
        # Else the Trainer skips the division by the accumulation steps, and counts what nobody divides by.
        trusted = getattr(self, "loss_is_scaled_for_ga", None) is True or computes_with_item_count(type(self))
        if self.model_accepts_loss_kwargs and not trusted and not takes_item_count(unwrap(self.model)):
            self.model_accepts_loss_kwargs = False
        self._itra_start_run()

    def _itra_start_run(self) -> None:
        args = self.alignment_args
        check_alignment_arguments(args, together=self.hp_search_backend is None)  # trials leave settings behind
        if self.args.n_gpu > 1 and args.matching_weight > 0:
            raise ValueError(
                f"{self.args.n_gpu} GPUs are visible to one process (DataParallel), which alignment can't use. Start "
                "one process a GPU with `accelerate launch script.py`, or set CUDA_VISIBLE_DEVICES to one GPU, or "
                "matching_weight=0 in an ITRAConfig."
            )
        self._itra_set_companion(*choose_companion(args, self.accelerator, self.model, self.train_dataset))
        self._itra_watch = TrainingWatch(self.args.device)
        self._itra_tap.remove()  # the feature may be another one now
        self._itra_step, self._itra_normalised, self._itra_ran_aligned = StepFacts(), False, False
        self._itra_warned = set()

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._itra_start_run()  # here, because a search sets its trial's settings inside `train()`
        self._itra_tell_companion(kwargs.get("resume_from_checkpoint"))
        self._itra_running = True
        try:
            output = super()._inner_training_loop(*args, **kwargs)
        finally:
            self._itra_running = False
            if self._itra_average is not None:
                self._itra_average.weights = {}  # a copy of the model's
        if self._itra_step.batches and self.alignment_args.matching_weight > 0 and not self._itra_ran_aligned:
            self._itra_warn_once(f"No step was aligned, for {type(self).__name__}.training_step calls no compute_loss.")
        return output

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Collects the micro-batches of one optimizer step, as the Trainer does, and looks at them.

        Where a process has run out of batches, none takes the step: they would wait for each other for ever.
        """
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._itra_step = look_ahead(self.accelerator, batches, self.label_names, self._itra_num_labels())
        if self._itra_step.batches < len(batches):
            batches = batches[: self._itra_step.batches]
            items = self._get_num_items_in_batch(batches, device)
        self._itra_normalised = items is not None
        if self.alignment_args.companion_task_loss and batches and companion_of(batches[0]) is not None:
            more = self._get_num_items_in_batch([batch[COMPANION] for batch in batches], device)
            items = None if items is None or more is None else items + more
        return batches, items

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The stock step, which aligns while `train()` runs.

        Raises:
            ValueError: the subclass's `compute_loss` hides the one that aligns.
        """
        self._itra_ran_aligned = self.alignment_args.matching_weight == 0
        self._itra_in_step = True
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        finally:
            self._itra_in_step = False
        if self._itra_running and not self._itra_ran_aligned:
            raise ValueError(
                f"{type(self).__name__}.compute_loss hides the one that aligns. Move it into a Trainer subclass of its "
                "own, and put ITRAMixin before that: class MyITRATrainer(ITRAMixin, MyTrainer). Or set "
                "matching_weight=0 in an ITRAConfig."
            )
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The task loss of the primary batch plus the weighted matching loss of primary and companion batch.

        Evaluation is the base class's `compute_loss`, and so is training with `matching_weight=0`, but for micro-
        batches of different sizes within one optimizer step, which count by their sizes.

        Args:
            model: the model as the Trainer wrapped it.
            inputs: the primary batch, during training with the companion batch in it.
            return_outputs: whether to return outputs too: the primary batch's, or with `companion_task_loss` both
                batches'.
            num_items_in_batch: passed on to the base class.

        Returns:
            A scalar, or the scalar and the outputs.

        Raises:
            ValueError: a training batch without companion, or features or labels that can't be aligned.
            FloatingPointError: the matching loss is not finite.
        """
        companion, primary = companion_of(inputs), inputs
        if companion is not None:
            primary = type(inputs)({name: value for name, value in inputs.items() if name != COMPANION})
        if self._itra_companion not in PAIRED_COMPANIONS or (self._itra_in_step and not self._itra_step.paired):
            companion = None
        if companion is None and not self._itra_takes_companion_from_within(model):
            return self._itra_plain_loss(model, primary, return_outputs, num_items_in_batch)
        self._itra_ran_aligned = self._itra_settled = True
        if self._itra_average is not None:
            self._itra_average.follow(unwrap(self.model), self.state.global_step)
        if self._itra_aligner.is_due(self.state.global_step):
            return self._itra_aligned_loss(model, primary, companion, return_outputs, num_items_in_batch)
        result = self._itra_plain_loss(model, primary, return_outputs, num_items_in_batch)
        loss = result[0] if isinstance(result, (tuple, list)) else result
        self._itra_observe(loss.detach() * self._itra_scale(), None)
        return result

    def _itra_takes_companion_from_within(self, model: nn.Module) -> bool:
        """Whether a batch without companion is one to align; if it must have one, that is an error."""
        # A training_step of a subclass may call compute_loss itself; else only what the step asks for is training.
        stepping = self._itra_in_step or not type(self).training_step.__module__.startswith(__package__)
        if not (self._itra_running and stepping and model.training and self.alignment_args.matching_weight > 0):
            return False
        if self._itra_companion in PAIRED_COMPANIONS and not self._itra_falls_back(NO_COMPANIONS):
            raise ValueError(COMPANION_LOST)
        return True

    def _itra_aligned_loss(
        self, model: nn.Module, primary: Any, companion: Any, return_outputs: bool, items: Any
    ) -> Tensor | tuple[Tensor, Any]:
        labels, companion_labels = self._itra_labels_of(primary), self._itra_labels_of(companion)
        kind = self._itra_kind_of(primary)
        run, loss, outputs = self._itra_forward(model, primary, companion, return_outputs, items)
        scale = self._itra_scale()
        task_loss = self._itra_weigh_rows(loss, model, primary) * scale
        aligned = None
        if self._itra_can_align(run, kind, labels):
            assert run.features is not None
            assert run.captured is not None
            batch = FeatureBatch(run.features, labels, run.companion_features, companion_labels)
            aligned = self._itra_aligner(task_loss, batch, run.captured, self.state.global_step, self.state.max_steps)
            for warning in too_short(self.alignment_args, self._itra_companion, self.state.max_steps):
                self._itra_warn_once(warning)
            if not run.features.requires_grad and torch.is_grad_enabled():
                self._itra_warn_once(FROZEN)
        self._itra_observe(task_loss.detach(), aligned)
        total = (task_loss if aligned is None else aligned.total) / scale
        return (total, outputs) if return_outputs else total

    def _itra_plain_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool, items: Any) -> Any:
        result: Any = super().compute_loss(model, inputs, return_outputs=return_outputs, num_items_in_batch=items)
        if isinstance(result, (tuple, list)):
            return self._itra_weigh_rows(result[0], model, inputs), *result[1:]
        return self._itra_weigh_rows(result, model, inputs)  # some give no outputs, asked or not

    def _itra_num_labels(self) -> int | None:
        return getattr(getattr(unwrap_adapter(unwrap(self.model)), "config", None), "num_labels", None)

    def _itra_labels_of(self, half: Mapping[str, Any] | None) -> Any:
        """A batch's labels, taken before the forward pass, for label smoothing takes them out."""
        if half is None or not isinstance(half, Mapping):
            return None
        alignment = self._itra_aligner.alignment
        if self._itra_aligner.decides or alignment is None:
            labels = find_labels(half, self.label_names)
            return drop_column(labels) if isinstance(labels, Tensor) else None
        return needed_labels(half, alignment, self.label_names)

    def _itra_kind_of(self, primary: Any) -> LabelKind:
        """What all processes can align by; the step was looked at before `compute_loss` could change its labels."""
        kind = kind_of_batch(primary, self.label_names, self._itra_num_labels())
        agreed = self._itra_step.label_kind
        return kind if agreed is None or self.accelerator.num_processes == 1 else min(kind, agreed)

    def _itra_can_align(self, run: PairedForward, kind: LabelKind, labels: Any) -> bool:
        """Whether there are features, and labels to align them by; the first ones decide `alignment='auto'`."""
        if run.features is None or (run.companion is not None and run.companion_features is None):
            if self.accelerator.num_processes > 1:
                raise ValueError(NOTHING_TAPPED)  # the other processes wait for these features
            self._itra_warn_once(NOTHING_TAPPED)
            return False
        aligner = self._itra_aligner
        before, can_align = aligner.alignment, aligner.can_align(kind, labels, len(run.features))
        if aligner.alignment != before and self.is_world_process_zero():
            tell = logger.info if aligner.alignment == "conditional" else logger.warning
            tell(f"alignment='auto' is {aligner.alignment!r} in this run, by the labels of the first batch.")
        return can_align

    def _itra_forward(
        self, model: nn.Module, primary: Any, companion: Any, return_outputs: bool, items: Any
    ) -> tuple[PairedForward, Tensor, Any]:
        """The model's run, which has the features, with the task loss and the outputs, if they are wanted."""
        args, rows = self.alignment_args, 0 if companion is None else batch_rows(primary, self.label_names)
        prepare = partial(self._itra_tap.place, args.feature, self.model, model, partial(agree, self.accelerator))
        if args.companion_task_loss:
            primary = concatenate(primary, companion, rows)
            if primary is None:
                raise ValueError(
                    "companion_task_loss=True needs batches that can be concatenated; pad all tensors that the "
                    "collator returns to one shape."
                )
            companion = None
        together = self._itra_step.together and not isinstance(companion, CollatedApart)
        run = PairedForward(model, companion, prepare, self.label_names, rows, together, self._itra_average)
        stand_in: Any = run
        result: Any = super().compute_loss(stand_in, primary, return_outputs=return_outputs, num_items_in_batch=items)
        if not self._itra_tap.own_loss_is_standard and companion is not None and self._itra_average is None:
            self._itra_warn_once(OWN_LOSS.format(type(unwrap(model)).__name__))
        if args.companion_task_loss and run.features is not None:
            run.features, run.companion_features = run.features[:rows], run.features[rows:]
        loss, outputs = result if isinstance(result, (tuple, list)) else (result, None)
        return run, loss, outputs

    def _itra_weigh_rows(self, loss: Tensor, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """Makes the mean of the batches' means the examples' mean, where the batches of one step differ in size."""
        mean_rows = self._itra_step.mean_rows
        if mean_rows is None or not (self._itra_running and model.training) or self._itra_task_loss_is_scaled():
            return loss
        return loss * (count_rows(inputs, self.label_names) / mean_rows)

    def _itra_scale(self) -> int:
        """What makes the task loss that of a whole step: the base class may have divided it already."""
        return self._itra_accumulation_steps() if self._itra_task_loss_is_scaled() else 1

    def _itra_task_loss_is_scaled(self) -> bool:
        """Whether `training_step` takes the loss as already divided by the gradient accumulation steps."""
        declared = getattr(self, "loss_is_scaled_for_ga", None)  # older Trainers don't have it
        normalised = self.compute_loss_func is not None or (self.model_accepts_loss_kwargs and self._itra_normalised)
        return normalised if declared is None else declared


class ITRATrainer(ITRAMixin, Trainer):
    """A drop-in `Trainer` that aligns the features of a primary and a companion batch while it trains.

    Takes exactly the arguments of `Trainer`. `args` may be an `ITRAConfig`, or plain `TrainingArguments`, for
    which the method's defaults apply. In-training representation alignment: Li et al., AAAI 2023, arXiv
    2211.13332.

    Example:
        ```python
        trainer = ITRATrainer(model, ITRAConfig("out"), train_dataset=train, processing_class=tokenizer)
        trainer.train()
        ```
    """
