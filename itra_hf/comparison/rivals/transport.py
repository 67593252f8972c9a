"""Example weights by optimal transport, for long tails."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .ranges import ABOVE_ZERO, Range, check_ranges
from .task_loss import TaskLossTrainer

KEPT = 0.9  # of a class's mean feature, by each batch that holds the class


class TransportTrainer(TaskLossTrainer):
    """After *Learning to Re-weight Examples with Optimal Transport for Imbalanced Classification* (NeurIPS 2022).

    A batch's examples get the weights that bring it, as a distribution, nearest to a balanced one by entropic optimal
    transport. The balanced one has the mean feature of each class of the batch, each with the same mass. The cost of
    a pair is one minus the cosine of the features, and no mass goes to another class. Since the weights are free, the
    plan that is best has a closed form: each class's mass is divided over its examples by a softmax of minus their
    costs over `smoothness`. That the means are running ones of the training features themselves, summed over all
    processes, and the closed form are details of ours. A resumed run starts the means anew.

    Args:
        *args: of `Trainer`.
        smoothness: of the plan, above 0; a large one weighs the examples of a class alike.
        **kwargs: of `Trainer`.
    """

    uses_features = True
    ranges: Mapping[str, Range] = {"smoothness": ABOVE_ZERO}

    def __init__(self, *args: Any, smoothness: float = 0.1, **kwargs: Any) -> None:
        check_ranges(self.ranges, {"smoothness": smoothness})
        super().__init__(*args, **kwargs)
        self.smoothness = smoothness
        self.means: Tensor | None = None  # [classes, dim], 0 for a class not seen yet

    def start_run(self) -> None:
        """Starts the means anew."""
        self.means = None

    def loss_of(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> Tensor:
        """See the class."""
        assert features is not None
        assert self.means is not None
        costs = 1 - nn.functional.cosine_similarity(features.detach().float(), self.means[labels], dim=-1)
        return (transport_weights(costs, labels, self.smoothness) * self.cross_entropy(logits, labels)).sum()

    def prepare(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> None:
        """Takes the batch into the means."""
        assert features is not None
        rows = features.detach().float()
        sums = rows.new_zeros(logits.shape[1], rows.shape[1] + 1)
        sums.index_add_(0, labels, torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1))
        sums = self.summed(sums)
        seen, found = sums[:, -1:] > 0, sums[:, :-1] / sums[:, -1:].clamp(min=1)
        known = found if self.means is None else self.means
        kept = torch.where(known.any(dim=1, keepdim=True), KEPT * known + (1 - KEPT) * found, found)
        self.means = torch.where(seen, kept, known)


def transport_weights(costs: Tensor, labels: Tensor, smoothness: float) -> Tensor:
    """The weights of a batch's examples, which sum to 1, and to the same for each class that is there.

    Args:
        costs: `[n]`, of moving an example to its class's mean.
        labels: `[n]` class ids.
        smoothness: see `TransportTrainer`.
    """
    same = labels[:, None] == labels
    shares = (-costs / smoothness).expand(len(costs), -1).masked_fill(~same, float("-inf")).softmax(dim=1)
    return shares.diagonal() / len(labels.unique())
