"""`MatchingLoss`: how far the feature distributions of two batches are apart."""

from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ..batches import UNLABELLED, drop_column, is_class_ids
from ..by_name import load_named
from .kernels import Kernel, parse_bandwidth
from .known_gradient import with_gradient
from .mmd import Alignment, ClassWeighting, Estimator, Match, shared_size, squared_mmd

MMD = "mmd"
Distance = Callable[[Tensor, Tensor], Tensor]  # of `[n, dim]` and `[m, dim]` features, a scalar


class MatchingLoss(nn.Module):
    """The distance between the feature distributions of a primary and a companion batch.

    By default the squared maximum mean discrepancy (Gretton et al., JMLR 2012) as used for in-training representation
    alignment (Li et al., AAAI 2023, arXiv 2211.13332).

    Args:
        alignment: `"marginal"` compares the features whatever their labels; `"conditional"` is the mean, over
            the classes that both batches hold, of the distance of that class's features, each class weighted by
            `shared_size`; `"joint"` compares (feature, label) pairs, with the product of the feature kernel and
            `label_kernel`; MMD only.
        kernel: see `kernel_and_slopes`; MMD only.
        bandwidth: the kernel's squared length scale, a positive number or the `"mean"` or `"median"` squared distance
            of the two batches pooled, see `resolve_bandwidth`; MMD only.
        estimator: `"biased"` or `"unbiased"`, see `squared_mmd`; MMD only.
        matching_loss: `"mmd"`, or another distance: a function of `[n, dim]` and `[m, dim]` features that returns a
            scalar, or its name, `"package.module:function"` or `"file.py:function"`.
        class_weighting: of conditional alignment, `"size"` or `"alike"`, see `shared_size`.

    Raises:
        ValueError: an argument is not one of the above, or two of them don't go together.

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
        estimator: Estimator = "biased",
        matching_loss: str | Distance = MMD,
        class_weighting: ClassWeighting = "size",
    ) -> None:
        super().__init__()
        for name, choice, allowed in (
            ("alignment", alignment, Alignment),
            ("kernel", kernel, Kernel),
            ("estimator", estimator, Estimator),
            ("class_weighting", class_weighting, ClassWeighting),
        ):
            if choice not in get_args(allowed):
                raise ValueError(f"{name}={choice!r} is not one of {', '.join(map(repr, get_args(allowed)))}.")
        self.alignment = alignment
        self.kernel = kernel
        self.bandwidth = parse_bandwidth(bandwidth)
        self.estimator = estimator
        self.matching_loss = matching_loss
        self.class_weighting = class_weighting
        self.distance = None if matching_loss == MMD else _load_distance(matching_loss)
        if self.distance is None:
            return
        given = {"kernel": kernel, "bandwidth": bandwidth, "estimator": estimator}
        for name, default in (("kernel", "gaussian"), ("bandwidth", "mean"), ("estimator", "biased")):
            if given[name] != default:
                raise ValueError(f"{name}={given[name]!r} is of matching_loss='mmd'; {matching_loss!r} has none.")
        if alignment == "joint":
            raise ValueError(
                f"alignment='joint' needs matching_loss='mmd', whose kernel also compares labels; {matching_loss!r} "
                "works with 'conditional' and 'marginal'."
            )

    def forward(
        self, features: Tensor, labels: Tensor | None, companion_features: Tensor, companion_labels: Tensor | None
    ) -> Tensor:
        """Computes the loss, in float32 whatever autocast says.

        Args:
            features: `[n, dim]`, the primary batch's features, any floating dtype.
            labels: `[n]` class ids, `[n]` float targets or `[n, classes]` multi-label targets; may be `None`
                for marginal alignment, and must be class ids for conditional alignment. Both leave rows of the class
                id -100 out, and joint alignment those whose targets are not all finite.
            companion_features: `[m, dim]`.
            companion_labels: the companion batch's labels.

        Returns:
            A float32 scalar (float64 if the features are float64, so that gradients can be checked). It can't be
            differentiated twice.

        Raises:
            ValueError: shapes that do not fit, or labels that the alignment can't use.
        """
        value, *gradients = self.match(features, labels, companion_features, companion_labels)
        for rows, gradient in zip((features, companion_features), gradients, strict=True):
            if torch.is_grad_enabled() and rows.requires_grad:
                value = with_gradient(value, rows, gradient)
        return value

    def match(
        self,
        features: Tensor,
        labels: Tensor | None,
        companion_features: Tensor,
        companion_labels: Tensor | None,
        companion_learns: bool | None = None,
    ) -> Match:
        """The loss and its gradients at the features, apart from the graph that these come from.

        Args:
            features: see `forward`.
            labels: see `forward`.
            companion_features: see `forward`.
            companion_labels: see `forward`.
            companion_learns: whether the gradient at the companion features is wanted; `None`: where these require one.

        Raises:
            ValueError: see `forward`.
        """
        if self.alignment == "marginal":
            labels, companion_labels = None, None
        labels, companion_labels = _as_labels(labels), _as_labels(companion_labels)
        self.check(features, labels, companion_features, companion_labels)
        wide = torch.promote_types(features.dtype, torch.float32)
        learns = companion_features.requires_grad if companion_learns is None else companion_learns
        with torch.autocast(device_type=features.device.type, enabled=False):
            x, y = features.detach().to(wide), companion_features.detach().to(wide)
            # In one compiled graph there are no branches by values.
            if self.alignment == "joint" and not torch.compiler.is_compiling():
                return self._match_rows(x, labels, y, companion_labels, learns)
            return self._match(x, labels, y, companion_labels, learns)

    def extra_repr(self) -> str:
        """The settings, for `print(loss)`."""
        names = ["matching_loss", "alignment"] + (["bandwidth", "kernel", "estimator"] if self.distance is None else [])
        if self.alignment == "conditional":
            names.append("class_weighting")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def check(self, features: Tensor, labels: Tensor | None, other: Tensor, other_labels: Tensor | None) -> None:
        """Checks shapes, and that the labels are of the kind that the alignment needs.

        Raises:
            ValueError: they aren't.
        """
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

    def _match(
        self, x: Tensor, labels: Tensor | None, y: Tensor, other_labels: Tensor | None, companion_learns: bool
    ) -> Match:
        if self.distance is not None:
            return self._match_by_function(x, labels, y, other_labels)
        settings = (self.alignment, self.estimator, self.kernel, self.bandwidth, self.class_weighting)
        return squared_mmd(x, labels, y, other_labels, *settings, companion_learns)

    @torch.enable_grad()
    def _match_by_function(self, x: Tensor, labels: Tensor | None, y: Tensor, other_labels: Tensor | None) -> Match:
        if not (len(x) and len(y)):
            return Match(x.new_zeros(()), torch.zeros_like(x), torch.zeros_like(y))
        x, y = x.requires_grad_(), y.requires_grad_()
        if labels is None or other_labels is None:
            value = self._distance_of(x, y)
        else:
            value = self._class_mean(x, labels, y, other_labels)
        gradients = torch.autograd.grad(value, (x, y), allow_unused=True, materialize_grads=True)
        return Match(value.detach(), *gradients)

    def _distance_of(self, x: Tensor, y: Tensor) -> Tensor:
        """The user's function of two batches, none of them empty."""
        assert self.distance is not None
        try:
            value = self.distance(x, y)
        except (torch.OutOfMemoryError, MemoryError):  # auto_find_batch_size goes by these
            raise
        except Exception as error:  # whatever it is
            raise ValueError(
                f"matching_loss={self.matching_loss!r} fails on features {list(x.shape)} and {list(y.shape)}: {error}"
            ) from error
        if not isinstance(value, Tensor) or value.dim() or not value.requires_grad:
            raise ValueError(f"matching_loss={self.matching_loss!r} must return a scalar tensor that needs a gradient.")
        return value

    def _class_mean(self, x: Tensor, labels: Tensor, y: Tensor, other_labels: Tensor) -> Tensor:
        """The mean of the distance over the classes that both batches hold, weighted by `shared_size`; 0 over none."""
        values, sizes = [], []
        for label in labels.unique().tolist():
            rows, other_rows = x[labels == label], y[other_labels == label]
            if label != UNLABELLED and len(other_rows):
                values.append(self._distance_of(rows, other_rows))
                count, other_count = (values[-1].new_tensor(len(each)) for each in (rows, other_rows))
                sizes.append(shared_size(count, other_count, self.class_weighting))
        if not values:
            return 0.0 * (x.sum() + y.sum())  # in the graph, with zero gradients
        weights = torch.stack(sizes)
        return (torch.stack(values) * weights).sum() / weights.sum()

    def _match_rows(
        self, x: Tensor, labels: Tensor | None, y: Tensor, other_labels: Tensor | None, companion_learns: bool
    ) -> Match:
        """Joint alignment of the labelled rows: some models mask the others."""
        assert labels is not None
        assert other_labels is not None
        kept, other_kept = _labelled_rows(labels), _labelled_rows(other_labels)
        gradient, companion_gradient = torch.zeros_like(x), torch.zeros_like(y)
        if not (kept.any() and other_kept.any()):
            return Match(x.new_zeros(()), gradient, companion_gradient)
        found = self._match(x[kept], labels[kept], y[other_kept], other_labels[other_kept], companion_learns)
        gradient[kept], companion_gradient[other_kept] = found.gradient, found.companion_gradient
        return Match(found.value, gradient, companion_gradient)


def _load_distance(matching_loss: Any) -> Distance:
    named = isinstance(matching_loss, str) and ":" in matching_loss
    distance = load_named(matching_loss, "matching_loss") if named else matching_loss
    if not callable(distance):
        raise ValueError(
            f"matching_loss={matching_loss!r} is neither 'mmd' nor a function of two batches of features, or the name "
            "of one, like 'package.module:function' or 'file.py:function'."
        )
    return distance


def _as_labels(labels: Tensor | None) -> Tensor | None:
    """Class ids as `[n]` integers that can hold -100; others as they are."""
    labels = drop_column(labels)
    return labels.long() if labels is not None and is_class_ids(labels) else labels


def _labelled_rows(labels: Tensor) -> Tensor:
    """Which rows have a class, or targets that are all finite, `[n]`."""
    if is_class_ids(labels):
        return labels != UNLABELLED
    finite = torch.isfinite(labels)
    return finite if labels.dim() == 1 else finite.flatten(1).all(dim=1)
