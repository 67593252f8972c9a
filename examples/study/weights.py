"""Rules for the matching weight that the study of the mechanism tries."""

import math
from typing import Any

import torch
from torch import Tensor

from itra_hf import ITRATrainer
from itra_hf.weighting import MatchingWeight, balanced_factor

START_STEPS = 10  # steps whose mean task loss counts as the first
DECAY = 0.9  # of the running task loss
FIRST_EPOCHS, FIRST_SHARE = 3, 0.1  # of "late-": how long, and how much of the task loss's pull at the time
LEAST = 0.01  # of the first loss: the rest at which halvings count in full


class FollowingLoss(MatchingWeight):
    """A weight that follows how far the task loss has fallen, as a share of the largest pull of the task loss.

    Args:
        rule: `"fitted-8"` or with another power, or `"halvings"`, or `"both-0.1"`: twice that of `"fitted-32"` and 0.1 of
            the task loss's pull at the time.
        args: as of `MatchingWeight`.
    """

    def __init__(self, rule: str, *args: Any) -> None:
        super().__init__(*args)
        self.rule = rule
        self.first: list[float] = []
        self.running: float | None = None
        self.epoch = 0.0

    def follow(self, task_loss: float) -> None:
        """Takes a step's task loss in."""
        if len(self.first) < START_STEPS:
            self.first.append(task_loss)
            self.running = sum(self.first) / len(self.first)
        elif self.running is not None:
            self.running = DECAY * self.running + (1 - DECAY) * task_loss

    def __call__(self, step: int, total_steps: int) -> Tensor:
        """The weight of this step."""
        if step != self._step:
            self.settle()
            self._step = step
        wanted = self.share() * self.peak
        if self.rule.startswith("late-"):
            late = self.peak - self.balance[0] if self.rule == "late-rising" else wanted
            first = FIRST_SHARE * self.balance[0]
            wanted = torch.maximum(first, late) if self.epoch >= FIRST_EPOCHS else first
        if self.rule.startswith("both-"):
            wanted = 2 * wanted + float(self.rule.removeprefix("both-")) * self.balance[0]
        pulls = torch.stack([wanted, self.balance[1]])
        return self.matching_weight * balanced_factor(pulls)

    def share(self) -> float:
        """How much of the largest pull, 0 to 1."""
        if self.running is None:
            return 0.0
        left = self.running / (sum(self.first) / len(self.first))
        if self.rule.startswith(("fitted-", "both-", "late-")):
            power = 32 if self.rule.startswith("both-") else 8 if "late" in self.rule else int(self.rule[7:])
            return float(max(0.0, 1 - left) ** power)
        return min(1.0, max(0.0, math.log(max(left, LEAST)) / math.log(LEAST)))


class FollowingTrainer(ITRATrainer):
    """Aligns with a weight that follows the task loss.

    Args:
        rule: see `FollowingLoss`.
    """

    def __init__(self, *args: Any, rule: str, **kwargs: Any) -> None:
        self.rule = rule
        super().__init__(*args, **kwargs)

    def _itra_start_run(self) -> None:
        super()._itra_start_run()
        weight = self._itra_aligner.matching_weight
        self._itra_aligner.matching_weight = FollowingLoss(
            self.rule, weight.matching_weight, "rising", 0.0, self.args.device, weight.reduce
        )

    def _itra_observe(self, task_loss: Tensor, aligned: Any) -> None:
        super()._itra_observe(task_loss, aligned)
        weight = self._itra_aligner.matching_weight
        assert isinstance(weight, FollowingLoss)
        weight.follow(float(task_loss))
        weight.epoch = self.state.epoch or 0.0
