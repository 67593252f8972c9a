"""The Trainer layer: in-training representation alignment for any `Trainer` subclass."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.utils import logging

from .alignment import AlignedLoss, Aligner, FeatureBatch
from .checkpoints import load_alignment, save_alignment
from .config import PAIRED_COMPANIONS, check_alignment_arguments
from .diagnostics import FROZEN, NOTHING_ALIGNED, TrainingWatch, too_short
from .forward import PairedForward, batch_rows, concatenate
from .gathering import agree
from .item_counts import takes_item_count
from .label_kinds import needed_labels
from .loading import CompanionEpoch, PairedLoadingMixin
from .models import unwrap, unwrap_adapter
from .sampling import COMPANION, CollatedApart
from .steps import StepFacts, companion_of, count_rows, kind_of_batch, look_ahead

logger = logging.get_logger(__name__)


class ITRAMixin(PairedLoadingMixin):
    """Adds in-training representation alignment to a `Trainer` subclass; goes first among the bases.

    The subclass's own `compute_loss` gives the task loss: it is called with the primary batch and a model
    that runs the companion batch along. Settings come from `args`, if it is an `ITRAConfig` or another
    `AlignmentArguments`; else the defaults apply.

    Raises:
        ValueError: several GPUs in one process (`DataParallel`).

    Example:
        ```python
        class WeightedITRATrainer(ITRAMixin, MyWeightedTrainer): ...
        ```
    """

    if not TYPE_CHECKING:  # so that editors show the constructor of the Trainer below

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._set_up_alignment()

    def _set_up_alignment(self) -> None:
        trusted = getattr(self, "loss_is_scaled_for_ga", None) is True
        if not trusted and self.model_accepts_loss_kwargs and not takes_item_count(unwrap(self.model)):
            self.model_accepts_loss_kwargs = False  # else the Trainer skips the division by the accumulation steps
        self._ran_aligned = self._reports = False
        self._companion_epoch = CompanionEpoch()
        self._start_run()

    def _start_run(self) -> None:
        args = self.alignment_args
        check_alignment_arguments(args)
        if self.args.n_gpu > 1 and args.matching_weight > 0:
            raise ValueError(
                f"{self.args.n_gpu} GPUs are visible to one process (DataParallel), which alignment can't use. Start "
                "one process a GPU with `accelerate launch script.py`, or set CUDA_VISIBLE_DEVICES to one GPU, or "
                "matching_weight=0."
            )
        self._aligner = Aligner.from_arguments(args, self.accelerator)
        self._watch = TrainingWatch(self.args.device)
        self._tap.remove()  # the feature may be another one now
        self._companion_epoch.paired = None
        self._step, self._normalised = StepFacts(), False
        self._warned = set()

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._start_run()  # here, because a search sets its trial's settings inside `train()`
        return super()._inner_training_loop(*args, **kwargs)

    # ---- Steps ----

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Collects the micro-batches of one optimizer step, as the Trainer does, and looks at them.

        Where a process has run out of batches, none takes the step: they would wait for each other for ever.
        """
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._step = look_ahead(self.accelerator, batches, self.label_names, self._num_labels())
        if self._step.batches < len(batches):
            batches = batches[: self._step.batches]
            items = self._get_num_items_in_batch(batches, device)
        self._normalised = items is not None
        if self.alignment_args.companion_task_loss and batches and COMPANION in batches[0]:
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
        self._ran_aligned = self.alignment_args.matching_weight == 0
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.is_in_train and not self._ran_aligned:
            raise ValueError(
                f"{type(self).__name__}.compute_loss hides the one that aligns. Move it into a Trainer subclass of its "
                "own, and put ITRAMixin before that: class MyITRATrainer(ITRAMixin, MyTrainer). Or set "
                "matching_weight=0."
            )
        return loss

    # ---- Loss ----

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
            inputs: the primary batch, with the companion batch under `"companion"` during training.
            return_outputs: whether to return outputs too: the primary batch's, or with `companion_task_loss` both
                batches'.
            num_items_in_batch: passed on to the base class.

        Returns:
            A scalar, or the scalar and the outputs.

        Raises:
            ValueError: a training batch without companion, or features or labels that can't be aligned.
            FloatingPointError: the matching loss is not finite.
        """
        companion = companion_of(inputs)
        paired = isinstance(companion, Mapping)
        if not (paired or self._takes_companion_from_within(model)):
            return self._plain_loss(model, inputs, return_outputs, num_items_in_batch)
        primary = type(inputs)({name: value for name, value in inputs.items() if name != COMPANION})
        self._ran_aligned = True
        if not self._is_due(primary):
            result = self._plain_loss(model, primary, True, num_items_in_batch)
            loss, outputs = result if isinstance(result, tuple) else (result, None)
            self._observe(loss.detach() * self._scale(), None)
        else:
            loss, outputs = self._aligned_loss(model, primary, companion if paired else None, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _num_labels(self) -> int | None:
        return getattr(getattr(unwrap_adapter(unwrap(self.model)), "config", None), "num_labels", None)

    def _is_due(self, primary: Mapping[str, Any]) -> bool:
        """Whether this step aligns; the first that does decides `alignment='auto'`."""
        if not self._aligner.is_due(self.state.global_step):
            return False
        kind = self._step.label_kind
        if kind is None:  # in a loop that is not the Trainer's
            kind = kind_of_batch(primary, self.label_names, self._num_labels())
        before, can_align = self._aligner.alignment, self._aligner.can_align(kind)
        if self._aligner.alignment != before:
            tell = logger.info if self._aligner.alignment == "conditional" else logger.warning
            if self.is_world_process_zero():
                tell(f"alignment='auto' is {self._aligner.alignment!r} in this run, by the labels of the first batch.")
        return can_align

    def _takes_companion_from_within(self, model: nn.Module) -> bool:
        """Whether a batch without companion is one to align; if it must have one, that is an error."""
        if not (self.is_in_train and model.training and self.alignment_args.matching_weight > 0):
            return False
        if self.alignment_args.companion in PAIRED_COMPANIONS:
            raise ValueError(
                "A training batch came without its companion: a data loader or collator of your own dropped it. Build "
                "the loader with super().get_train_dataloader(), or set matching_weight=0."
            )
        return True

    def _aligned_loss(self, model: nn.Module, primary: Any, companion: Any, items: Any) -> tuple[Tensor, Any]:
        alignment = self._aligner.matching_loss.alignment
        labels, companion_labels = (
            None if half is None else needed_labels(half, alignment, self.label_names) for half in (primary, companion)
        )
        run = self._forward(model, primary, companion, items)
        task_loss, outputs, features, companion_features, captured = run
        accumulated = self._scale()
        task_loss = self._weigh_rows(task_loss, model, primary) * accumulated
        batch = FeatureBatch(features, labels, companion_features, companion_labels)
        aligned = self._aligner(task_loss, batch, captured, self.state.global_step, self.state.max_steps)
        self._observe(task_loss.detach(), aligned)
        for warning in too_short(self.alignment_args, self.state.max_steps):
            self._warn_once(warning)
        if not features.requires_grad and torch.is_grad_enabled():
            self._warn_once(FROZEN)
        return aligned.total / accumulated, outputs

    def _plain_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool, items: Any) -> Any:
        result: Any = super().compute_loss(model, inputs, return_outputs=return_outputs, num_items_in_batch=items)
        if isinstance(result, tuple):
            return self._weigh_rows(result[0], model, inputs), result[1]
        return self._weigh_rows(result, model, inputs)  # some give no outputs, asked or not

    def _forward(
        self, model: nn.Module, primary: Any, companion: Any, items: Any
    ) -> tuple[Tensor, Any, Tensor, Tensor | None, Tensor]:
        """Task loss, outputs, features, companion features (if there is a companion) and the tapped tensor."""
        args, rows = self.alignment_args, batch_rows(primary, self.label_names)
        prepare = partial(self._tap.place, args.feature, self.model, model, partial(agree, self.accelerator))
        if args.companion_task_loss:
            primary = concatenate(primary, companion, rows)
            if primary is None:
                raise ValueError(
                    "companion_task_loss=True needs batches that can be concatenated; pad all tensors that the "
                    "collator returns to one shape."
                )
            companion = None
        together = args.companion_gradient and self._step.together and not isinstance(companion, CollatedApart)
        paired = PairedForward(model, companion, prepare, self.label_names, rows, together, args.companion_gradient)
        model_of_both: Any = paired
        result: Any = super().compute_loss(model_of_both, primary, return_outputs=True, num_items_in_batch=items)
        if not self._tap.own_loss_is_standard and companion is not None:
            self._warn_once(
                f"{type(unwrap(model)).__name__} may compute a loss of its own, so primary and companion batch run "
                "through it one after the other, which is slower than together."
            )
        loss, outputs = result if isinstance(result, tuple) else (result, None)
        features, companion_features, captured = paired.features, paired.companion_features, paired.captured
        if features is None or captured is None:
            raise ValueError("compute_loss did not call the model that it was given, so no features can be aligned.")
        if args.companion_task_loss:
            features, companion_features = features[:rows], features[rows:]
        return loss, outputs, features, companion_features, captured

    def _weigh_rows(self, loss: Tensor, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """Makes the mean of the batches' means the examples' mean, where the batches of one step differ in size."""
        mean_rows = self._step.mean_rows
        if mean_rows is None or not (self.is_in_train and model.training) or self._task_loss_is_scaled():
            return loss
        return loss * (count_rows(inputs, self.label_names) / mean_rows)

    def _accumulation_steps(self) -> int:
        return getattr(self, "current_gradient_accumulation_steps", 1)  # unknown outside training

    def _scale(self) -> int:
        """What makes the task loss that of a whole step: the base class may have divided it already."""
        return self._accumulation_steps() if self._task_loss_is_scaled() else 1

    def _task_loss_is_scaled(self) -> bool:
        """Whether `training_step` takes the loss as already divided by the gradient accumulation steps."""
        declared = getattr(self, "loss_is_scaled_for_ga", None)  # older Trainers don't have it
        normalised = self.compute_loss_func is not None or (self.model_accepts_loss_kwargs and self._normalised)
        return normalised if declared is None else declared

    # ---- Observation ----

    def _observe(self, task_loss: Tensor, aligned: AlignedLoss | None) -> None:
        share = 1 / self._accumulation_steps()
        self._watch.add_step(task_loss, share)
        if aligned is None:
            return
        self._watch.add_features(aligned.features, share)
        if aligned.matching_loss is not None:
            self._watch.add_alignment(aligned.matching_loss, aligned.weight, share)
        if aligned.features.device.type == "cpu":
            self._check_finite()  # free here; elsewhere it would wait for the device, so at logs and saves

    def _check_finite(self) -> None:
        self._watch.check_finite(self.state.global_step, self.state.epoch or 0)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        # Only the line that all processes log together may average over them; a callback's may come from one alone.
        due = self.control.should_log and self.state.global_step > self._globalstep_last_logged
        self._reports = due and self.alignment_args.matching_weight > 0
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs, with `task_loss`, `matching_loss` and `matching_weight` beside `loss`."""
        if "loss" in logs and self._reports:
            self._reports = False
            self._check_finite()
            series = self._watch.drain(self.accelerator.reduce(self._watch.sums.clone(), reduction="sum"))
            if series.get("matching_loss") == 0:
                self._warn_once(NOTHING_ALIGNED)
            logs.update(series)
        warning = self._watch.collapse_warning()
        if warning is not None:
            self._warn_once(warning)
        super().log(logs, *args, **kwargs)

    # ---- Checkpoints ----

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self._check_finite()
        super()._save_checkpoint(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.alignment_args.matching_weight > 0:
            save_alignment(output_dir, self._aligner, self._watch, self.alignment_args.feature, self.args.should_save)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.alignment_args.matching_weight > 0:
            load_alignment(checkpoint, self._aligner, self._watch, self.alignment_args.feature)


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
