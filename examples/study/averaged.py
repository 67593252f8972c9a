"""A plain run that is measured twice: with its last weights, and with their running average in place of these."""

from pathlib import Path
from typing import Any

import torch

from itra_hf.comparison.plan import Run
from itra_hf.comparison.rivals import AveragedTrainer
from itra_hf.comparison.run import build, report

TRAINER = f"{Path(__file__).resolve()}:KeepingTrainer"


class KeepingTrainer(AveragedTrainer):
    """Keeps the last weights beside the average."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains, with `last`, the weights by name, as they are before the average takes their place."""
        callback = self.callback_handler.callbacks[-1]  # the average's, which is added last

        def keep_and_average(args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
            self.last = {name: weight.detach().clone() for name, weight in model.named_parameters()}
            end(args, state, control, model=model, **more)

        end, callback.on_train_end = callback.on_train_end, keep_and_average
        return super().train(*args, **kwargs)


def measure_both(run: Run, folder: Path) -> list[dict[str, Any]]:
    """The results of the plain run, and of its averaged weights."""
    trainer, tested, task, others = build(run, folder)
    seconds = trainer.train().metrics["train_runtime"]
    averaged = report(run, folder, trainer, tested, task, others, seconds)
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            weight.copy_(trainer.last[name])
    plain = report(run, folder, trainer, tested, task, others, seconds)
    return [{**plain, "variant": "plain"}, {**averaged, "variant": "averaged"}]
