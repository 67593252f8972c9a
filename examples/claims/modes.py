"""Draws `guide/modes.png`: what four losses do to a class whose features form two modes far apart.

    python -m examples.claims.modes

Features move freely, without a network: each step draws two batches of 32 of one class's 400 features, and moves these
down the gradient of a loss between the batches.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from itra_hf.losses import MatchingLoss
from itra_hf.reports.drawing import COLOURS, add_legend, decorate, draw_curve, new_figure

PICTURE = Path(__file__).resolve().parents[1] / "guide" / "modes.png"
FEATURES, BATCH, STEPS, SEEDS = 400, 32, 500, range(1, 6)
APART = 10.0  # from mode to mode; a mode's own features are 2 apart (root mean square)
PULL = 0.1  # how far a loss moves a batch's features in its first steps (root mean square), so that all pull alike
SHARES = (0.3, 0.5)  # of the features that are in the first mode

Loss = Callable[[Tensor, Tensor], Tensor]


def mmd(bandwidth: float | str) -> Loss:
    """The squared MMD of two batches of one class."""
    loss = MatchingLoss(alignment="marginal", bandwidth=bandwidth)
    return lambda x, y: loss(x, None, y, None)


def covariance(x: Tensor, y: Tensor) -> Tensor:
    """The squared distance of the two batches' covariances."""
    return (torch.cov(x.T) - torch.cov(y.T)).square().sum()


def centre(x: Tensor, y: Tensor) -> Tensor:
    """The mean squared distance of all features from their mean."""
    rows = torch.cat([x, y])
    return (rows - rows.mean(0)).square().sum(1).mean()


LOSSES: dict[str, Loss] = {
    "MMD, sigma = 2": mmd(4.0),
    "MMD, default sigma": mmd("mean"),
    "covariances": covariance,
    "centre": centre,
}


def start(share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features `[400, 2]` in two round modes, and which are in the second `[400]`."""
    second = torch.arange(FEATURES) >= round(share * FEATURES)
    features = torch.randn(FEATURES, 2, generator=generator)
    features[:, 0] += torch.where(second, APART / 2, -APART / 2)
    return features, second


def flow(loss: Loss, share: float, seed: int, steps: int = STEPS) -> tuple[Tensor, list[float]]:
    """The features after so many steps, `[400, 2]`, and the distance of the modes' means before each and at the end."""
    generator = torch.Generator().manual_seed(seed)
    features, second = start(share, generator)

    def gradient() -> tuple[Tensor, Tensor]:
        rows = torch.randperm(FEATURES, generator=generator)[: 2 * BATCH]
        batches = features[rows].requires_grad_()
        return rows, torch.autograd.grad(loss(batches[:BATCH], batches[BATCH:]), batches)[0]

    rate = PULL / torch.stack([gradient()[1].square().sum(1).mean() for _ in range(50)]).mean().sqrt()
    apart = [mode_distance(features, second)]
    for _ in range(steps):
        rows, pull = gradient()
        features[rows] -= rate * pull
        apart.append(mode_distance(features, second))
    return features, apart


def mode_distance(features: Tensor, second: Tensor) -> float:
    """How far the means of the two modes are apart."""
    return float((features[second].mean(0) - features[~second].mean(0)).norm())


def draw(ends: dict[str, Tensor], curves: dict[str, np.ndarray], share: float) -> None:
    """A panel a loss with the features before and after, and one with the distance of the modes over the steps."""
    figure = new_figure(5.0)
    grid = figure.add_gridspec(2, len(ends), height_ratios=(1, 1.2))
    before, second = start(share, torch.Generator().manual_seed(SEEDS[0]))
    for place, (name, after) in enumerate(ends.items()):
        axis = figure.add_subplot(grid[0, place])
        axis.plot(*before.T, ".", color="#C8C8C8", markersize=3)
        for rows, colour in ((~second, COLOURS[0]), (second, COLOURS[5])):
            axis.plot(*after[rows].T, ".", color=colour, markersize=3)
        axis.set(xlim=(-9, 9), ylim=(-5, 5))
        decorate(axis, name, "first feature", "second feature" if not place else "")
    axis = figure.add_subplot(grid[1, :])
    for place, (name, curve) in enumerate(curves.items()):
        draw_curve(axis, place, name, np.arange(len(curve)), curve)
    axis.set_ylim(0, None)
    decorate(axis, "", "step", "distance of the two modes")
    add_legend(figure, axis.lines, "outside lower center")
    figure.savefig(PICTURE)


def main() -> None:
    runs = {
        (name, share): [flow(loss, share, seed) for seed in SEEDS] for name, loss in LOSSES.items() for share in SHARES
    }
    for name in LOSSES:
        ends = [[apart[-1] for _, apart in runs[name, share]] for share in SHARES]
        print(f"| {name} | " + " | ".join(f"{np.mean(e):.1f} ({min(e):.1f} to {max(e):.1f})" for e in ends) + " |")
    shown = SHARES[0]
    ends = {name: runs[name, shown][0][0] for name in LOSSES}
    draw(ends, {name: np.mean([apart for _, apart in runs[name, shown]], axis=0) for name in LOSSES}, shown)


if __name__ == "__main__":
    main()
