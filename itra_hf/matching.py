"""`MatchingLoss`: the distance between the feature distributions of two batches, of a kind and by rules of choice."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .kernels import (
    UNLABELLED,
    Kernel,
    check_multipliers,
    drop_column,
    is_class_ids,
    parse_bandwidth,
    resolve_bandwidth,
)
from .mmd import Alignment, ClassWeighting, Estimator, shared_size, squared_mmd
from .moments import central_moments, coral
from .random_features import draw_frequencies, random_feature_squared_mmd
from .transport import sinkhorn_divergence

Distance = Literal["mmd", "sinkhorn", "coral", "central_moments"]


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
        bandwidth: the unit of squared distances and the kernel's squared length scale, a positive number or the
            `"mean"` or `"median"` squared distance of the two batches pooled, see `resolve_bandwidth`.
        bandwidth_multipliers: the bandwidth times each of these, the kernels averaged; MMD only.
        estimator: `"biased"` or `"unbiased"`, see `squared_mmd`; MMD only.
        matching_loss: `"mmd"`, `"sinkhorn"` (see `sinkhorn_divergence`), `"coral"` (see `coral`) or
            `"central_moments"` (see `central_moments`).
        chunk_size: rows whose pairs the MMD holds in memory at one time, see `squared_mmd`; 0 takes all.
        random_features: how many random Fourier features estimate the MMD in time and memory of order `n`, see
            `random_feature_squared_mmd`, which says how many good gradients take; 0 computes all pairs. They are
            drawn once, with a fixed seed.
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
        bandwidth_multipliers: Sequence[float] = (1.0,),
        estimator: Estimator = "biased",
        matching_loss: Distance = "mmd",
        chunk_size: int = 0,
        random_features: int = 0,
        class_weighting: ClassWeighting = "size",
    ) -> None:
        super().__init__()
        for name, choice, allowed in (
            ("alignment", alignment, Alignment),
            ("kernel", kernel, Kernel),
            ("estimator", estimator, Estimator),
            ("matching_loss", matching_loss, Distance),
            ("class_weighting", class_weighting, ClassWeighting),
        ):
            if choice not in get_args(allowed):
                raise ValueError(f"{name}={choice!r} is not one of {', '.join(map(repr, get_args(allowed)))}.")
        for name, number in (("chunk_size", chunk_size), ("random_features", random_features)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise ValueError(f"{name}={number!r} must be an integer >= 0.")
        self.alignment = alignment
        self.kernel = kernel
        self.bandwidth = parse_bandwidth(bandwidth)
        self.bandwidth_multipliers = check_multipliers(bandwidth_multipliers)
        self.estimator = estimator
        self.matching_loss = matching_loss
        self.chunk_size = chunk_size
        self.random_features = random_features
        self.class_weighting = class_weighting
        self._frequencies: Tensor | None = None
        self._check_together()

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
                for marginal alignment, and must be class ids for conditional alignment. Joint alignment leaves rows
                out whose targets are not all finite.
            companion_features: `[m, dim]`.
            companion_labels: the companion batch's labels.

        Returns:
            A float32 scalar (float64 if the features are float64, so that gradients can be checked). It can't be
            differentiated twice.

        Raises:
            ValueError: shapes that do not fit, or labels that the alignment can't use.
        """
        if self.alignment == "marginal":
            labels, companion_labels = None, None
        labels, companion_labels = drop_column(labels), drop_column(companion_labels)
        self.check(features, labels, companion_features, companion_labels)
        if self.alignment == "joint":
            features, labels = _with_targets(features, labels)
            companion_features, companion_labels = _with_targets(companion_features, companion_labels)
            if not (len(features) and len(companion_features)):
                return 0.0 * (features.sum() + companion_features.sum()).float()
        dtype = torch.promote_types(features.dtype, torch.float32)
        with torch.autocast(device_type=features.device.type, enabled=False):
            batches = features.to(dtype), labels, companion_features.to(dtype), companion_labels
            if self.matching_loss != "mmd":
                return self._other_distance(*batches)
            if self.random_features:
                return self._random_feature_mmd(*batches)
            return squared_mmd(
                *batches,
                self.alignment,
                self.estimator,
                self.kernel,
                self.bandwidth,
                self.bandwidth_multipliers,
                self.chunk_size,
                self.class_weighting,
            )

    def extra_repr(self) -> str:
        """The settings, for `print(loss)`."""
        names = ["matching_loss", "alignment", "bandwidth"]
        if self.matching_loss == "mmd":
            names += ["kernel", "bandwidth_multipliers", "estimator", "chunk_size", "random_features"]
        if self.alignment == "conditional":
            names.append("class_weighting")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def _random_feature_mmd(
        self, features: Tensor, labels: Tensor | None, other: Tensor, others: Tensor | None
    ) -> Tensor:
        dim = features.shape[1]
        if self._frequencies is None or len(self._frequencies) != dim:
            self._frequencies = draw_frequencies(dim, self.random_features, self.kernel, self.bandwidth_multipliers)
        self._frequencies = self._frequencies.to(features)
        bandwidth = self._pooled_bandwidth(features, other)
        return random_feature_squared_mmd(
            features,
            labels,
            other,
            others,
            self._frequencies,
            bandwidth,
            self.alignment,
            self.estimator,
            self.class_weighting,
        )

    def _other_distance(self, features: Tensor, labels: Tensor | None, other: Tensor, others: Tensor | None) -> Tensor:
        functions: dict[str, Callable[..., Tensor]] = {
            "sinkhorn": sinkhorn_divergence,
            "coral": coral,
            "central_moments": central_moments,
        }
        distance = partial(functions[self.matching_loss], scale=self._pooled_bandwidth(features, other))
        if labels is None or others is None:
            return distance(features, other)
        return class_mean(distance, features, labels, other, others, self.class_weighting)

    def _pooled_bandwidth(self, features: Tensor, other: Tensor) -> Tensor:
        with torch.no_grad():
            centre = torch.cat([features, other]).mean(dim=0)
            return resolve_bandwidth(features - centre, other - centre, self.bandwidth)

    def _check_together(self) -> None:
        if self.matching_loss != "mmd":
            for name, wanted in (("estimator", "biased"), ("chunk_size", 0), ("random_features", 0)):
                if getattr(self, name) != wanted:
                    raise ValueError(
                        f"{name}={getattr(self, name)!r} belongs to matching_loss='mmd'; "
                        f"{self.matching_loss!r} needs {name}={wanted!r}."
                    )
            if self.alignment == "joint":
                raise ValueError(
                    f"alignment='joint' needs matching_loss='mmd', whose kernel also compares labels; "
                    f"{self.matching_loss!r} works with 'conditional' and 'marginal'."
                )
        if self.matching_loss == "sinkhorn" and find_spec("geomloss") is None:
            raise ValueError("matching_loss='sinkhorn' needs GeomLoss: pip install \"itra_hf[transport]\"")
        if self.chunk_size and self.random_features:
            raise ValueError(
                f"chunk_size={self.chunk_size} and random_features={self.random_features} are two ways of saving "
                "memory; set one of them to 0."
            )
        if 0 < self.random_features < len(self.bandwidth_multipliers):
            raise ValueError(
                f"random_features={self.random_features} must be 0 or at least one for each of the "
                f"{len(self.bandwidth_multipliers)} bandwidth_multipliers."
            )
        if self.random_features and self.kernel == "laplacian":
            raise ValueError(
                "random_features does not go with kernel='laplacian', whose gradients would take hundreds of thousands "
                "of them; use 'gaussian' or 'inverse_multiquadric', or chunk_size."
            )
        if self.bandwidth == "median" and (self.chunk_size or self.random_features):
            raise ValueError(
                "bandwidth='median' sorts the distances of all pairs, which chunk_size and random_features are there "
                "to avoid; use 'mean' or a number."
            )

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


def _with_targets(features: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The rows whose targets are all finite: some models mask the others, and leave them out of their loss."""
    if labels is None or not labels.is_floating_point() or torch.compiler.is_compiling():  # no branches in one graph
        return features, labels
    finite = torch.isfinite(labels) if labels.dim() == 1 else torch.isfinite(labels).flatten(1).all(dim=1)
    return (features, labels) if bool(finite.all()) else (features[finite], labels[finite])


def class_mean(
    distance: Callable[[Tensor, Tensor], Tensor],
    features: Tensor,
    labels: Tensor,
    other: Tensor,
    other_labels: Tensor,
    class_weighting: ClassWeighting = "size",
) -> Tensor:
    """The mean of a distance over the classes that both batches hold, weighted by `shared_size`; 0 over none.

    Args:
        distance: of `[n, dim]` and `[m, dim]` features, a scalar.
        features: `[n, dim]`.
        labels: `[n]` class ids; the id -100 is no class.
        other: `[m, dim]`.
        other_labels: `[m]` class ids.
        class_weighting: see `shared_size`.
    """
    values, sizes = [], []
    for label in labels.unique().tolist():
        rows, other_rows = features[labels == label], other[other_labels == label]
        if label != UNLABELLED and len(other_rows):
            values.append(distance(rows, other_rows))
            count, other_count = (values[-1].new_tensor(len(each)) for each in (rows, other_rows))
            sizes.append(shared_size(count, other_count, class_weighting))
    if not values:
        return 0.0 * (features.sum() + other.sum())  # in the graph, with zero gradients
    weights = torch.stack(sizes)
    return (torch.stack(values) * weights).sum() / weights.sum()
