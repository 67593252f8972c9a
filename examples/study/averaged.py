"""Trainers of the study: aligned rivals, and a plain run that is measured with its last weights and their average."""

from pathlib import Path
from typing import Any

import torch

from itra_hf import ITRAMixin, ITRATrainer
from itra_hf.comparison.plan import Run
from itra_hf.comparison.rivals import LogitAdjustedTrainer
from itra_hf.comparison.rivals.regularised import AveragedTrainer, WeightAverage
from itra_hf.comparison.run import build, report

DECAY = 0.97  # the companion's


class AlignedAveragedTrainer(ITRAMixin, AveragedTrainer):
    """An aligned run that leaves the average of its weights, which its companion runs through, in place of the last."""


class AlignedAdjustedTrainer(ITRAMixin, LogitAdjustedTrainer):
    """An aligned run whose task loss is logit adjustment."""


class PlannedLongTrainer(ITRATrainer):
    """Averages as in a run that is planned for 2,000 steps, whenever it stops."""

    def _itra_set_companion(self, *args: Any) -> None:
        super()._itra_set_companion(*args)
        if (average := self._itra_average) is not None:
            follow = average.follow
            average.follow = lambda model, step, _: follow(model, step, 2000)


class KeptAverage(WeightAverage):
    """Keeps the average, and leaves the model its last weights."""

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Leaves the model as it is."""


def measure_both(run: Run, folder: Path) -> list[dict[str, Any]]:
    """The results of a plain run, and of its averaged weights."""
    trainer, tested, task, others = build(run, folder)
    average = KeptAverage(DECAY)
    trainer.add_callback(average)
    seconds = trainer.train().metrics["train_runtime"]
    plain = report(run, folder, trainer, tested, task, others, seconds)
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            weight.copy_(average.average.weights[name])
    return [plain, {**report(run, folder, trainer, tested, task, others, seconds), "variant": "averaged"}]
