"""Distances of the moments of two batches of features: CORAL and the central moment discrepancy.

Both divide the features by a length scale first, as the loss could otherwise be lowered by shrinking all features.
"""

import torch
from torch import Tensor


def coral(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """The squared Frobenius distance of two batches' covariances, over `4 dim^2` (Sun & Saenko, ECCV workshops 2016).

    The features are divided by `sqrt(scale / (2 dim))`, a coordinate's pooled standard deviation, which makes this
    `norm(cov(x) - cov(y))^2 / scale^2`. Means are not compared. Covariances have denominators `n` and `m`: a batch
    of one row has covariance 0.

    Args:
        x: `[n, dim]`, float32 or float64.
        y: `[m, dim]`.
        scale: a scalar, the features' squared length scale, a constant: the mean squared distance of two
            different rows of the pooled batches.

    Returns:
        A scalar >= 0; 0 with zero gradients if a batch has no row.
    """
    if not len(x) or not len(y):
        return _nothing(x, y)
    return (_covariance(x / scale.sqrt()) - _covariance(y / scale.sqrt())).square().sum()


def central_moments(x: Tensor, y: Tensor, scale: Tensor, orders: int = 5) -> Tensor:
    """The central moment discrepancy of two batches (Zellinger et al., ICLR 2017, arXiv 1702.08811).

    `norm(mean(x) - mean(y)) / r + sum over k = 2..orders of norm(c_k(x) - c_k(y)) / r^k`, with `c_k` the coordinates'
    k-th central moments and `r` their range, taken as four standard deviations, `4 sqrt(scale / (2 dim))`. A batch
    of one row has central moments 0. A sum of norms, not squared: gradients keep their size near 0 (and are 0 at it),
    and two batches of one distribution differ by `O(sqrt(dim / n))`.

    Args:
        x: `[n, dim]`, float32 or float64.
        y: `[m, dim]`.
        scale: a scalar, the features' squared length scale, a constant: the mean squared distance of two
            different rows of the pooled batches.
        orders: the highest moment.

    Returns:
        A scalar >= 0; 0 with zero gradients if a batch has no row.

    Raises:
        ValueError: `orders` is below 1.
    """
    if orders < 1:
        raise ValueError(f"orders={orders} must be 1 or more.")
    if not len(x) or not len(y):
        return _nothing(x, y)
    width = 4 * (scale / (2 * x.shape[1])).sqrt()
    x, y = x / width, y / width
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    total = torch.linalg.vector_norm(mean_x - mean_y)  # its gradient at 0 is 0
    x, y = x - mean_x, y - mean_y
    power_x, power_y = x, y
    for _ in range(orders - 1):
        power_x, power_y = power_x * x, power_y * y
        total = total + torch.linalg.vector_norm(power_x.mean(dim=0) - power_y.mean(dim=0))
    return total


def _covariance(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(dim=0)
    return centred.T @ centred / len(rows)


def _nothing(x: Tensor, y: Tensor) -> Tensor:
    return 0.0 * (x.sum() + y.sum())
