"""Kernels on features and on labels, and their bandwidth."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..batches import UNLABELLED, is_class_ids

Kernel = Literal["gaussian", "laplacian", "inverse_multiquadric"]
BandwidthRule = Literal["mean", "median"]

SCALES = (1e-15, 1e15)  # of bandwidths, so that they are float32s with room for the distances


def resolve_bandwidth(rows: Tensor, bandwidth: float | BandwidthRule) -> Tensor:
    """The kernel's squared length scale `s`.

    Args:
        rows: `[n, dim]`, of both batches; centred on their mean, or near it.
        bandwidth: a positive number, taken as it is, or `"mean"` or `"median"` of the squared distances
            between two different rows. A median below a millionth of the mean gives way to the mean (most rows
            coincide), and a mean of 0 to 1 (all rows coincide).

    Returns:
        A scalar tensor.
    """
    if not isinstance(bandwidth, str):
        return rows.new_full((), bandwidth)
    mean = mean_squared_distance(rows)
    scale = mean
    if bandwidth == "median" and len(rows) > 1:
        first, second = torch.triu_indices(len(rows), len(rows), 1, device=rows.device)
        ordered = squared_distances(rows, rows)[first, second].sort().values
        middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
        scale = torch.where(middle > 1e-6 * mean, middle, mean)
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def mean_squared_distance(rows: Tensor) -> Tensor:
    """The mean squared distance of two different rows, from the rows' variance: `2 / (n - 1) * sum |x - mean|^2`.

    Args:
        rows: `[n, dim]`.

    Returns:
        A scalar; exactly 0 where the rows coincide up to rounding, and for a single row.
    """
    mean = rows.mean(dim=0)
    squares = (rows - mean).square().sum() / max(len(rows), 1)
    rounding = (8 * torch.finfo(rows.dtype).eps) ** 2 * mean.square().sum()
    return torch.where(squares > rounding, squares * (2 * len(rows) / max(len(rows) - 1, 1)), 0.0)


def squared_distances(rows: Tensor, columns: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs through a Gram matrix, so memory has no term `n * m * dim`.

    Args:
        rows: `[n, dim]`, centred on the common mean, or near it: the digits of large norms would be lost.
        columns: `[m, dim]`.

    Returns:
        `[n, m]` values >= 0.
    """
    norms = rows.square().sum(1)[:, None] + columns.square().sum(1)
    return (norms - 2 * rows @ columns.T).clamp(min=0)


def kernel_and_slopes(distances: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """A characteristic kernel of squared distances at bandwidth 1, and its derivative.

    With squared distance `d`, `gaussian` is `exp(-d / 2)`, `laplacian` is `exp(-sqrt(d))`, `inverse_multiquadric` is
    `1 / sqrt(1 + d / 2)`, whose pull reaches far modes.

    Args:
        distances: squared distances of any shape; overwritten.
        kernel: which of the three.

    Returns:
        Values in `(0, 1]` and the derivatives by the squared distance, <= 0; the laplacian's at distance 0, where it
        has none, as 0.
    """
    if kernel == "gaussian":
        values = distances.mul_(-0.5).exp_()
        return values, values * -0.5
    if kernel == "laplacian":
        root = distances.sqrt_()
        values = torch.exp(-root)
        return values, torch.where(root > 0, values / root, 0.0).mul_(-0.5)
    values = torch.rsqrt(1 + distances / 2)
    return values, -0.25 * values**3


def label_kernel(labels: Tensor, other_labels: Tensor, scale: Tensor | None) -> Tensor:
    """The kernel on labels that joint alignment multiplies with the kernel on features.

    Args:
        labels: `[n]` class ids, or targets as `target_rows` gives them.
        other_labels: `[m]`, of the same kind.
        scale: the squared length scale of targets; `None` for class ids.

    Returns:
        `[n, m]`. Class ids: 1.0 where two are equal, else 0.0, and 0.0 for the id -100, which belongs to no class.
        Targets: the Gaussian kernel.
    """
    if scale is None:
        return ((labels[:, None] == other_labels) & (labels != UNLABELLED)[:, None]).float()
    return torch.exp(squared_distances(labels, other_labels) / (-2 * scale))


def target_rows(labels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Both batches' labels, `[n, ...]`, as `label_kernel` takes them, with the squared length scale that it takes.

    Class ids stay as they are, without a scale. Float and multi-label targets become centred rows `[n, targets]`, and
    their scale is the mean squared distance of the targets of two different examples.
    """
    if is_class_ids(labels):
        return labels, None
    rows = labels.to(torch.promote_types(labels.dtype, torch.float32)).reshape(len(labels), -1)
    rows = rows - rows.mean(dim=0)
    return rows, resolve_bandwidth(rows, "mean")


def parse_bandwidth(bandwidth: Any) -> float | BandwidthRule:
    """Reads a bandwidth as configs and command lines give it: a positive number, `mean` or `median`.

    Raises:
        ValueError: it is none of these, or out of float32's range with room for the distances.
    """
    if bandwidth in get_args(BandwidthRule):
        return bandwidth
    try:
        value = float(bandwidth)
    except (TypeError, ValueError):
        value = 0.0
    if not SCALES[0] <= value <= SCALES[1]:
        raise ValueError(
            f"bandwidth={bandwidth!r} is neither a positive number from {SCALES[0]:g} to {SCALES[1]:g} nor 'mean' nor "
            "'median'."
        )
    return value
