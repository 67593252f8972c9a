"""Losses for wrong labels: generalised cross-entropy, and the selection of small losses after co-teaching."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments

from .ranges import ABOVE_ZERO_TO_ONE, SHARE, Range, check_ranges, refuse
from .task_loss import TaskLossTrainer


class GeneralizedCrossEntropyTrainer(TaskLossTrainer):
    """Generalised cross-entropy (Zhang and Sabuncu, NeurIPS 2018): `(1 - p ** q) / q` of the label's probability `p`.

    Its gradient is that of the cross-entropy times `p ** q`, so a label that the model finds unlikely, which may be a
    wrong one, counts less.

    Args:
        *args: of `Trainer`.
        q: above 0 to 1; near 0 it is the cross-entropy, at 1 the mean absolute error.
        **kwargs: of `Trainer`.

    Raises:
        ValueError: a wrong value, or label smoothing, which has no meaning here.
    """

    ranges: Mapping[str, Range] = {"q": ABOVE_ZERO_TO_ONE}

    def __init__(self, *args: Any, q: float = 0.5, **kwargs: Any) -> None:
        check_ranges(self.ranges, {"q": q})
        super().__init__(*args, **kwargs)
        refuse(self, self.args)
        self.q = q

    @staticmethod
    def refusal(args: TrainingArguments, **settings: Any) -> str | None:
        """Label smoothing."""
        if not (smoothing := args.label_smoothing_factor):
            return None
        return f"label_smoothing_factor={smoothing!r} has no meaning for GeneralizedCrossEntropyTrainer; only 0 has."

    def loss_of(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> Tensor:
        """See the class."""
        return (-torch.expm1(-self.q * self.cross_entropy(logits, labels)) / self.q).mean()


class SmallLossTrainer(TaskLossTrainer):
    """After co-teaching (Han et al., NeurIPS 2018), with one model in place of two: large losses are left out.

    A model learns right labels before wrong ones, so of each batch of a process the share `wrong` of the examples with
    the largest losses is taken for wrong, and left out. What is no whole example is left out of the next batch, a
    detail of ours. The share grows from 0 over the first part of the run.

    Args:
        *args: of `Trainer`.
        wrong: the share of wrong labels, 0 to below 1.
        ramp: the part of the run's steps over which the share grows, above 0 to 1.
        **kwargs: of `Trainer`.

    Raises:
        ValueError: a wrong value, or batches of one example, of which none can be left out.
    """

    ranges: Mapping[str, Range] = {"wrong": SHARE, "ramp": ABOVE_ZERO_TO_ONE}

    def __init__(self, *args: Any, wrong: float = 0.1, ramp: float = 0.25, **kwargs: Any) -> None:
        check_ranges(self.ranges, {"wrong": wrong, "ramp": ramp})
        super().__init__(*args, **kwargs)
        refuse(self, self.args)
        self.wrong, self.ramp = wrong, ramp
        self.due = 0.0  # how many examples are still to be left out

    @staticmethod
    def refusal(args: TrainingArguments, **settings: Any) -> str | None:
        """Batches of one."""
        if (size := args.per_device_train_batch_size) > 1:
            return None
        return f"per_device_train_batch_size={size!r}: SmallLossTrainer leaves examples out of batches of two or more."

    def start_run(self) -> None:
        """Owes nothing."""
        self.due = 0.0

    def loss_of(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> Tensor:
        """See the class."""
        losses, done = self.cross_entropy(logits, labels), self.state.global_step / max(1, self.state.max_steps)
        self.due += self.wrong * min(1.0, done / self.ramp) * len(losses)
        left_out = min(math.floor(self.due + 1e-6), len(losses) - 1)  # 0.7 * 10 is a little less than 7
        self.due = min(self.due - left_out, 1.0)
        return losses.topk(len(losses) - left_out, largest=False).values.mean()
