"""The main road: task loss plus weighted matching loss, for any `Trainer` subclass."""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.utils import logging

from .alignment.aligner import Aligned, Aligner
from .alignment.checkpoint import RunState, save_alignment, saved_companion
from .alignment.log import TrainingWatch
from .alignment.messages import CHANGED, COMPANION_LOST, FROZEN, HIDDEN, NO_LABELS, NOTHING_TAPPED, OWN_LOSS
from .alignment.recording import RunRecord
from .alignment.steps import StepFacts, StepsMixin
from .alignment.weight import MatchingWeight
from .batches import COMPANION, CollatedApart, FeatureBatch, LabelKind, count_rows, kind_of_batch, labels_for, unpair
from .companions.choice import NO_COMPANIONS, RESUMED, choose_companion
from .companions.loading import CompanionEpoch, PairedLoadingMixin
from .config_checks import PAIRED_COMPANIONS, Companion, check_alignment_arguments
from .features.averages import average_for
from .features.forward import ModelStandIn, PairedForward
from .features.item_counts import have_losses_divided
from .features.models import unwrap
from .hub.publishing import ReportingMixin
from .processes import agree, mean_over_processes

logger = logging.get_logger(__name__)


class ITRAMixin(PairedLoadingMixin, StepsMixin, ReportingMixin):
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
            self._itra_step, self._itra_settled = StepFacts(), False
            self._itra_companion = self._itra_memory_because = self._itra_average = self._itra_record = None
            self._itra_running = self._itra_in_step = self._itra_ran_aligned = False
            super().__init__(*args, **kwargs)
            have_losses_divided(self)
            self._itra_start_run()

    # ---- The method ----

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
            return_outputs: whether to return the primary batch's outputs too.
            num_items_in_batch: passed on to the base class.

        Returns:
            A scalar, or the scalar and the outputs.

        Raises:
            ValueError: a training batch without companion, or features or labels that can't be aligned.
            FloatingPointError: on a CPU, the matching loss is not finite; elsewhere the next log line says so.
        """
        primary, companion = unpair(inputs)
        rows = count_rows(primary, self.label_names)  # now, for a compute_loss may take the labels out
        wanted: dict[str, Any] = {"return_outputs": return_outputs, "num_items_in_batch": num_items_in_batch}
        if not self._itra_aligns(model, companion is not None):
            return self._itra_weigh_result(super().compute_loss(model, primary, **wanted), model, rows)
        if self._itra_companion not in PAIRED_COMPANIONS:
            companion = None
        kind, labels = self._itra_kind_of(primary), self._itra_labels_of(primary)
        companion_labels = self._itra_labels_of(companion)
        run: Any = self._itra_run_of(model, primary, companion, rows)
        result: Any = super().compute_loss(ModelStandIn(run), primary, **wanted)  # type: ignore[arg-type]
        loss, outputs = result if isinstance(result, (tuple, list)) else (result, None)
        scale = self._itra_scale()
        loss = task_loss = self._itra_weigh_rows(loss, model, rows) * scale
        aligned, weight = None, None
        if self._itra_can_align(run, kind, labels):
            aligned = self._itra_aligner(FeatureBatch(run.features, labels, run.companion_features, companion_labels))
            weight = self._itra_weight(self.state.global_step, self.state.epoch or 0) * run.captured.requires_grad
            if aligned.value is not None:
                loss = task_loss + weight * aligned.value
                self._itra_weight.watch(loss, task_loss, run.captured, run.features, aligned.gradient, weight)
        self._itra_observe(task_loss, aligned, weight)
        return (loss / scale, outputs) if return_outputs else loss / scale

    def _itra_aligns(self, model: nn.Module, has_companion: bool) -> bool:
        """Whether a batch is one to align; if it must have a companion, that it has none is an error."""
        if self.alignment_args.matching_weight == 0 or not (model.training or self._itra_in_step):
            return False
        paired = has_companion and (self._itra_step.paired or not self._itra_in_step)
        if not (paired and self._itra_companion in PAIRED_COMPANIONS):
            # A training_step of a subclass may call compute_loss itself; else only what the step asks for is training.
            stepping = self._itra_in_step or not type(self).training_step.__module__.startswith(f"{__package__}.")
            if not (self._itra_running and stepping and torch.is_grad_enabled()):
                return False
            if self._itra_companion in PAIRED_COMPANIONS and not self._itra_falls_back(NO_COMPANIONS):
                raise ValueError(COMPANION_LOST)
        return True

    def _itra_run_of(self, model: nn.Module, primary: Any, companion: Any, rows: int) -> PairedForward:
        """The forward pass that the base class's `compute_loss` makes."""
        self._itra_ran_aligned = self._itra_settled = True
        if self._itra_average is not None:
            self._itra_average.follow(unwrap(self.model), self.state.global_step, self.state.max_steps)
        feature = self.alignment_args.feature
        prepare = partial(self._itra_tap.place, feature, self.model, model, partial(agree, self.accelerator))
        together = self._itra_step.together and not isinstance(companion, CollatedApart)
        return PairedForward(model, primary, companion, prepare, self.label_names, rows, together, self._itra_average)

    def _itra_labels_of(self, half: Any) -> Tensor | None:
        """A batch's labels, taken before the forward pass, for label smoothing takes them out."""
        alignment = None if self._itra_aligner.decides else self._itra_aligner.alignment
        return labels_for(half, alignment, self.label_names, self._itra_num_labels())

    def _itra_kind_of(self, primary: Any) -> LabelKind:
        """What all processes can align by; the step was looked at before `compute_loss` could change its labels."""
        kind = kind_of_batch(primary, self.label_names, self._itra_num_labels())
        agreed = self._itra_step.label_kind
        return kind if agreed is None or self.accelerator.num_processes == 1 else min(kind, agreed)

    def _itra_can_align(self, run: PairedForward, kind: LabelKind, labels: Any) -> bool:
        """Whether there are features, and labels to align them by; the first ones decide `alignment='auto'`."""
        if run.own_loss:
            self._itra_warn_once(OWN_LOSS.format(type(unwrap(run.model)).__name__))
        if run.changed:
            self._itra_warn_once(CHANGED.format(", ".join(sorted(run.changed))))
        if run.features is None or (run.companion is not None and run.companion_features is None):
            if run.changed:
                return False
            if self.accelerator.num_processes > 1:
                raise ValueError(NOTHING_TAPPED)  # the other processes wait for these features
            self._itra_warn_once(NOTHING_TAPPED)
            return False
        if not run.features.requires_grad and torch.is_grad_enabled():
            self._itra_warn_once(FROZEN)
        aligner = self._itra_aligner
        if aligner.alignment is None and kind == LabelKind.NONE:
            self._itra_warn_once(
                NO_LABELS.format(", ".join(self.label_names) or "labels, which the model does not take")
            )
        before, can_align = aligner.alignment, aligner.can_align(kind, labels, len(run.features))
        if aligner.alignment != before and self.is_world_process_zero():
            tell = logger.info if aligner.alignment == "conditional" else logger.warning
            tell(f"alignment='auto' is {aligner.alignment!r} in this run, by the labels of the first batch.")
        return can_align

    # ---- Where the companion comes from ----

    def _itra_set_companion(self, companion: Companion, memory_because: str | None) -> None:
        """Makes what depends on where the companion comes from; `memory_because` says why `auto` is a memory."""
        args = self.alignment_args
        self._itra_companion, self._itra_memory_because = companion, memory_because
        self._itra_aligner = Aligner.from_arguments(args, companion, self.accelerator)
        reduce = partial(mean_over_processes, self.accelerator)
        self._itra_weight = MatchingWeight.from_arguments(args, self.accelerator.device, reduce)
        self._itra_average = average_for(args, companion, self.accelerator, self.model)
        self._itra_companion_epoch.paired, self._itra_settled = None, False

    def _itra_run_state(self) -> RunState:
        companion, feature = self._itra_companion, self.alignment_args.feature
        assert companion is not None
        return RunState(companion, feature, self._itra_aligner, self._itra_weight, self._itra_watch, self._itra_average)

    def _itra_falls_back(self, because: str) -> bool:
        """Takes a memory as companion, if the settings leave it open and no step has been aligned yet."""
        if self.alignment_args.companion != "auto" or self._itra_settled:
            return False
        self._itra_set_companion("memory", because)
        self._itra_tell_companion()
        return True

    def _itra_tell_companion(self) -> None:
        if self._itra_memory_because is not None and self.alignment_args.matching_weight > 0:
            self._itra_warn_once(f"companion='auto' is 'memory' in this run: {self._itra_memory_because}.")

    # ---- What is logged and kept ----

    def _itra_observe(self, task_loss: Tensor, aligned: Aligned | None, weight: Tensor | None) -> None:
        """Takes a micro-batch into the running figures."""
        matching_loss, features = (None, None) if aligned is None else (aligned.value, aligned.features)
        self._itra_watch.add(task_loss, matching_loss, weight, features, 1 / self._itra_accumulation_steps())
        if features is not None and features.device.type == "cpu":  # free here; elsewhere it would wait for the device
            self._itra_watch.check_finite(self.state.global_step, self.state.epoch or 0)

    def _itra_callbacks_of_run(self) -> list[TrainerCallback]:
        callbacks = super()._itra_callbacks_of_run()
        return callbacks if self._itra_record is None else [*callbacks, self._itra_record]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs, with `task_loss`, `matching_loss` and `matching_weight` beside `loss`."""
        if "loss" in logs and self._itra_record is not None:
            logs.update(self._itra_record.means)
            self._itra_record.means = {}
        super().log(logs, *args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        # No callback comes between this and the push of a checkpoint, and none knows its folder.
        super()._save_optimizer_and_scheduler(output_dir)
        if self.alignment_args.matching_weight > 0:
            save_alignment(output_dir, self._itra_run_state(), self.args.should_save)

    # ---- A training run ----

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
        self._itra_step, self._itra_ran_aligned = StepFacts(), False
        self._itra_warned = set()

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        # A search sets its trial's settings inside `train()`, and every callback comes after the loader.
        self._itra_start_run()
        checkpoint = kwargs.get("resume_from_checkpoint")
        self._itra_record = RunRecord(self, checkpoint) if self.alignment_args.matching_weight > 0 else None
        if not (checkpoint is not None and saved_companion(checkpoint) == "memory" and self._itra_falls_back(RESUMED)):
            self._itra_tell_companion()
        self._itra_running = True
        try:
            output = super()._inner_training_loop(*args, **kwargs)
        finally:
            self._itra_running, self._itra_record = False, None  # it holds the trainer
            if self._itra_average is not None:
                self._itra_average.weights = {}  # a copy of the model's
        if self._itra_step.batches and self.alignment_args.matching_weight > 0 and not self._itra_ran_aligned:
            self._itra_warn_once(f"No step was aligned, for {type(self).__name__}.training_step calls no compute_loss.")
        return output

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
        except TypeError as error:  # the model knows no companion
            if self._itra_running and COMPANION in str(error) and not self._itra_ran_aligned:
                raise ValueError(HIDDEN.format(type(self).__name__)) from error
            raise
        finally:
            self._itra_in_step = False
        if self._itra_running and not self._itra_ran_aligned:
            raise ValueError(HIDDEN.format(type(self).__name__))
        return loss


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
