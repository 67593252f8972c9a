"""The squared MMD in linear time, by random Fourier features (Rahimi & Recht, NIPS 2007).

A kernel is the mean over frequencies `w` of `cos(w . (x - x'))`, thus an inner product of `[cos(w . x), sin(w . x)]`
and `[cos(w . x'), sin(w . x')]`; the MMD becomes a distance of mean vectors, and no pair of rows is ever formed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .kernels import UNLABELLED, Kernel, is_class_ids, target_rows
from .mmd import Alignment, ClassWeighting, Estimator, shared_size

LABEL_SEED = 0x1AB315  # any number but the callers' seeds: features and labels need independent frequencies


def draw_frequencies(
    dim: int, count: int, kernel: Kernel, multipliers: Sequence[float] = (1.0,), seed: int | torch.Generator = 0
) -> Tensor:
    """Draws the frequencies of a kernel of bandwidth 1.

    A kernel that is a mean over `u` of Gaussians `exp(-u d2 / (2 s))` has the frequencies `z * sqrt(u / s)` with `z`
    standard normal: `gaussian` has `u = 1`, and `inverse_multiquadric` has `u = g^2 / 2` with a standard normal `g`.
    The laplacian's frequencies have an infinite mean, which leaves nothing but noise in gradients.

    Columns are orthogonal in blocks of `dim` (Yu et al., Orthogonal random features, NIPS 2016), each by itself
    distributed as above, which more than halves the `gaussian` kernel's error in gradients where `count > dim`.

    Args:
        dim: the features' dimension.
        count: the number of frequencies; each gives a cosine and a sine.
        kernel: `"gaussian"` or `"inverse_multiquadric"`, see `kernel_and_slopes`.
        multipliers: the kernel is averaged over the bandwidth times each of these; each gets an
            equal share of neighbouring columns.
        seed: a seed, or a generator to draw from (on its device). The global generator stays as it is.

    Returns:
        `[dim, count]`, float32.

    Raises:
        ValueError: `count` is below the number of multipliers, which would leave some without a frequency.
    """
    if count < max(1, len(multipliers)):
        raise ValueError(f"{count} random features are too few for {len(multipliers)} bandwidth multipliers.")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    normals = _orthogonal_normals(dim, count, generator)
    mixture = torch.ones(count, device=generator.device)
    if kernel != "gaussian":
        squared = torch.randn(count, generator=generator, device=generator.device).square()
        mixture = squared / 2
    # Each multiplier's columns side by side: orthogonality counts within one length scale.
    owner = torch.arange(count, device=generator.device) * len(multipliers) // count
    scales = torch.tensor(multipliers, device=generator.device)[owner]
    return normals * (mixture / scales).sqrt()


def random_feature_squared_mmd(
    features: Tensor,
    labels: Tensor | None,
    companion_features: Tensor,
    companion_labels: Tensor | None,
    frequencies: Tensor,
    bandwidth: Tensor,
    alignment: Alignment,
    estimator: Estimator,
    class_weighting: ClassWeighting = "size",
) -> Tensor:
    """The squared MMD of `MatchingLoss`, with the kernel that the frequencies stand for.

    Time and memory grow with `(n + m) * count` (and `dim`), not with `n * m`. The kernel is that of `draw_frequencies`
    up to an error of order `1 / sqrt(count)`; a row's kernel with itself is exactly 1. Gradients need more frequencies:
    their error relative to the exact kernel's was `c * sqrt(dim / count)` when measured at `count >= dim`, with `c`
    0.5 for `gaussian` (0.8 with three multipliers) and 1.4 for `inverse_multiquadric`. Value and gradient are linear in
    the kernel, hence unbiased over draws of the frequencies (but for those of labels, drawn with one fixed seed).

    Args:
        features: `[n, dim]`, float32 or float64.
        labels: `[n]` class ids (-100 belongs to no class), or, for joint alignment, `[n]` float or `[n, classes]`
            multi-label targets; not read for marginal alignment.
        companion_features: `[m, dim]`.
        companion_labels: the companion batch's labels.
        frequencies: `[dim, count]`, see `draw_frequencies`.
        bandwidth: a scalar, the kernel's squared length scale.
        alignment: `"marginal"`, `"conditional"` or `"joint"`, see `MatchingLoss`.
        estimator: `"biased"` or `"unbiased"`, see `squared_mmd`.
        class_weighting: of conditional alignment, see `shared_size`.

    Returns:
        A scalar; 0 with zero gradients where `squared_mmd` is.

    Raises:
        ValueError: conditional or joint alignment without labels, or conditional alignment without class ids.
    """
    centre = torch.cat([features, companion_features]).detach().mean(dim=0)  # keeps angles small
    directions = frequencies.to(features) / bandwidth.sqrt()
    angles = (features - centre) @ directions, (companion_features - centre) @ directions
    if alignment == "marginal":
        return _marginal(angles, estimator)
    if labels is None or companion_labels is None:
        raise ValueError(f"{alignment} alignment needs labels.")
    if is_class_ids(labels):
        return _by_class(angles, (labels, companion_labels), alignment, estimator, class_weighting)
    if alignment == "conditional":
        raise ValueError("conditional alignment needs one class id an example.")
    turns = _label_angles(labels, companion_labels, angles[0])
    return _marginal((angles[0] + turns[0], angles[1] + turns[1]), estimator)


def _orthogonal_normals(dim: int, count: int, generator: torch.Generator) -> Tensor:
    # A Gaussian matrix's column norms are independent of its Q, so each column stays standard normal: once the signs
    # are random, which the solver's are not, and sums of features' and labels' angles would show it.
    width = min(dim, count)
    blocks = torch.randn(-(-count // width), dim, width, generator=generator, device=generator.device)
    basis, triangle = torch.linalg.qr(blocks)
    columns = basis * triangle.diagonal(dim1=1, dim2=2).sign()[:, None] * blocks.norm(dim=1, keepdim=True)
    return columns.transpose(0, 1).reshape(dim, -1)[:, :count]


def _marginal(angles: tuple[Tensor, Tensor], estimator: Estimator) -> Tensor:
    rows = [side.new_full((1,), len(side)) for side in angles]
    sums = [_waves(side).sum(dim=0, keepdim=True) for side in angles]
    return _mean_squared_mmd(sums, rows, [row.clamp(max=1) for row in rows], estimator)


def _by_class(
    angles: tuple[Tensor, Tensor],
    labels: tuple[Tensor, Tensor],
    alignment: Alignment,
    estimator: Estimator,
    class_weighting: ClassWeighting,
) -> Tensor:
    classes, ids = torch.unique(torch.cat(labels), return_inverse=True)
    labelled = (classes != UNLABELLED).to(angles[0].dtype)
    sums, rows = [], []
    for side, own in zip(angles, ids.split([len(part) for part in labels]), strict=True):
        zeros = side.new_zeros(len(classes), 2 * side.shape[1])
        sums.append(zeros.index_add(0, own, _waves(side)) * labelled[:, None])
        rows.append(side.new_zeros(len(classes)).index_add(0, own, side.new_ones(len(own))) * labelled)
    if alignment == "conditional":
        return _mean_squared_mmd(sums, rows, [row.clamp(max=1) for row in rows], estimator, class_weighting)
    # Joint: a class is a block of coordinates, and the examples of no class are rows of zeros.
    totals = [side.new_full((1,), len(side)) for side in angles]
    own_kernel = [row.sum()[None] / total.clamp(min=1) for row, total in zip(rows, totals, strict=True)]
    return _mean_squared_mmd([part.reshape(1, -1) for part in sums], totals, own_kernel, estimator)


def _waves(angles: Tensor) -> Tensor:
    return torch.cat([angles.cos(), angles.sin()], dim=1) / angles.shape[1] ** 0.5


def _label_angles(labels: Tensor, companion_labels: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    # The angles of a product of kernels are the sums of the factors' angles.
    rows, other_rows, scale = target_rows(labels, companion_labels)
    assert scale is not None
    frequencies = draw_frequencies(rows.shape[1], like.shape[1], "gaussian", (1.0,), LABEL_SEED)
    directions = frequencies.to(like) / scale.to(like.dtype).sqrt()
    return rows.to(like.dtype) @ directions, other_rows.to(like.dtype) @ directions


def _mean_squared_mmd(
    sums: Sequence[Tensor],
    rows: Sequence[Tensor],
    own_kernel: Sequence[Tensor],
    estimator: Estimator,
    class_weighting: ClassWeighting = "size",
) -> Tensor:
    # Per batch: sums of feature vectors [classes, 2 count], row counts [classes], mean of k(x, x) [classes].
    means = [part / row.clamp(min=1)[:, None] for part, row in zip(sums, rows, strict=True)]
    values = (means[0] - means[1]).square().sum(dim=1)
    excluded = 1 if estimator == "unbiased" else 0
    if excluded:
        for mean, row, own in zip(means, rows, own_kernel, strict=True):
            values = values - (own - mean.square().sum(dim=1)) / (row - 1).clamp(min=1)
    valid = ((rows[0] > excluded) & (rows[1] > excluded)).to(values.dtype)
    sizes = valid * shared_size(rows[0], rows[1], class_weighting)
    total = sizes.sum()
    return (sizes * values).sum() / torch.where(total > 0, total, 1.0)
