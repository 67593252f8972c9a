"""Matching losses: the squared maximum mean discrepancy (MMD) between two batches of features.

Pure functions on kernel values, and `MatchingLoss`, the module that strings kernels and these together.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .kernels import (
    Kernel,
    PairBlocks,
    check_multipliers,
    is_class_ids,
    kernel_values,
    label_kernel,
    parse_bandwidth,
    resolve_bandwidth,
    same_class,
    squared_distances,
)

Alignment = Literal["conditional", "joint", "marginal"]
Estimator = Literal["biased", "unbiased"]


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
        tensor(0.8943)
    """

    def __init__(
        self,
        alignment: Alignment = "conditional",
        kernel: Kernel = "gaussian",
        bandwidth: float | str = "mean",
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
        if self.alignment == "marginal":
            labels, companion_labels = None, None
        labels, companion_labels = _drop_column(labels), _drop_column(companion_labels)
        self._check(features, labels, companion_features, companion_labels)
        dtype = torch.promote_types(features.dtype, torch.float32)
        with torch.autocast(device_type=features.device.type, enabled=False):
            distances = squared_distances(features.to(dtype), companion_features.to(dtype))
            bandwidth = resolve_bandwidth(distances, self.bandwidth)
            scales = torch.stack([bandwidth * multiplier for multiplier in self.bandwidth_multipliers])
            kernel = distances.map(lambda block: kernel_values(block, self.kernel, scales))
            if labels is None or companion_labels is None:
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


def _drop_column(labels: Tensor | None) -> Tensor | None:
    # transformers takes class ids as [n, 1] too
    if labels is not None and labels.dim() == 2 and labels.shape[1] == 1:
        return labels[:, 0]
    return labels


def _off_diagonal(block: Tensor) -> Tensor:
    return block - torch.diag(block.diagonal())
