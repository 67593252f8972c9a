"""The squared maximum mean discrepancy (MMD) over all pairs of rows, with its gradient, in one pass.

Pairs are taken block by block (primary with primary, companion with companion, primary with companion) and each
large block a chunk of rows at a time. A chunk's kernel is turned into its part of the value and of the gradient
at once, so nothing of order pairs outlives it.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .kernels import BandwidthRule, Kernel, kernel_and_slopes, label_kernel, resolve_bandwidth, target_rows

Alignment = Literal["conditional", "joint", "marginal"]
Estimator = Literal["biased", "unbiased"]
ClassWeighting = Literal["size", "alike"]

ROWS_AT_ONCE = 4096  # whose pairs with all others are in memory at one time


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


class Side(NamedTuple):
    """One of two batches, prepared for sums over pairs.

    Attributes:
        features: `[n, dim]`, centred, and in units of the square root of the bandwidth.
        norms: `[n]`, their squared norms.
        labels: `[n, ...]` as `label_kernel` takes them; `None` where labels don't count.
        learns: whether the gradient at the features is wanted.
    """

    features: Tensor
    norms: Tensor
    labels: Tensor | None
    learns: bool


class PairKernel(NamedTuple):
    """The kernel of a pair of rows, and how to sum it.

    Attributes:
        kernel: see `kernel_and_slopes`.
        label_scale: see `label_kernel`.
        leave_out: whether pairs of a row with itself are left out, as `unbiased` does.
        rows_at_once: see `ROWS_AT_ONCE`.
    """

    kernel: Kernel
    label_scale: Tensor | None
    leave_out: bool
    rows_at_once: int


class PairFactors(NamedTuple):
    """How much a pair of rows counts, read off its first row.

    Attributes:
        primary: `[n]`, for pairs within the primary batch.
        companion: `[m]`, for pairs within the companion batch.
        across: `[n]`, for a row of the primary batch with one of the companion batch; these count -2 times.
    """

    primary: Tensor
    companion: Tensor
    across: Tensor


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
    learns: Sequence[bool] = (True, True),
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
        learns: whether the gradient at the primary and at the companion features is wanted.
        rows_at_once: see `ROWS_AT_ONCE`.
    """
    centre = torch.cat([features, companion_features]).mean(dim=0)
    x, y = features - centre, companion_features - centre
    unit = resolve_bandwidth(x, y, bandwidth).sqrt()
    row_labels, column_labels, scale = None, None, None
    if labels is not None and companion_labels is not None and alignment != "marginal":
        row_labels, column_labels, scale = target_rows(labels, companion_labels)
    pairs = PairKernel(kernel, scale, estimator == "unbiased", rows_at_once)
    primary, companion, grams = _sides(x / unit, y / unit, row_labels, column_labels, learns, rows_at_once)
    by_class = alignment == "conditional"
    factors = _pair_factors(primary, companion, by_class, class_weighting, pairs)
    within_x, x_pull, _ = _sum_over_block(primary, primary, factors.primary, pairs, grams[0])
    within_y, y_pull, _ = _sum_over_block(companion, companion, factors.companion, pairs, grams[1])
    across, x_push, y_push = _sum_over_block(primary, companion, factors.across, pairs, grams[2])
    # A squared distance's gradient has the factor 2; a pair counts twice, within a block or by the -2 across.
    return Match(within_x + within_y - 2 * across, 4 * (x_pull - x_push) / unit, 4 * (y_pull - y_push) / unit)


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


def _sides(
    x: Tensor, y: Tensor, labels: Tensor | None, other_labels: Tensor | None, learns: Sequence[bool], rows_at_once: int
) -> tuple[Side, Side, Sequence[Tensor | None]]:
    """Both sides, and the Gram matrices of the three blocks, `None` where they are made chunk by chunk."""
    grams: Sequence[Tensor | None] = (None, None, None)
    norms = [x.square().sum(1), y.square().sum(1)]
    if max(len(x), len(y)) <= rows_at_once:
        whole = x @ x.T, y @ y.T, x @ y.T
        # Norms off the Gram matrices' diagonals make equal rows exactly 0 apart.
        norms, grams = [gram.diagonal().clone() for gram in whole[:2]], whole
    return Side(x, norms[0], labels, learns[0]), Side(y, norms[1], other_labels, learns[1]), grams


def _pair_factors(
    primary: Side, companion: Side, by_class: bool, class_weighting: ClassWeighting, pairs: PairKernel
) -> PairFactors:
    """Makes the sum over pairs a difference of means, or the mean of such differences over classes."""

    def members(rows: Side, columns: Side) -> Tensor:
        if not by_class or rows.labels is None or columns.labels is None:
            return rows.norms.new_full((len(rows.norms),), len(columns.norms))
        chunks = rows.labels.split(pairs.rows_at_once)
        return torch.cat([label_kernel(chunk, columns.labels, None).sum(1) for chunk in chunks]).to(rows.norms.dtype)

    own_x, other_x = members(primary, primary), members(primary, companion)
    own_y, other_y = members(companion, companion), members(companion, primary)
    fewest = 1 if pairs.leave_out else 0
    valid_x = ((own_x > fewest) & (other_x > fewest)).to(own_x.dtype)
    valid_y = ((own_y > fewest) & (other_y > fewest)).to(own_y.dtype)
    size_x = valid_x * shared_size(own_x, other_x, class_weighting)
    size_y = valid_y * shared_size(own_y, other_y, class_weighting)
    total = (size_x / own_x.clamp(min=1)).sum()
    share_x, share_y = (size / torch.where(total > 0, total, 1.0) for size in (size_x, size_y))
    return PairFactors(
        share_x / (own_x * (own_x - fewest)).clamp(min=1),
        share_y / (own_y * (own_y - fewest)).clamp(min=1),
        share_x / (own_x * other_x).clamp(min=1),
    )


def _sum_over_block(
    rows: Side, columns: Side, factors: Tensor, pairs: PairKernel, products: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum over one block, with `sum_j slope_ij (x_i - y_j)` at each row and its counterpart at each column."""
    value, within = factors.new_zeros(()), rows is columns
    row_pull, column_pull = torch.zeros_like(rows.features), torch.zeros_like(columns.features)
    for start in range(0, len(factors), pairs.rows_at_once):
        part = slice(start, start + pairs.rows_at_once)
        x, factor = rows.features[part], factors[part, None]
        gram = x @ columns.features.T if products is None else products
        distances = gram.mul_(-2).add_(columns.norms).add_(rows.norms[part, None]).clamp_(min=0)
        if within:
            distances.diagonal(start).zero_()
        values, slopes = kernel_and_slopes(distances, pairs.kernel)
        if within and pairs.leave_out:
            values.diagonal(start).zero_()
        if rows.labels is not None and columns.labels is not None:
            same = label_kernel(rows.labels[part], columns.labels, pairs.label_scale).to(values.dtype)
            values, slopes = values.mul_(same), slopes.mul_(same)
        value = value + (values.sum(1, keepdim=True) * factor).sum()
        if rows.learns:
            row_pull[part] = factor * (slopes.sum(1, keepdim=True) * x - slopes @ columns.features)
        if columns.learns and not within:
            column_pull += (slopes.T @ factor) * columns.features - slopes.T @ (factor * x)
    return value, row_pull, column_pull
