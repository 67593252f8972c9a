"""Losses for wrong labels: generalised cross-entropy, and the selection of small losses after co-teaching."""

import math
from typing import Any

from torch import Tensor

from .task_loss import TaskLossTrainer


class GeneralizedCrossEntropyTrainer(TaskLossTrainer):
    """Generalised cross-entropy (Zhang and Sabuncu, NeurIPS 2018): `(1 - p ** q) / q` of the label's probability `p`.

    Its gradient is that of the cross-entropy times `p ** q`, so a label that the model finds unlikely, which may be a
    wrong one, counts less.

    Args:
        *args: of `Trainer`.
        q: above 0 to 1; near 0 it is the cross-entropy, at 1 the mean absolute error.
        **kwargs: of `Trainer`.
    """

    smooths = False

    def __init__(self, *args: Any, q: float = 0.7, **kwargs: Any) -> None:
        if not 0 < q <= 1:
            raise ValueError(f"q={q!r} must be above 0 and at most 1.")
        super().__init__(*args, **kwargs)
        self.q = q

    def loss_of(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> Tensor:
        """See the class."""
        return ((1 - (-self.q * self.cross_entropy(logits, labels)).exp()) / self.q).mean()


class SmallLossTrainer(TaskLossTrainer):
    """After co-teaching (Han et al., NeurIPS 2018), with one model in place of two: large losses are left out.

    A model learns right labels before wrong ones, so of each batch of a process the share `wrong` of the examples with
    the largest losses is taken for wrong, and left out. The share grows from 0 over the first epochs.

    Args:
        *args: of `Trainer`.
        wrong: the share of wrong labels, 0 to below 1.
        epochs: over which the share grows.
        **kwargs: of `Trainer`.
    """

    def __init__(self, *args: Any, wrong: float = 0.2, epochs: float = 5.0, **kwargs: Any) -> None:
        for name, value, fits in (("wrong", wrong, 0 <= wrong < 1), ("epochs", epochs, epochs > 0)):
            if not fits:
                needed = "from 0 to below 1" if name == "wrong" else "above 0"
                raise ValueError(f"{name}={value!r} must be {needed}.")
        super().__init__(*args, **kwargs)
        self.wrong, self.epochs = wrong, epochs

    def loss_of(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> Tensor:
        """See the class."""
        losses = self.cross_entropy(logits, labels)
        share = self.wrong * min(1.0, (self.state.epoch or 0.0) / self.epochs)
        kept = max(1, math.ceil((1 - share) * len(losses)))
        return losses.topk(kept, largest=False).values.mean()
