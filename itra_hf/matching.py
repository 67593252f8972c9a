"""Matching losses: the squared maximum mean discrepancy (MMD) between two batches of features.

Pure functions on tensors, and `MatchingLoss`, the module that strings them together. Features are
compared block by block (primary with primary, companion with companion, primary with companion), so that
memory grows with `n * n`, never with `n * n * dim`.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

Alignment = Literal["conditional", "joint", "marginal"]
Estimator = Literal["biased", "unbiased"]
Kernel = Literal["gaussian", "laplacian", "inverse_multiquadric"]
BandwidthRule = Literal["mean", "median"]

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
    two equal batches get equal blocks and distances of exactly 0 between equal rows.

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
        return across.new_tensor(bandwidth)
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

    return PairBlocks(
        equal(labels, labels), equal(companion_labels, companion_labels), equal(labels, companion_labels)
    )


def squared_mmd(kernel: PairBlocks, estimator: Estimator) -> Tensor:
    """Squared MMD of two batches, given the kernel of all pairs.

    `biased` is the V-statistic `mean(k(x, x')) + mean(k(y, y')) - 2 mean(k(x, y))` over all pairs, a row with
    itself included; it is >= 0 and contracts features. `unbiased` is the U-statistic, which leaves a row with
    itself out and has expectation 0 for two batches of one distribution; it is 0 where a batch holds
    fewer than two rows.

    Args:
        kernel: the kernel of each pair of rows.
        estimator: `"biased"` or `"unbiased"`.

    Returns:
        A scalar.
    """
    return class_mean_squared_mmd(kernel, kernel.map(torch.ones_like), estimator)


def class_mean_squared_mmd(kernel: PairBlocks, members: PairBlocks, estimator: Estimator) -> Tensor:
    """The mean over classes of the squared MMD of the rows of one class.

    A class counts if both batches hold it, with `unbiased` if both hold at least two rows of it. The mean
    over no class is 0. Written with row counts instead of a loop over classes: a row of a class of size
    `n` enters that class's mean over pairs with weight `1 / n`.

    Args:
        kernel: the kernel of each pair of rows.
        members: 1.0 for each pair of rows of one class, else 0.0.
        estimator: `"biased"` or `"unbiased"`, see `squared_mmd`.

    Returns:
        A scalar.
    """
    own_x, own_y = members.primary.sum(1), members.companion.sum(1)
    other_x, other_y = members.across.sum(1), members.across.sum(0)
    excluded = 1 if estimator == "unbiased" else 0
    valid_x = ((own_x > excluded) & (other_x > excluded)).to(own_x.dtype)
    valid_y = ((own_y > excluded) & (other_y > excluded)).to(own_y.dtype)
    weighted = kernel.map(torch.mul, members)
    if excluded:
        weighted = PairBlocks(_off_diagonal(weighted.primary), _off_diagonal(weighted.companion), weighted.across)

    def mean_over_pairs(values: Tensor, valid: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return (valid * values.sum(1) / (rows.clamp(min=1) * columns.clamp(min=1))).sum()

    within_x = mean_over_pairs(weighted.primary, valid_x, own_x, own_x - excluded)
    within_y = mean_over_pairs(weighted.companion, valid_y, own_y, own_y - excluded)
    across = mean_over_pairs(weighted.across, valid_x, own_x, other_x)
    classes = (valid_x / own_x.clamp(min=1)).sum().round()
    return (within_x + within_y - 2 * across) / classes.clamp(min=1)


class MatchingLoss(nn.Module):
    """The distance between the feature distributions of a primary and a companion batch.

    The squared maximum mean discrepancy (Gretton et al., JMLR 2012) as used for in-training representation
    alignment (Li et al., AAAI 2023, arXiv 2211.13332).

    Args:
        alignment: `"marginal"` compares the features whatever their labels; `"conditional"` is the mean, over
            the classes that both batches hold, of the MMD of that class's features; `"joint"` compares
            (feature, label) pairs, with the product of the feature kernel and `label_kernel`.
        kernel: see `kernel_values`.
        bandwidth: the kernel's squared length scale, a positive number or the `"mean"` or `"median"` squared
            distance of the two batches pooled, see `resolve_bandwidth`.
        bandwidth_multipliers: the bandwidth times each of these, the kernels averaged.
        estimator: `"biased"` or `"unbiased"`, see `squared_mmd`.

    Raises:
        ValueError: an argument is not one of the above.

    Example:
        >>> import torch
        >>> loss = MatchingLoss(alignment="marginal", bandwidth=1.0)
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> loss(x, None, x + 1.0, None)
        tensor(0.6321)
    """

    def __init__(
        self,
        alignment: Alignment = "conditional",
        kernel: Kernel = "gaussian",
        bandwidth: float | BandwidthRule = "mean",
        bandwidth_multipliers: Sequence[float] = (1.0,),
        estimator: Estimator = "biased",
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ("alignment", alignment, get_args(Alignment)),
            ("kernel", kernel, get_args(Kernel)),
            ("estimator", estimator, get_args(Estimator)),
        ):
            if value not in allowed:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}.")
        self.alignment = alignment
        self.kernel = kernel
        self.bandwidth = parse_bandwidth(bandwidth)
        self.bandwidth_multipliers = check_multipliers(bandwidth_multipliers)
        self.estimator = estimator

    def forward(
        self,
        features: Tensor,
        labels: Tensor | None,
        companion_features: Tensor,
        companion_labels: Tensor | None,
    ) -> Tensor:
        """Computes the loss, in float32 whatever autocast says.

        Args:
            features: `[n, dim]`, the primary batch's features, any floating dtype.
            labels: `[n]` class ids, `[n]` float targets or `[n, classes]` multi-label targets; may be `None`
                for marginal alignment, and must be class ids for conditional alignment.
            companion_features: `[m, dim]`.
            companion_labels: the companion batch's labels.

        Returns:
            A float32 scalar (float64 if the features are float64, so that gradients can be checked).

        Raises:
            ValueError: shapes that do not fit, or labels that the alignment can't use.
        """
        self._check(features, labels, companion_features, companion_labels)
        dtype = torch.promote_types(features.dtype, torch.float32)
        with torch.autocast(device_type=features.device.type, enabled=False):
            distances = squared_distances(features.to(dtype), companion_features.to(dtype))
            multipliers = distances.across.new_tensor(self.bandwidth_multipliers)
            scales = resolve_bandwidth(distances, self.bandwidth) * multipliers
            kernel = distances.map(lambda block: kernel_values(block, self.kernel, scales))
            if labels is None or companion_labels is None or self.alignment == "marginal":
                return squared_mmd(kernel, self.estimator)
            if self.alignment == "joint":
                labels_kernel = label_kernel(labels, companion_labels)
                return squared_mmd(kernel.map(torch.mul, labels_kernel), self.estimator)
            members = same_class(labels, companion_labels).map(lambda block: block.to(dtype))
            return class_mean_squared_mmd(kernel, members, self.estimator)

    def extra_repr(self) -> str:
        """The settings, for `print(loss)`."""
        names = ("alignment", "kernel", "bandwidth", "bandwidth_multipliers", "estimator")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def _check(self, features: Tensor, labels: Tensor | None, other: Tensor, other_labels: Tensor | None) -> None:
        if features.dim() != 2 or other.dim() != 2 or features.shape[1] != other.shape[1]:
            raise ValueError(
                "Features must be [n, dim] and [m, dim] with the same dim, "
                f"got {list(features.shape)} and {list(other.shape)}."
            )
        if self.alignment == "marginal":
            return
        if labels is None or other_labels is None:
            raise ValueError(f"{self.alignment} alignment needs labels; alignment='marginal' works without.")
        if len(labels) != len(features) or len(other_labels) != len(other):
            raise ValueError(
                f"{len(features)} and {len(other)} features, but {len(labels)} and {len(other_labels)} labels."
            )
        if self.alignment == "conditional" and not (is_class_ids(labels) and is_class_ids(other_labels)):
            raise ValueError(
                f"conditional alignment needs one class id an example, got labels of shape {list(labels.shape)} and "
                f"dtype {labels.dtype}; alignment='joint' works with float and multi-label targets, "
                "'marginal' with any."
            )


def parse_bandwidth(bandwidth: float | str) -> float | BandwidthRule:
    """Reads a bandwidth as configs and command lines give it: a positive number, `mean` or `median`.

    Raises:
        ValueError: it is none of these.
    """
    if bandwidth in get_args(BandwidthRule):
        return bandwidth  # type: ignore[return-value]
    try:
        value = float(bandwidth)
    except (TypeError, ValueError):
        value = float("nan")
    if not 0 < value < float("inf"):
        raise ValueError(f"bandwidth={bandwidth!r} is neither a positive number nor 'mean' nor 'median'.")
    return value


def check_multipliers(multipliers: Sequence[float]) -> tuple[float, ...]:
    """Checks that there is at least one multiplier and that each is positive.

    Raises:
        ValueError: there is none, or one is not positive.
    """
    values = tuple(float(value) for value in multipliers)
    if not values or not all(0 < value < float("inf") for value in values):
        raise ValueError(f"bandwidth_multipliers={list(values)!r} must be one or more positive numbers.")
    return values


def _upper_triangle(block: Tensor) -> Tensor:
    rows, columns = torch.triu_indices(*block.shape, offset=1, device=block.device)
    return block[rows, columns]


def _off_diagonal(block: Tensor) -> Tensor:
    return block - torch.diag(block.diagonal())


def _safe_sqrt(values: Tensor) -> Tensor:
    # The square root's slope at 0 is infinite, and 0 * inf would turn gradients into NaN.
    positive = values > 0
    return torch.where(positive, torch.where(positive, values, 1.0).sqrt(), 0.0)
