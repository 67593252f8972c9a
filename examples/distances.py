"""Other distances than the MMD, for `matching_loss` of an `ITRAConfig`: functions of two batches of features.

    ITRAConfig("out", matching_loss="examples/distances.py:coral")

Each takes `[n, dim]` and `[m, dim]` float32 features and returns a scalar. Features are first divided by the root of
their mean squared distance, so that values are free of their scale; the matching weight makes up for the rest. None of
them was found to do better than the MMD.
"""

import torch
from torch import Tensor

MOMENTS = 5  # the highest
BLUR = 0.5  # in units of the features' scale


def coral(x: Tensor, y: Tensor) -> Tensor:
    """The squared Frobenius distance of covariances over `4 dim^2` (Sun and Saenko, ECCV 2016); blind to means."""
    x, y = _to_scale(x, y)
    covariances = [_covariance(rows) for rows in (x, y)]
    return (covariances[0] - covariances[1]).square().sum() / (4 * x.shape[1] ** 2)


def central_moments(x: Tensor, y: Tensor) -> Tensor:
    """The distances of means and of central moments up to the fifth, added up (Zellinger et al., ICLR 2017)."""
    x, y = _to_scale(x, y)
    means = x.mean(0), y.mean(0)
    total = _norm(means[0] - means[1])
    for order in range(2, MOMENTS + 1):
        total = total + _norm(((x - means[0]) ** order).mean(0) - ((y - means[1]) ** order).mean(0))
    return total


def sinkhorn_divergence(x: Tensor, y: Tensor) -> Tensor:
    """Debiased entropic optimal transport (Feydy et al., AISTATS 2019), by GeomLoss: `pip install geomloss`."""
    from geomloss import SamplesLoss

    x, y = _to_scale(x, y)
    return SamplesLoss("sinkhorn", p=2, blur=BLUR, scaling=0.9, diameter=2.0, backend="tensorized")(x, y)


def _to_scale(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    rows = torch.cat([x, y])
    centre = rows.mean(0).detach()
    scale = 2 * (rows - centre).square().sum(1).mean().detach().clamp(min=1e-12)
    return (x - centre) / scale.sqrt(), (y - centre) / scale.sqrt()


def _covariance(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(0)
    return centred.T @ centred / max(len(rows) - 1, 1)


def _norm(difference: Tensor) -> Tensor:
    return (difference.square().sum() + 1e-12).sqrt()  # whose gradient is finite at 0
