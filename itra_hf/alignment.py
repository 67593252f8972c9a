"""The aligned loss: the task loss plus the weighted matching loss, over one process or over all of them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from .config import AlignmentArguments
from .forward import find_labels
from .gathering import average, gather_counts, gather_rows
from .matching import Alignment, MatchingLoss
from .weighting import MatchingWeight, depends_on, watch_pulls


class FeatureBatch(NamedTuple):
    """The features and labels of a primary and a companion batch.

    Attributes:
        features: `[n, dim]`.
        labels: `[n, ...]`, or `None`.
        companion_features: `[m, dim]`.
        companion_labels: `[m, ...]`, or `None`.
    """

    features: Tensor
    labels: Tensor | None
    companion_features: Tensor
    companion_labels: Tensor | None


class AlignedLoss(NamedTuple):
    """What one step's alignment gave.

    Attributes:
        total: the task loss plus the weighted matching loss, a scalar in the model's graph.
        matching_loss: a scalar without gradient.
        weight: a scalar without gradient.
        features: `[rows, dim]`, all features that were aligned, without gradient.
    """

    total: Tensor
    matching_loss: Tensor
    weight: Tensor
    features: Tensor


def needed_labels(batch: Mapping[str, Any], alignment: Alignment, label_names: Sequence[str]) -> Tensor | None:
    """The labels of a batch, where the alignment looks at labels.

    Args:
        batch: as the collator made it.
        alignment: see `MatchingLoss`.
        label_names: the model's label arguments.

    Raises:
        ValueError: there are none, or not in a tensor.
    """
    if alignment == "marginal":
        return None
    labels = find_labels(batch, label_names)
    if labels is None:
        raise ValueError(
            f"{alignment} alignment needs labels, but the batch has only {', '.join(batch)} (looked for "
            f"{', '.join(label_names) or 'none, since the model takes no labels'}); alignment='marginal' works without."
        )
    if not isinstance(labels, Tensor):
        raise ValueError(
            f"{alignment} alignment needs labels in a tensor, but the collator returns {type(labels).__name__}; "
            "alignment='marginal' works with any."
        )
    return labels


class Aligner:
    """Adds the matching loss to the task loss; one object a training run, for the weight has a memory.

    The matching loss and its gradient are computed apart from the model's graph, on the features alone. The
    gradient is then attached to the features, so that the one backward pass of the step carries it through the
    model. That needs no collective with a gradient and no second pass through the classifier.

    Args:
        matching_loss: of features and labels.
        matching_weight: of each step.
        accelerator: knows the processes.
        gather: whether to align the batches of all processes together.

    Raises:
        ValueError: `gather` where some processes share their batch (tensor, context or sequence parallelism).
    """

    def __init__(
        self, matching_loss: MatchingLoss, matching_weight: MatchingWeight, accelerator: Accelerator, gather: bool
    ) -> None:
        self.matching_loss = matching_loss
        self.matching_weight = matching_weight
        self.accelerator = accelerator
        self.gather = gather and accelerator.num_processes > 1
        self._checked = False
        parallelism = getattr(accelerator, "parallelism_config", None)
        if self.gather and parallelism is not None and parallelism.non_data_parallel_size > 1:
            raise ValueError(
                "gather_features=True needs a batch of its own on every process, but some share theirs "
                f"({parallelism}): set gather_features=False."
            )

    @classmethod
    def from_arguments(cls, args: AlignmentArguments, accelerator: Accelerator) -> "Aligner":
        """For a training run with these settings."""
        matching_loss = MatchingLoss(
            args.alignment, args.kernel, args.bandwidth, args.bandwidth_multipliers, args.estimator
        )
        matching_weight = MatchingWeight(
            args.matching_weight,
            args.weight_mode,
            args.matching_warmup_ratio,
            accelerator.device,
            partial(average, accelerator),
        )
        return cls(matching_loss, matching_weight, accelerator, args.gather_features)

    def __call__(
        self, task_loss: Tensor, batch: FeatureBatch, captured: Tensor, step: int, total_steps: int
    ) -> AlignedLoss:
        """Aligns one batch.

        Args:
            task_loss: a scalar.
            batch: this process's.
            captured: the features as tapped, see `watch_pulls`; features that need no gradient get weight 0.
            step: optimizer steps done so far.
            total_steps: optimizer steps in all.

        Raises:
            ValueError: the task loss does not depend on the features, so that the pulls can't be balanced; shapes
                or labels that the matching loss can't use.
        """
        everything, counts = self._gather(batch)
        value, *gradients = loss_and_gradients(self.matching_loss, everything)
        weight = self.matching_weight(step, total_steps)
        seen = torch.cat([everything.features, everything.companion_features]).detach()
        if not captured.requires_grad:
            return AlignedLoss(task_loss, value, torch.zeros_like(weight), seen)
        if counts is not None:
            # Every process holds the whole matching loss, and the mean over processes is what backward gives.
            gradients = [self._own(g, rows) * len(rows) for g, rows in zip(gradients, counts, strict=True)]
        features, companion_features = batch.features, batch.companion_features
        attached: Tensor = AttachGradients.apply(value, features, gradients[0], companion_features, gradients[1])
        total = task_loss + weight * attached
        if self.matching_weight.weight_mode == "balanced" and total.requires_grad:
            self._watch(task_loss, total, captured, features, gradients[0], weight)
        return AlignedLoss(total, value, weight, seen)

    def _gather(self, batch: FeatureBatch) -> tuple[FeatureBatch, tuple[list[int], list[int]] | None]:
        if not self.gather:
            return batch, None
        counts, companion_counts = gather_counts(self.accelerator, len(batch.features), len(batch.companion_features))
        rows = (counts, counts, companion_counts, companion_counts)
        gathered = (
            None if tensor is None else gather_rows(self.accelerator, tensor, count)
            for tensor, count in zip(batch, rows, strict=True)
        )
        return FeatureBatch(*gathered), (counts, companion_counts)  # type: ignore[arg-type]

    def _own(self, rows: Tensor, counts: list[int]) -> Tensor:
        return rows.split(counts)[self.accelerator.process_index]

    def _watch(
        self, task_loss: Tensor, total: Tensor, captured: Tensor, features: Tensor, gradient: Tensor, weight: Tensor
    ) -> None:
        if not self._checked and not depends_on(task_loss, captured):
            raise ValueError(
                "The task loss does not depend on the tapped features, so its pull on them can't be balanced with the "
                "matching loss's: choose a feature that the classifier uses, or weight_mode='constant'."
            )
        self._checked = True
        size = gradient.abs().max().clamp(min=torch.finfo(gradient.dtype).tiny)  # else float16 could underflow
        unit = (gradient / size).to(features.dtype)
        (pull,) = torch.autograd.grad(features, captured, unit, retain_graph=True)
        watch_pulls(total, captured, pull[: len(features)].float() * size, weight, self.matching_weight.note)


def loss_and_gradients(matching_loss: MatchingLoss, batch: FeatureBatch) -> tuple[Tensor, Tensor, Tensor]:
    """The matching loss and its gradients at both batches' features, apart from the graph that they come from.

    Args:
        matching_loss: of features and labels.
        batch: features of any floating dtype.

    Returns:
        A scalar, `[n, dim]` and `[m, dim]`, in float32 (float64 for float64 features), without gradient.
    """
    dtype = torch.promote_types(batch.features.dtype, torch.float32)
    with torch.enable_grad():
        features = batch.features.detach().to(dtype).requires_grad_()
        companion_features = batch.companion_features.detach().to(dtype).requires_grad_()
        loss = matching_loss(features, batch.labels, companion_features, batch.companion_labels)
        gradients = torch.autograd.grad(loss, (features, companion_features))
    return loss.detach(), *gradients


class AttachGradients(torch.autograd.Function):
    """A loss whose gradients are known already: its value forward, those gradients backward."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        loss: Tensor,
        features: Tensor,
        gradient: Tensor,
        companion_features: Tensor,
        companion_gradient: Tensor,
    ) -> Tensor:
        """Returns `loss`; the gradients have the shapes of the features that they belong to."""
        ctx.save_for_backward(gradient, companion_gradient)
        return loss.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, outer: Tensor) -> tuple[Tensor | None, ...]:
        """Scales the known gradients; autograd casts them to the features' dtypes."""
        gradient, companion_gradient = ctx.saved_tensors  # type: ignore[attr-defined]
        return None, outer * gradient, None, outer * companion_gradient, None
