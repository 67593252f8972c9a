"""Features of past batches as companion, corrected for how far the model has moved them since.

In the spirit of "Adaptive Cross Batch Normalization for Metric Learning" (2023), which re-matches the moments of all
stored features to today's. Here every batch is stored relative to the moments of its own time, so that old and young
features are each carried as far as they have to be.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Correction = Literal["none", "mean", "moments"]

DRIFT_DECAY = 0.9  # of the running estimate of the drift, a batch


class Moments(NamedTuple):
    """An estimate of today's feature distribution.

    Attributes:
        mean: `[dim]` float32.
        variance: `[dim]` float32.
        uncertainty: a scalar, the expected squared error of a coordinate of `mean`.
        drift: a scalar, the expected squared change of a coordinate of the true mean from batch to batch.
    """

    mean: Tensor
    variance: Tensor
    uncertainty: Tensor
    drift: Tensor


def update_moments(moments: Moments | None, features: Tensor) -> Moments:
    """Takes one batch into the estimate, as a Kalman filter does: the surer its mean is, the more it counts.

    A batch of `n` rows gives the mean with a squared error of `variance / n`; the estimate's own error grows by the
    drift with every batch. The drift is learnt from the surprises: the squared distance of batch mean and estimate, in
    excess of what these two errors explain. All coordinates share one gain, hence a stable one.

    Args:
        moments: the estimate so far; `None` before the first batch.
        features: `[n, dim]`, `n >= 1`, any floating dtype.
    """
    features = features.float()
    mean = features.mean(dim=0)
    variance = (features - mean).square().mean(dim=0)
    if moments is None:
        error = variance.mean() / max(len(features) - 1, 1)
        return Moments(mean, variance, error, torch.zeros_like(error))
    surprise = mean - moments.mean
    batch_error = moments.variance.mean() / len(features)
    if len(features) == 1:  # has no variance of its own, and the estimate may have none yet
        batch_error = torch.maximum(batch_error, surprise.square().mean() / 2)
    excess = surprise.square().mean() - batch_error - moments.uncertainty
    drift = DRIFT_DECAY * moments.drift + (1 - DRIFT_DECAY) * excess
    error = moments.uncertainty + drift.clamp(min=0)
    gain = torch.where(error > 0, error / (error + batch_error).clamp(min=torch.finfo(error.dtype).tiny), 0.0)
    spread = (1 - gain) * (moments.variance + gain * surprise.square()) + gain * variance
    return Moments(moments.mean + gain * surprise, spread, (1 - gain) * error, drift)


class FeatureMemory:
    """A queue of the features and labels of past batches, on the device that they come from and in their dtype.

    Args:
        size: how many it holds; the oldest give way.
        warmup_steps: how many optimizer steps only fill it.
        correction: `"none"` gives back features as they were, `"mean"` moves each by the change of the estimated mean
            since its time, `"moments"` also scales its distance from the mean by the change of standard deviations.

    Attributes:
        moments: today's estimate; `None` before the first batch.
        features: `[count, dim]`, oldest first; with a correction, relative to the moments of their time.
        labels: `[count, ...]`, or `None` where none were given.
    """

    def __init__(self, size: int, warmup_steps: int, correction: Correction) -> None:
        self.size = size
        self.warmup_steps = warmup_steps
        self.correction = correction
        self.moments: Moments | None = None
        self.features: Tensor | None = None
        self.labels: Tensor | None = None

    def recall(self, features: Tensor, step: int) -> tuple[Tensor, Tensor | None] | None:
        """Takes the current batch into the estimate of the moments, and gives the memory as it would be today.

        Args:
            features: `[n, dim]`, the current batch's, without gradient.
            step: optimizer steps done so far.

        Returns:
            `[count, dim]` float32 features and their labels; `None` during the warm-up and where there are none yet.
        """
        self.moments = update_moments(self.moments, features)
        if step < self.warmup_steps or self.features is None:
            return None
        stored = self.features.float()
        if self.correction == "moments":
            stored = stored * self.moments.variance.sqrt()
        return (stored if self.correction == "none" else stored + self.moments.mean), self.labels

    def take_in(self, features: Tensor, labels: Tensor | None) -> None:
        """Appends the batch that `recall` has seen.

        Args:
            features: `[n, dim]`, without gradient.
            labels: `[n, ...]`, or `None`, but then always.
        """
        if self.correction != "none" and self.moments is not None:
            relative = features.float() - self.moments.mean
            if self.correction == "moments":
                relative = relative / self.moments.variance.sqrt().clamp(min=torch.finfo(torch.float32).tiny)
            features = relative.to(features.dtype)
        self.features = self._append(self.features, features)
        self.labels = None if labels is None else self._append(self.labels, labels)

    def _append(self, stored: Tensor | None, rows: Tensor) -> Tensor:
        return (rows if stored is None else torch.cat([stored, rows]))[-self.size :].clone()

    def state_dict(self) -> dict[str, Tensor]:
        """All of it, by name, for a checkpoint."""
        tensors = {"features": self.features, "labels": self.labels}
        if self.moments is not None:
            tensors |= self.moments._asdict()
        return {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores `state_dict()`; a memory that has become smaller keeps the newest."""
        self.features, self.labels = (
            None if (tensor := state.get(name)) is None else tensor[-self.size :] for name in ("features", "labels")
        )
        self.moments = Moments(*(state[name] for name in Moments._fields)) if "mean" in state else None
