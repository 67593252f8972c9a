"""The callback of a run that empties its running figures where a log line is due, and guards its checkpoints."""

from typing import Any

from transformers import TrainerCallback

from .checkpoint import load_alignment
from .log import SERIES
from .messages import NOTHING_ALIGNED

IDLE_STEPS = 10  # that are no chance


class RunRecord(TrainerCallback):
    """Takes the means for the log line that all processes write, and stops a run before it saves a broken model.

    It is the last callback of a run, for the others may ask for the log line or the checkpoint.

    Args:
        trainer: of the run.
        checkpoint: that the run resumes from, if any.

    Attributes:
        means: by name, for the next log line.
        idle_steps: how many steps in a row, counted at log lines, had a matching loss of exactly 0.
    """

    def __init__(self, trainer: Any, checkpoint: str | None) -> None:
        self.trainer = trainer
        self.checkpoint = checkpoint
        self.means: dict[str, float] = {}
        self.idle_steps = 0.0
        self.first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Goes on where the checkpoint stopped."""
        self.first_step = state.global_step
        if self.checkpoint is not None:
            load_alignment(self.checkpoint, self.trainer._itra_run_state())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Looks at the figures before they are logged or a checkpoint is saved."""
        # As the Trainer does: a line that a callback writes may come from one process alone.
        due = control.should_log and state.global_step > self.trainer._globalstep_last_logged
        if due or control.should_save:
            self._check_finite(state)
        if due:
            trainer, watch = self.trainer, self.trainer._itra_watch
            aligned = watch.sums[-1].item()
            self.means = watch.drain(trainer.accelerator.reduce(watch.sums.clone(), reduction="sum"))
            self.idle_steps = self.idle_steps + aligned if self.means.get("matching_loss") == 0 else 0.0
            self._tell_idle(IDLE_STEPS)
            if (warning := watch.collapse_warning()) is not None:
                trainer._itra_warn_once(warning)

    on_epoch_end = on_step_end

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Looks whether a short run has aligned nothing at all."""
        sums = self.trainer._itra_watch.sums.tolist()
        self.idle_steps += sums[-1] if sums[SERIES.index("matching_loss")] == 0 else 0.0
        self._tell_idle(state.global_step - self.first_step)

    def _tell_idle(self, least: int) -> None:
        if (idle := round(self.idle_steps)) >= max(least, 1):
            self.trainer._itra_warn_once(NOTHING_ALIGNED.format(min(idle, IDLE_STEPS)))  # one text, so said once

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Looks before the best model is saved."""
        self._check_finite(state)

    def _check_finite(self, state: Any) -> None:
        self.trainer._itra_watch.check_finite(state.global_step, state.epoch or 0)
