"""Kernels on features and on labels, and their bandwidth."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Kernel = Literal["gaussian", "laplacian", "inverse_multiquadric"]
BandwidthRule = Literal["mean", "median"]

SCALES = (1e-15, 1e15)  # of bandwidths and of multipliers, so that their product is a float32
LONGEST_CHAIN = 6  # squarings in a row, each of which doubles the rounding error
UNLABELLED = -100  # the class id that PyTorch's losses ignore; such an example belongs to no class


def resolve_bandwidth(features: Tensor, companion_features: Tensor, bandwidth: float | BandwidthRule) -> Tensor:
    """The kernel's squared length scale `s`, a constant to autograd.

    Args:
        features: `[n, dim]`, centred on the pooled batches' mean, or near it.
        companion_features: `[m, dim]`.
        bandwidth: a positive number, taken as it is, or `"mean"` or `"median"` of the squared distances
            between two different rows of the pooled batches. A median below a millionth of the mean gives
            way to the mean (most rows coincide), and a mean of 0 to 1 (all rows coincide).

    Returns:
        A scalar tensor.
    """
    if not isinstance(bandwidth, str):
        return features.new_full((), bandwidth)
    rows = torch.cat([features, companion_features]).detach()
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


def kernel_and_slopes(distances: Tensor, kernel: Kernel, multipliers: Sequence[float]) -> tuple[Tensor, Tensor]:
    """A characteristic kernel of squared distances at bandwidth 1, averaged over multiples, and its derivative.

    With squared distance `d` and multiplier `m`: `gaussian` is `exp(-d / (2 m))`, `laplacian` is
    `exp(-sqrt(d / m))`, `inverse_multiquadric` is `1 / sqrt(1 + d / (2 m))`, whose pull reaches far modes. Gaussians
    whose multipliers differ by a power of two are squares of each other, and share one exponential.

    Args:
        distances: squared distances of any shape; overwritten.
        kernel: which of the three.
        multipliers: of the bandwidth, at least one.

    Returns:
        Values in `(0, 1]` and the derivatives by the squared distance, <= 0; the laplacian's at distance 0, where it
        has none, as 0.
    """
    if kernel == "gaussian":
        values, slopes = _gaussian_mixture(distances, multipliers)
    else:
        values, slopes = torch.zeros_like(distances), torch.zeros_like(distances)
        for multiplier in multipliers:
            if kernel == "laplacian":
                root = (distances / multiplier).sqrt_()
                value = torch.exp(-root)
                slopes.add_(torch.where(root > 0, value / root, 0.0), alpha=-0.5 / multiplier)
            else:
                value = torch.rsqrt(1 + distances / (2 * multiplier))
                slopes.add_(value**3, alpha=-0.25 / multiplier)
            values.add_(value)
    return (values, slopes) if len(multipliers) == 1 else (values.div_(len(multipliers)), slopes.div_(len(multipliers)))


def _gaussian_mixture(distances: Tensor, multipliers: Sequence[float]) -> tuple[Tensor, Tensor]:
    if len(multipliers) == 1:
        power = distances.mul_(-0.5 / multipliers[0]).exp_()
        return power, power * (-0.5 / multipliers[0])
    values, slopes = torch.zeros_like(distances), torch.zeros_like(distances)
    for chain in _squaring_chains(multipliers):
        power = torch.exp(distances * (-0.5 / chain[0]))
        for wider, multiplier in zip([chain[0], *chain], chain, strict=False):
            for _ in range(math.frexp(wider)[1] - math.frexp(multiplier)[1]):
                power.mul_(power)
            values.add_(power)
            slopes.add_(power, alpha=-0.5 / multiplier)
    return values, slopes


def _squaring_chains(multipliers: Sequence[float]) -> list[list[float]]:
    """Multipliers in groups, each falling by powers of two, by no more than `LONGEST_CHAIN` of them."""
    chains: list[list[float]] = []
    for multiplier in sorted(multipliers, key=lambda value: (math.frexp(value)[0], value), reverse=True):
        mantissa, exponent = math.frexp(multiplier)
        first = math.frexp(chains[-1][0]) if chains else (0.0, 0)
        if first[0] == mantissa and first[1] - exponent <= LONGEST_CHAIN:
            chains[-1].append(multiplier)
        else:
            chains.append([multiplier])
    return chains


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


def target_rows(labels: Tensor, other_labels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Both batches' labels as `label_kernel` takes them, with the squared length scale that it takes.

    Class ids stay as they are, without a scale. Float and multi-label targets become centred rows `[n, targets]`, and
    their scale is the mean squared distance of the targets of two different examples of the pooled batches.
    """
    if is_class_ids(labels):
        return labels, other_labels, None
    dtype = torch.promote_types(labels.dtype, torch.float32)
    pooled = torch.cat([labels, other_labels]).to(dtype)
    pooled = pooled.reshape(len(pooled), -1) - pooled.reshape(len(pooled), -1).mean(dim=0)
    rows, other_rows = pooled.split([len(labels), len(other_labels)])
    return rows, other_rows, resolve_bandwidth(rows, other_rows, "mean")


def is_class_ids(labels: Tensor) -> bool:
    """Whether `labels` are class ids: one integer an example."""
    return labels.dim() == 1 and not labels.is_floating_point()


def drop_column(labels: Tensor | None) -> Tensor | None:
    """`[n, 1]` labels, which transformers takes as class ids too, as `[n]`; others as they are."""
    return labels[:, 0] if labels is not None and labels.dim() == 2 and labels.shape[1] == 1 else labels


def parse_bandwidth(bandwidth: float | str) -> float | BandwidthRule:
    """Reads a bandwidth as configs and command lines give it: a positive number, `mean` or `median`.

    Raises:
        ValueError: it is none of these, or out of float32's range with room for the distances.
    """
    if bandwidth in get_args(BandwidthRule):
        return bandwidth  # type: ignore[return-value]
    value = _in_range(bandwidth)
    if value is None:
        raise ValueError(
            f"bandwidth={bandwidth!r} is neither a positive number from {SCALES[0]:g} to {SCALES[1]:g} nor 'mean' nor "
            "'median'."
        )
    return value


def check_multipliers(multipliers: Sequence[float]) -> tuple[float, ...]:
    """Checks that there is at least one multiplier and that each is positive.

    Raises:
        ValueError: there is none, or one is no positive number within the range of bandwidths.
    """
    values = [_in_range(value) for value in multipliers] if isinstance(multipliers, (list, tuple)) else []
    if not values or None in values:
        raise ValueError(
            f"bandwidth_multipliers={multipliers!r} must be one or more positive numbers from {SCALES[0]:g} to "
            f"{SCALES[1]:g}."
        )
    return tuple(value for value in values if value is not None)


def _in_range(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if SCALES[0] <= number <= SCALES[1] else None
