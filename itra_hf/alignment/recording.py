"""The part of the Trainer layer that only watches: losses in the logs, and what a checkpoint keeps of them."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from ..mixins import TrainerBase
from .aligner import Aligned
from .checkpoint import RunState, load_alignment, save_alignment
from .log import NOTHING_ALIGNED, TrainingWatch


class RunRecord(TrainerCallback):
    """Empties the running figures where a log line is due, and stops a run before it saves a broken model.

    It is the last callback of a run, for the others may ask for the log line or the checkpoint.

    Args:
        trainer: of the run.
        checkpoint: that the run resumes from, if any.
    """

    def __init__(self, trainer: Any, checkpoint: str | None) -> None:
        self.trainer = trainer
        self.checkpoint = checkpoint

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Goes on where the checkpoint stopped."""
        if self.checkpoint is not None:
            load_alignment(self.checkpoint, self.trainer._itra_run_state())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes the means for the log line that all processes write now; a callback's may come from one alone."""
        if control.should_save:
            self.trainer._itra_check_finite()
        if control.should_log and state.global_step > self.trainer._globalstep_last_logged:
            self.trainer._itra_take_means()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """As at the end of a step."""
        self.on_step_end(args, state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Looks before the best model is saved."""
        self.trainer._itra_check_finite()


class RecordingMixin(TrainerBase):
    """The part of `ITRAMixin` that logs, stops a run whose matching loss is not finite, and keeps checkpoints."""

    _itra_watch: TrainingWatch
    _itra_means: dict[str, float]
    _itra_checkpoint: str | None
    _itra_run_state: Callable[[], RunState]

    def _itra_callbacks_of_run(self) -> list[TrainerCallback]:
        callbacks = super()._itra_callbacks_of_run()
        aligns = self.alignment_args.matching_weight > 0
        return [*callbacks, RunRecord(self, self._itra_checkpoint)] if aligns else callbacks

    def _itra_observe(self, task_loss: Tensor, aligned: Aligned | None, weight: Tensor | None) -> None:
        """Takes a micro-batch into the running figures."""
        share, watch = 1 / self._itra_accumulation_steps(), self._itra_watch
        watch.add_step(task_loss, share)
        if aligned is None or weight is None:
            return
        watch.add_features(aligned.features, share)
        if aligned.matching_loss is not None:
            watch.add_alignment(aligned.matching_loss, weight, share)
        if aligned.features.device.type == "cpu":
            self._itra_check_finite()  # free here; elsewhere it would wait for the device, so at logs and saves

    def _itra_check_finite(self) -> None:
        self._itra_watch.check_finite(self.state.global_step, self.state.epoch or 0)

    def _itra_take_means(self) -> None:
        self._itra_check_finite()
        watch = self._itra_watch
        self._itra_means = watch.drain(self.accelerator.reduce(watch.sums.clone(), reduction="sum"))
        if self._itra_means.get("matching_loss") == 0:
            self._itra_warn_once(NOTHING_ALIGNED)
        warning = watch.collapse_warning()
        if warning is not None:
            self._itra_warn_once(warning)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs, with `task_loss`, `matching_loss` and `matching_weight` beside `loss`."""
        if "loss" in logs:
            logs.update(self._itra_means)
            self._itra_means = {}
        super().log(logs, *args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        # No callback comes between this and the push of a checkpoint, and none knows its folder.
        super()._save_optimizer_and_scheduler(output_dir)
        if self.alignment_args.matching_weight > 0:
            save_alignment(output_dir, self._itra_run_state(), self.args.should_save)
