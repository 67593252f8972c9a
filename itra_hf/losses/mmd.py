"""The squared maximum mean discrepancy (MMD) as one sum over the pairs of all rows, with its gradient, in one pass.

With a weight `1 / n` of a primary row and `-1 / m` of a companion row, the squared MMD is the sum of `w_i w_j k(i, j)`
over the pairs of all rows, of one class in conditional alignment. Pairs are taken a chunk of rows at a time. A chunk's
kernel is turned into its part of the value and of the gradient at once, so nothing of order pairs outlives it. Both
batches are taken as one because each operation costs a GPU a launch, which small batches are dominated by.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..batches import UNLABELLED
from .kernels import BandwidthRule, Kernel, kernel_and_slopes, label_kernel, resolve_bandwidth, target_rows

Alignment = Literal["conditional", "joint", "marginal"]
Estimator = Literal["biased", "unbiased"]
ClassWeighting = Literal["size", "alike"]

ROWS_AT_ONCE = 2048  # whose pairs with all rows are in memory at one time


class Match(NamedTuple):
    """The distance of two batches with its gradients, apart from the graph that the features come from.

    Attributes:
        value: a scalar.
        gradient: `[n, dim]`, at the primary features.
        companion_gradient: `[m, dim]`, at the companion features; without meaning where none is wanted.
    """

    value: Tensor
    gradient: Tensor
    companion_gradient: Tensor


class RowWeights(NamedTuple):
    """How to sum over the pairs of a row with all rows.

    Attributes:
        row: `[rows, 1]`, what a row counts; negative in the companion batch.
        to_primary: `[rows, 1]`, what each of its pairs with a row of the primary batch counts.
        to_companion: `[rows, 1]`, what each of those with a row of the companion batch counts, with a minus.
    """

    row: Tensor
    to_primary: Tensor
    to_companion: Tensor


@torch.no_grad()
def squared_mmd(
    features: Tensor,
    labels: Tensor | None,
    companion_features: Tensor,
    companion_labels: Tensor | None,
    alignment: Alignment = "marginal",
    estimator: Estimator = "biased",
    kernel: Kernel = "gaussian",
    bandwidth: float | BandwidthRule = "mean",
    class_weighting: ClassWeighting = "size",
    companion_learns: bool = True,
    rows_at_once: int = ROWS_AT_ONCE,
) -> Match:
    """Squared MMD of two batches (Gretton et al., JMLR 2012).

    `biased` is the V-statistic `mean(k(x, x')) + mean(k(y, y')) - 2 mean(k(x, y))` over all pairs, a row with
    itself included; it is >= 0 and contracts features. `unbiased` is the U-statistic, which leaves a row with
    itself out and has expectation 0 for two batches of one distribution; it is 0 where a batch holds
    fewer than two rows. `conditional` alignment is the mean of this over the classes that both batches hold (with
    `unbiased` two rows of), weighted by `shared_size`, and 0 without any; `joint` multiplies `k` with `label_kernel`.

    Args:
        features: `[n, dim]`, float32 or float64.
        labels: `[n, ...]`, see `MatchingLoss`; `None` for marginal alignment.
        companion_features: `[m, dim]`, of the same dtype.
        companion_labels: `[m, ...]`.
        alignment: `"marginal"`, `"conditional"` or `"joint"`.
        estimator: `"biased"` or `"unbiased"`.
        kernel: see `kernel_and_slopes`.
        bandwidth: see `resolve_bandwidth`.
        class_weighting: of conditional alignment, see `shared_size`.
        companion_learns: whether the gradient at the companion features is wanted.
        rows_at_once: see `ROWS_AT_ONCE`.
    """
    pooled, sizes = torch.cat([features, companion_features]), [len(features), len(companion_features)]
    rows = pooled - pooled.mean(dim=0)
    unit = resolve_bandwidth(rows, bandwidth).sqrt()
    rows, classes, targets, scale = rows / unit, None, None, None
    if labels is not None and companion_labels is not None and alignment != "marginal":
        targets, scale = target_rows(torch.cat([labels, companion_labels]))
        classes = targets if alignment == "conditional" else None
    weights = _row_weights(classes, sizes, rows, estimator == "unbiased", class_weighting)
    learning = len(rows) if companion_learns else len(features)
    value, gradient = rows.new_zeros(()), torch.zeros_like(rows)
    for start in range(0, len(rows), rows_at_once):
        part = slice(start, start + rows_at_once)
        values, slopes = kernel_and_slopes(_distances(rows, sizes, part), kernel)
        if estimator == "unbiased":
            values.diagonal(start).zero_()
        if targets is not None:
            same = label_kernel(targets[part], targets, scale)
            values, slopes = values.mul_(same), slopes.mul_(same)
        value = value + (weights.row[part] * _difference(values, sizes, weights, part)).sum()
        part = slice(start, min(part.stop, learning))
        if start < part.stop:
            slopes = slopes[: part.stop - start]
            pull = _difference(slopes, sizes, weights, part) * rows[part]
            gradient[part] = weights.row[part] * (pull - _difference(slopes, sizes, weights, part, rows))
    # A squared distance's gradient has the factor 2, and each pair is there twice.
    return Match(value, *(gradient * (4 / unit)).split(sizes))


def shared_size(rows: Tensor, other_rows: Tensor, class_weighting: ClassWeighting = "size") -> Tensor:
    """How much each class counts in conditional alignment.

    By `size` it is `n m / (n + m)` for `n` and `m` rows in the two batches. That is the inverse of `1/n + 1/m`, which
    the variance of the difference of two means is proportional to: a class counts as far as its two samples tell what
    it looks like, so a class of a row or two is not held in place by these.

    Args:
        rows: counts of any shape, >= 0.
        other_rows: of the same shape.
        class_weighting: `"size"`, or `"alike"`: 1 for every class that both batches hold.

    Returns:
        The same shape; 0 where one of the two is 0.

    Example:
        >>> shared_size(torch.tensor([8.0, 1.0, 3.0]), torch.tensor([120.0, 1.0, 0.0]))
        tensor([7.5000, 0.5000, 0.0000])
    """
    if class_weighting == "alike":
        return ((rows > 0) & (other_rows > 0)).to(rows.dtype)
    return rows * other_rows / (rows + other_rows).clamp(min=1)


def _row_weights(
    classes: Tensor | None, sizes: list[int], rows: Tensor, leave_out: bool, class_weighting: ClassWeighting
) -> RowWeights:
    """Makes the sum over pairs a difference of means, or the mean of such differences over classes.

    Args:
        classes: `[rows]` class ids of both batches; `None` where the pairs of all classes count.
        sizes: of the two batches.
        rows: `[rows, dim]` of both.
        leave_out: whether pairs of a row with itself are left out.
        class_weighting: see `shared_size`.
    """
    first = torch.arange(len(rows), device=rows.device) < sizes[0]
    if classes is None:
        primary, companion = (rows.new_full((len(rows),), size) for size in sizes)
        held = torch.ones_like(first)
    else:
        primary, companion = (_counts_in(half, classes).to(rows.dtype) for half in classes.split(sizes))
        held = classes != UNLABELLED
    size = shared_size(primary, companion, class_weighting)
    size = torch.where(held & (torch.minimum(primary, companion) > leave_out), size, 0.0)
    own = torch.where(first, primary, -companion)
    total = (size / own)[: sizes[0]].sum()
    row = size / torch.where(total > 0, total, 1.0) / own
    if leave_out:
        primary, companion = primary - first.to(primary), companion - (~first).to(companion)
    return RowWeights(row[:, None], 1 / primary.clamp(min=1)[:, None], 1 / companion.clamp(min=1)[:, None])


def _counts_in(half: Tensor, classes: Tensor) -> Tensor:
    """How often each of the class ids is in one of the batches."""
    ordered = half.sort().values
    return torch.searchsorted(ordered, classes, right=True) - torch.searchsorted(ordered, classes)


def _distances(rows: Tensor, sizes: list[int], part: slice) -> Tensor:
    """The squared distances of some rows to all, `[part, rows]`; of equal rows exactly 0, where they are all rows."""
    halves = rows.split(sizes)
    if len(rows) <= part.stop - part.start:
        # Matrix by matrix, for where a product lies in a matrix decides its last digits.
        gram = torch.cat([torch.cat([half @ other.T for other in halves], dim=1) for half in halves])
        norms = gram.diagonal().clone()
    else:
        gram, norms = rows[part] @ rows.T, rows.square().sum(1)
    distances = gram.mul_(-2).add_(norms).add_(norms[part, None]).clamp_(min=0)
    distances.diagonal(part.start).zero_()
    return distances


def _difference(
    pairs: Tensor, sizes: list[int], weights: RowWeights, part: slice, features: Tensor | None = None
) -> Tensor:
    """The sum over some rows' pairs with the primary batch minus that with the companion batch.

    It is exactly 0 where the two batches are the same.

    Args:
        pairs: `[part, rows]`, of the kernel or of its slopes.
        sizes: of the two batches.
        weights: of all rows.
        part: which rows `pairs` are of.
        features: `[rows, dim]`, what to sum, times the pairs; `None` for the pairs themselves.

    Returns:
        `[part, 1]` or `[part, dim]`.
    """
    halves = pairs.split(sizes, dim=1)
    if features is None:
        primary, companion = (half.sum(1, keepdim=True) for half in halves)
    else:
        primary, companion = (half @ rows for half, rows in zip(halves, features.split(sizes), strict=True))
    return primary * weights.to_primary[part] - companion * weights.to_companion[part]
