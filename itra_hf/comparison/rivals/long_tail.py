"""Losses for long tails: logit adjustment, class-balanced weights, and one after the equalization loss."""

from typing import Any

import torch
from torch import Tensor

from .task_loss import TaskLossTrainer


class LogitAdjustedTrainer(TaskLossTrainer):
    """Logit adjustment (Menon et al., *Long-tail Learning via Logit Adjustment*, ICLR 2021).

    The loss is the cross-entropy of `logits + strength * log(prior)`, so a rare class has to win by a margin in
    training. Without the margin, in testing, what is left is fit for classes of equal size. The priors are the classes'
    shares of the training set; a class without examples counts as one example.

    Args:
        *args: of `Trainer`.
        strength: of the adjustment; 1 is the theory's.
        **kwargs: of `Trainer`.
    """

    def __init__(self, *args: Any, strength: float = 1.0, **kwargs: Any) -> None:
        if not strength >= 0:
            raise ValueError(f"strength={strength!r} must be >= 0.")
        super().__init__(*args, **kwargs)
        counts = self.class_counts()
        self.margins = strength * (counts / counts.sum()).log()

    def loss_of(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> Tensor:
        """See the class."""
        return self.cross_entropy(logits + self.margins.to(logits.device), labels).mean()


class ClassBalancedTrainer(TaskLossTrainer):
    """Class-balanced weights (Cui et al., *Class-Balanced Loss Based on Effective Number of Samples*, CVPR 2019).

    The cross-entropy of an example of a class of `n` examples counts `(1 - beta) / (1 - beta ** n)` times, scaled so
    that the weights' mean over the classes is 1. With `beta` near 1 that is the inverse of `n`.

    Args:
        *args: of `Trainer`.
        beta: 0 to below 1; 0 is the plain loss.
        **kwargs: of `Trainer`.
    """

    def __init__(self, *args: Any, beta: float = 0.99, **kwargs: Any) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"beta={beta!r} must be from 0 to below 1.")
        super().__init__(*args, **kwargs)
        weights = (1 - beta) / (1 - beta ** self.class_counts())
        self.weights = weights / weights.mean()

    def loss_of(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> Tensor:
        """See the class."""
        return (self.weights.to(logits.device)[labels] * self.cross_entropy(logits, labels)).mean()


class EqualizationTrainer(TaskLossTrainer):
    """After the equalization loss (Tan et al., *The Equalization Losses*, 2022), in its form for a softmax.

    A class that has had little positive gradient so far is held back by the others' examples. So each class's positive
    gradients `1 - p` are summed up, over all processes, and `strength * log(share)` of the sum is added to its logit
    in training. No class counts are needed. That every class starts with a sum of 1 is a detail of ours, which spares
    the first example of a class a loss of about 20. A resumed run sums up anew.

    Args:
        *args: of `Trainer`.
        strength: of the adjustment.
        **kwargs: of `Trainer`.
    """

    def __init__(self, *args: Any, strength: float = 1.0, **kwargs: Any) -> None:
        if not strength >= 0:
            raise ValueError(f"strength={strength!r} must be >= 0.")
        super().__init__(*args, **kwargs)
        self.strength = strength
        self.gradients: Tensor | None = None

    def loss_of(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> Tensor:
        """See the class."""
        if self.gradients is None:
            self.gradients = torch.ones(logits.shape[1], device=logits.device)
        adjusted = logits + self.strength * (self.gradients / self.gradients.sum()).log()
        missing = 1 - adjusted.detach().softmax(dim=-1).gather(1, labels[:, None]).squeeze(1)
        self.gradients = self.gradients + self.summed(torch.zeros_like(self.gradients).index_add(0, labels, missing))
        return self.cross_entropy(adjusted, labels).mean()
