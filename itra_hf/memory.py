"""Features of past batches as companion."""

from collections.abc import Mapping

import torch
from torch import Tensor


class FeatureMemory:
    """A queue of the features and labels of past batches, on the device that they come from and in their dtype.

    Features stay as the model gave them: they lag behind the weights, and it is by their lag that they help.

    Args:
        size: how many it holds; the oldest give way.
        warmup_steps: how many optimizer steps only fill it.

    Attributes:
        features: `[count, dim]`, oldest first.
        labels: `[count, ...]`, or `None` where none were given.
    """

    def __init__(self, size: int, warmup_steps: int) -> None:
        self.size = size
        self.warmup_steps = warmup_steps
        self.features: Tensor | None = None
        self.labels: Tensor | None = None

    def recall(self, step: int) -> tuple[Tensor, Tensor | None] | None:
        """The memory before the current batch.

        Args:
            step: optimizer steps done so far.

        Returns:
            `[count, dim]` float32 features and their labels; `None` during the warm-up and where there are none yet.
        """
        if step < self.warmup_steps or self.features is None:
            return None
        return self.features.float(), self.labels

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
