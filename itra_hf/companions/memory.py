"""Features of past batches as companion."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..batches import FeatureBatch
from ..losses.matching import MatchingLoss
from ..losses.mmd import Match


class FeatureMemory:
    """The source of companions `"memory"`: a queue of the features and labels of past batches.

    Features stay as the model gave them, on their device and in their dtype. They lag behind the weights, and it is by
    their lag that they help.

    Args:
        size: how many it holds; the oldest give way.

    Attributes:
        features: `[count, dim]`, oldest first; `None` before the first batch.
        labels: `[count, ...]`, or `None` where none were given.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.features: Tensor | None = None
        self.labels: Tensor | None = None

    def match(self, matching_loss: MatchingLoss, batch: FeatureBatch) -> Match | None:
        """Matches a batch with those before it, then takes it in.

        Args:
            matching_loss: of features and labels.
            batch: without companion features.

        Returns:
            `None` where there is none before it.
        """
        # At once, not when there is something to compare with.
        matching_loss.check(batch.features, batch.labels, batch.features, batch.labels)
        stored, labels = self.features, self.labels
        self.take_in(batch.features.detach(), batch.labels)
        if stored is None:
            return None
        return matching_loss.match(batch.features, batch.labels, stored.float(), labels, companion_learns=False)

    def take_in(self, features: Tensor, labels: Tensor | None) -> None:
        """Appends a batch.

        Args:
            features: `[n, dim]`, without gradient.
            labels: `[n, ...]`, or `None`, but then always.
        """
        self.features = self._append(self.features, features)
        self.labels = None if labels is None else self._append(self.labels, labels)

    def _append(self, stored: Tensor | None, rows: Tensor) -> Tensor:
        return (rows if stored is None else torch.cat([stored, rows]))[-self.size :].clone()

    def state_dict(self) -> dict[str, Tensor]:
        """All of it, by name, for a checkpoint."""
        tensors = {"features": self.features, "labels": self.labels}
        return {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores `state_dict()`; a memory that has become smaller keeps the newest."""
        self.features, self.labels = (
            None if (tensor := state.get(name)) is None else tensor[-self.size :] for name in ("features", "labels")
        )
