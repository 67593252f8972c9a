"""Losses for long tails: logit adjustment, class-balanced weights, and one after the equalization loss."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.trainer_utils import has_length

from ...companions.pairs import read_class_ids
from .ranges import NOT_NEGATIVE, SHARE, Range, check_ranges
from .task_loss import TaskLossTrainer


class CountingTrainer(TaskLossTrainer):
    """A trainer that counts the classes of its training set, when it is built with one, else at the first batch.

    Raises:
        ValueError: the training set has no length or no class ids.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._counts = None if self.train_dataset is None else self.class_counts()

    @property
    def counts(self) -> Tensor:
        """Training examples of each class, `[classes]` float64 on the CPU; the last ones may be missing."""
        if self._counts is None:
            self._counts = self.class_counts()
        return self._counts

    def class_counts(self) -> Tensor:
        """Counts; see the class for what can't be counted."""
        name = type(self).__name__
        try:
            if not has_length(self.train_dataset):
                raise ValueError("there is none of known length")
            ids = read_class_ids(self.train_dataset, self.label_names)
        except ValueError as error:
            raise ValueError(
                f"{name} counts the classes of the training set first, which needs one of known length with one class "
                "id an example."
            ) from error
        return torch.from_numpy(np.bincount(ids[ids >= 0])).double()

    def counts_for(self, logits: Tensor) -> Tensor:
        """The counts of all classes of the logits; a class without examples counts as one."""
        return nn.functional.pad(self.counts, (0, logits.shape[1] - len(self.counts))).clamp(min=1)


class LogitAdjustedTrainer(CountingTrainer):
    """Logit adjustment (Menon et al., *Long-tail Learning via Logit Adjustment*, ICLR 2021).

    The loss is the cross-entropy of `logits + strength * log(prior)`, so a rare class has to win by a margin in
    training. Without the margin, in testing, what is left is fit for classes of equal size. The priors are the classes'
    shares of the training set; a class without examples counts as one example.

    Args:
        *args: of `Trainer`.
        strength: of the adjustment; 1 is the theory's.
        **kwargs: of `Trainer`.
    """

    ranges: Mapping[str, Range] = {"strength": NOT_NEGATIVE}

    def __init__(self, *args: Any, strength: float = 1.0, **kwargs: Any) -> None:
        check_ranges(self.ranges, {"strength": strength})
        super().__init__(*args, **kwargs)
        self.strength = strength

    def loss_of(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> Tensor:
        """See the class."""
        counts = self.counts_for(logits)
        margins = self.strength * (counts / counts.sum()).log()
        return self.cross_entropy(logits + margins.to(logits), labels).mean()


class ClassBalancedTrainer(CountingTrainer):
    """Class-balanced weights (Cui et al., *Class-Balanced Loss Based on Effective Number of Samples*, CVPR 2019).

    The cross-entropy of an example of a class of `n` examples counts `(1 - beta) / (1 - beta ** n)` times, scaled so
    that the weights' mean over the training set's classes is 1. With `beta` near 1 that is the inverse of `n`.

    Args:
        *args: of `Trainer`.
        beta: 0 to below 1; 0 is the plain loss.
        **kwargs: of `Trainer`.
    """

    ranges: Mapping[str, Range] = {"beta": SHARE}

    def __init__(self, *args: Any, beta: float = 0.999, **kwargs: Any) -> None:
        check_ranges(self.ranges, {"beta": beta})
        super().__init__(*args, **kwargs)
        self.beta = beta

    def loss_of(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> Tensor:
        """See the class."""
        counts = self.counts_for(logits)
        weights = (1 - self.beta) / (1 - self.beta**counts)
        weights = weights / weights[: len(self.counts)][self.counts > 0].mean()
        return (weights.to(logits)[labels] * self.cross_entropy(logits, labels)).mean()


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

    ranges: Mapping[str, Range] = {"strength": NOT_NEGATIVE}

    def __init__(self, *args: Any, strength: float = 2.0, **kwargs: Any) -> None:
        check_ranges(self.ranges, {"strength": strength})
        super().__init__(*args, **kwargs)
        self.strength = strength
        self.gradients: Tensor | None = None
        self.margins: Tensor | None = None  # of the batch at hand

    def start_run(self) -> None:
        """Starts the sums anew."""
        self.gradients = None

    def prepare(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> None:
        """Takes the margins from the sums so far, then takes the batch into these."""
        sums = logits.new_ones(logits.shape[1]) if self.gradients is None else self.gradients
        self.margins = self.strength * (sums / sums.sum()).log()
        likely = (logits.detach() + self.margins).softmax(dim=-1).gather(1, labels[:, None]).squeeze(1)
        self.gradients = sums + self.summed(torch.zeros_like(sums).index_add(0, labels, 1 - likely))

    def loss_of(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> Tensor:
        """See the class."""
        assert self.margins is not None
        return self.cross_entropy(logits + self.margins, labels).mean()
