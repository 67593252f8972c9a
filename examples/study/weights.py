"""Rules for the matching weight that the study of the mechanism tries."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from itra_hf import ITRATrainer
from itra_hf.alignment.weight import FIRST_EPOCHS, FIRST_SHARE, MatchingWeight, balanced_factor
from itra_hf.processes import mean_over_processes

START_STEPS = 10  # steps whose mean task loss counts as the first
DECAY = 0.9  # of the running task loss
LEAST = 0.01  # of the first loss: the rest at which halvings count in full


class FollowingLoss(MatchingWeight):
    """A weight that follows the task loss, or its pull on the features.

    Args:
        rule: `"rising"`: what the task loss's pull has lost since its peak, from the start; `"fitted-8"` or with
            another power, or `"halvings"`, of the peak; `"share-0.1"` or another share of the pull at the time;
            `"both-0.1"`: twice that of `"fitted-32"` and 0.1 of the pull at the time; `"late-rising"`, which is the
            package's own `"rising"`, and `"late-fitted-8"`, which look at the epoch; `"late-rising-4"` or other powers:
            the peak times that power of the share of it that the task loss's pull has lost.
        args: as of `MatchingWeight`.
    """

    def __init__(self, rule: str, *args: Any) -> None:
        super().__init__(*args)
        self.rule = rule
        self.first: list[float] = []
        self.running: float | None = None

    def follow(self, task_loss: float) -> None:
        """Takes a step's task loss in."""
        if len(self.first) < START_STEPS:
            self.first.append(task_loss)
            self.running = sum(self.first) / len(self.first)
        elif self.running is not None:
            self.running = DECAY * self.running + (1 - DECAY) * task_loss

    def __call__(self, step: int, epoch: float) -> Tensor:
        """The weight of this step."""
        if step != self._step:
            self.settle()
            self._step = step
        running, matching = self.balance
        kind, _, number = self.rule.rpartition("-")
        if kind == "share":
            wanted = float(number) * running
        elif "rising" in self.rule:
            lost = (1 - running / self.peak).nan_to_num()
            wanted = self.peak * lost ** (int(number) if number.isdigit() else 1)
        elif kind == "both":
            wanted = 2 * self.fit(32) * self.peak + float(number) * running
        else:
            wanted = (self.fit(int(number)) if kind else self.halvings()) * self.peak
        if self.rule.startswith("late-"):
            first = FIRST_SHARE * running
            wanted = torch.maximum(first, wanted) if epoch >= FIRST_EPOCHS else first
        return self.matching_weight * balanced_factor(torch.stack([wanted, matching]))

    def fit(self, power: int) -> float:
        """How well the examples are learnt, 0 to 1: what the task loss has lost of its first value, to a power."""
        return max(0.0, 1 - self.left()) ** power

    def halvings(self) -> float:
        """How often the task loss has halved, over how often that makes it a hundredth, 0 to 1."""
        return min(1.0, max(0.0, math.log(max(self.left(), LEAST)) / math.log(LEAST)))

    def left(self) -> float:
        """The running task loss over the first."""
        return 1.0 if self.running is None else self.running / (sum(self.first) / len(self.first))


class FollowingTrainer(ITRATrainer):
    """Aligns with one of these weights.

    Args:
        rule: see `FollowingLoss`.
    """

    def __init__(self, *args: Any, rule: str = "rising", **kwargs: Any) -> None:
        self.rule = rule
        super().__init__(*args, **kwargs)

    def _itra_set_companion(self, *args: Any) -> None:
        super()._itra_set_companion(*args)
        weight, reduce = self.alignment_args.matching_weight, partial(mean_over_processes, self.accelerator)
        self._itra_weight = FollowingLoss(self.rule, weight, "balanced", False, self.accelerator.device, reduce)

    def _itra_observe(self, task_loss: Tensor, *args: Any) -> None:
        super()._itra_observe(task_loss, *args)
        self._itra_weight.follow(float(task_loss))
