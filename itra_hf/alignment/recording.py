"""The part of the Trainer layer that only watches: losses in the logs, and what a checkpoint keeps of them."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..mixins import TrainerBase
from .aligner import Aligned
from .checkpoint import RunState, load_alignment, save_alignment
from .log import NOTHING_ALIGNED, TrainingWatch


class RecordingMixin(TrainerBase):
    """The part of `ITRAMixin` that logs, stops a run whose matching loss is not finite, and keeps checkpoints."""

    _itra_watch: TrainingWatch
    _itra_running: bool
    _itra_run_state: Callable[[], RunState]

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

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs, with `task_loss`, `matching_loss` and `matching_weight` beside `loss`."""
        # Only the line that all processes log together may average over them; a callback's may come from one alone.
        aligns = self._itra_running and self.alignment_args.matching_weight > 0 and self.control.should_log
        if "loss" in logs and aligns and self.state.global_step == self._globalstep_last_logged:
            self._itra_check_finite()
            series = self._itra_watch.drain(self.accelerator.reduce(self._itra_watch.sums.clone(), reduction="sum"))
            if series.get("matching_loss") == 0:
                self._itra_warn_once(NOTHING_ALIGNED)
            logs.update(series)
        warning = self._itra_watch.collapse_warning()
        if warning is not None:
            self._itra_warn_once(warning)
        super().log(logs, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The stock saving; into a checkpoint goes what resuming needs, and no weights of a run that has diverged."""
        checkpoint = output_dir if _internal_call else None
        if checkpoint is not None:
            self._itra_check_finite()
        super().save_model(output_dir, _internal_call)
        if checkpoint is not None and not self.args.save_only_model and self.alignment_args.matching_weight > 0:
            save_alignment(checkpoint, self._itra_run_state(), self.args.should_save)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        # Nothing public knows the checkpoint once the model is prepared.
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.alignment_args.matching_weight > 0:
            load_alignment(checkpoint, self._itra_run_state())
