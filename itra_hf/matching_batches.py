"""The matching loss of two batches and its gradients, apart from the graph that their features come from."""

from typing import NamedTuple

import torch
from torch import Tensor

from .matching import MatchingLoss
from .splitting import split_halves


class FeatureBatch(NamedTuple):
    """The features and labels of a primary and a companion batch.

    Attributes:
        features: `[n, dim]`.
        labels: `[n, ...]`, or `None`.
        companion_features: `[m, dim]`, or `None` where the companion is yet to come from the primary batch or memory.
        companion_labels: `[m, ...]`, or `None`.
    """

    features: Tensor
    labels: Tensor | None
    companion_features: Tensor | None = None
    companion_labels: Tensor | None = None


class Match(NamedTuple):
    """The matching loss of two batches and its gradients, apart from the graph that the features come from.

    Attributes:
        value: a scalar.
        gradient: `[n, dim]`, at the primary features.
        companion_gradient: `[m, dim]`, at the companion features; `None` where none is wanted.
    """

    value: Tensor
    gradient: Tensor
    companion_gradient: Tensor | None


def match_batches(matching_loss: MatchingLoss, batch: FeatureBatch, companion_learns: bool = True) -> Match:
    """Matches a primary with a companion batch.

    Args:
        matching_loss: of features and labels.
        batch: features of any floating dtype, of both batches.
        companion_learns: whether the gradient at the companion features is wanted.

    Returns:
        Value and gradients in float32 (float64 for float64 features), without gradient.
    """
    assert batch.companion_features is not None
    dtype = torch.promote_types(batch.features.dtype, torch.float32)
    with torch.enable_grad():
        features = batch.features.detach().to(dtype).requires_grad_()
        companion_features = batch.companion_features.detach().to(dtype).requires_grad_(companion_learns)
        loss = matching_loss(features, batch.labels, companion_features, batch.companion_labels)
        wanted = (features, companion_features) if companion_learns else (features,)
        gradients = torch.autograd.grad(loss, wanted)
    return Match(loss.detach(), gradients[0], gradients[1] if companion_learns else None)


def match_halves(matching_loss: MatchingLoss, batch: FeatureBatch) -> Match:
    """Matches the two halves of a primary batch, see `split_halves`.

    Args:
        matching_loss: of features and labels.
        batch: without companion features.

    Returns:
        As `match_batches`, with the gradient at all rows of the batch.
    """
    halves = split_halves(len(batch.features), batch.labels, batch.features.device)
    parts = [None if tensor is None else tensor[rows] for rows in halves for tensor in (batch.features, batch.labels)]
    match = match_batches(matching_loss, FeatureBatch(*parts))  # type: ignore[arg-type]
    assert match.companion_gradient is not None
    gradient = torch.cat([match.gradient, match.companion_gradient])[torch.cat(halves).argsort()]
    return Match(match.value, gradient, None)
