"""Kernels on features and on labels, for all pairs of rows of two batches.

Pairs are kept block by block (primary with primary, companion with companion, primary with companion), so
that memory grows with `n * n`, never with `n * n * dim`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

Kernel = Literal["gaussian", "laplacian", "inverse_multiquadric"]
BandwidthRule = Literal["mean", "median"]

SCALES = (1e-15, 1e15)  # of bandwidths and of multipliers, so that their product is a float32
UNLABELLED = -100  # the class id that PyTorch's losses ignore; such an example belongs to no class


class PairBlocks(NamedTuple):
    """One value for every pair of rows of two batches.

    Attributes:
        primary: `[n, n]`, pairs within the primary batch.
        companion: `[m, m]`, pairs within the companion batch.
        across: `[n, m]`, a row of the primary batch with a row of the companion batch.
    """

    primary: Tensor
    companion: Tensor
    across: Tensor

    def map(self, function: Callable[..., Tensor], *others: "PairBlocks") -> "PairBlocks":
        """Applies `function` block by block, with the same block of each of `others` as further arguments."""
        return PairBlocks(*(function(*blocks) for blocks in zip(self, *others, strict=True)))


def squared_distances(features: Tensor, companion_features: Tensor) -> PairBlocks:
    """Squared Euclidean distances of all pairs of rows, through Gram matrices.

    The features are centred on their common mean first, which leaves distances as they are and keeps the
    Gram matrices small enough for float32. The squared norms are read off the Gram matrices' diagonals, so
    two equal batches get equal blocks; equal rows of different batches are 0 apart but for rounding.

    Args:
        features: `[n, dim]`, floating point.
        companion_features: `[m, dim]`, of the same dtype.

    Returns:
        Blocks of distances >= 0, with exact zeros for a row with itself.
    """
    centre = torch.cat([features, companion_features]).mean(dim=0)
    x, y = features - centre, companion_features - centre
    gram = PairBlocks(x @ x.T, y @ y.T, x @ y.T)
    x_norms, y_norms = gram.primary.diagonal(), gram.companion.diagonal()

    def distances(rows: Tensor, columns: Tensor, products: Tensor) -> Tensor:
        return (rows[:, None] + columns[None, :] - 2 * products).clamp(min=0)

    return PairBlocks(
        distances(x_norms, x_norms, gram.primary).fill_diagonal_(0),
        distances(y_norms, y_norms, gram.companion).fill_diagonal_(0),
        distances(x_norms, y_norms, gram.across),
    )


def resolve_bandwidth(distances: PairBlocks, bandwidth: float | BandwidthRule) -> Tensor:
    """The kernel's squared length scale `s`, a constant to autograd.

    Args:
        distances: squared distances of two batches.
        bandwidth: a positive number, taken as it is, or `"mean"` or `"median"` of the squared distances
            between two different rows of the pooled batches. A median below a millionth of the mean gives
            way to the mean (most rows coincide), and a mean of 0 to 1 (all rows coincide).

    Returns:
        A scalar tensor.
    """
    across = distances.across.detach()
    if not isinstance(bandwidth, str):
        return across.new_full((), bandwidth)
    within = [_upper_triangle(distances.primary.detach()), _upper_triangle(distances.companion.detach())]
    values = torch.cat([*within, across.flatten()])
    mean = values.mean()
    scale = mean
    if bandwidth == "median":
        ordered = values.sort().values
        middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
        scale = torch.where(middle > 1e-6 * mean, middle, mean)
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def kernel_values(distances: Tensor, kernel: Kernel, scales: Tensor) -> Tensor:
    """A characteristic kernel of squared distances, averaged over several squared length scales.

    With squared distance `d2` and squared length scale `s`: `gaussian` is `exp(-d2 / (2 s))`, `laplacian` is
    `exp(-sqrt(d2 / s))`, `inverse_multiquadric` is `1 / sqrt(1 + d2 / (2 s))`, whose pull reaches far modes.

    Args:
        distances: squared distances of any shape.
        kernel: which of the three.
        scales: `[k]`, the squared length scales.

    Returns:
        Values in `(0, 1]` of the shape of `distances`.
    """
    total = torch.zeros_like(distances)
    for scale in scales:
        if kernel == "gaussian":
            total = total + torch.exp(distances / (-2 * scale))
        elif kernel == "laplacian":
            total = total + torch.exp(-_safe_sqrt(distances / scale))
        else:
            total = total + torch.rsqrt(1 + distances / (2 * scale))
    return total / len(scales)


def label_kernel(labels: Tensor, companion_labels: Tensor) -> PairBlocks:
    """The kernel on labels that joint alignment multiplies with the kernel on features.

    Args:
        labels: `[n]` class ids, `[n]` float targets, or `[n, classes]` multi-label targets.
        companion_labels: the companion batch's, of the same kind.

    Returns:
        Class ids: 1 where two are equal, else 0. Float and multi-label targets: the Gaussian kernel whose
        squared length scale is the mean squared distance of the targets of two different examples.
    """
    if is_class_ids(labels):
        return same_class(labels, companion_labels)
    rows = labels.reshape(len(labels), -1), companion_labels.reshape(len(companion_labels), -1)
    dtype = torch.promote_types(rows[0].dtype, torch.float32)
    distances = squared_distances(rows[0].to(dtype), rows[1].to(dtype))
    scale = resolve_bandwidth(distances, "mean")
    return distances.map(lambda block: kernel_values(block, "gaussian", scale[None]))


def is_class_ids(labels: Tensor) -> bool:
    """Whether `labels` are class ids: one integer an example."""
    return labels.dim() == 1 and not labels.is_floating_point()


def same_class(labels: Tensor, companion_labels: Tensor) -> PairBlocks:
    """1.0 for each pair of examples of one class, else 0.0; examples with id -100 belong to none.

    Args:
        labels: `[n]` class ids.
        companion_labels: `[m]` class ids.
    """

    def equal(rows: Tensor, columns: Tensor) -> Tensor:
        return ((rows[:, None] == columns[None, :]) & (rows != UNLABELLED)[:, None]).float()

    return PairBlocks(equal(labels, labels), equal(companion_labels, companion_labels), equal(labels, companion_labels))


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


def _upper_triangle(block: Tensor) -> Tensor:
    rows, columns = torch.triu_indices(len(block), len(block), 1, device=block.device)
    return block[rows, columns]


def _safe_sqrt(values: Tensor) -> Tensor:
    # The square root's slope at 0 is infinite, and 0 * inf would turn gradients into NaN.
    positive = values > 0
    return torch.where(positive, torch.where(positive, values, 1.0).sqrt(), 0.0)
