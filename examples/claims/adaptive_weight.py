"""Draws `guide/adaptive_weight.png`: how hard a feature is pulled by its distance, and the noise of the gradient.

    python -m examples.claims.adaptive_weight

Trains on 300 images of ten digits with ten seeds.
"""

import math
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from transformers import Trainer

from examples.claims.classifier import KINDS, SEEDS, train
from itra_hf.features import extract_features
from itra_hf.losses import MatchingLoss
from itra_hf.reports.drawing import COLOURS, add_legend, decorate, draw_curve, new_figure

PICTURE = Path(__file__).resolve().parents[1] / "guide" / "adaptive_weight.png"
EVERY = 20  # steps from one measurement of the noise to the next
SETTINGS = {"size": 300, "classes": 10, "dim": 16, "num_train_epochs": 20, "learning_rate": 3e-3}
DISTANCES = np.linspace(0, 5, 21)  # in units of sigma


def pull(distances: np.ndarray) -> np.ndarray:
    """The length of the squared MMD's gradient at a feature that is `distances` sigma from one companion, by algebra.

    The loss of the two is `2 - 2 exp(-r^2 / 2)`.
    """
    return 2 * distances * np.exp(-(distances**2) / 2)


def measured_pull(distance: float, companions: int = 32, spread: float = 0.2) -> float:
    """The same by the package's own loss, for a feature and a batch of companions that lie `distance` from it."""
    loss = MatchingLoss(alignment="marginal", bandwidth=1.0)
    cloud = spread * torch.randn(companions, 2, generator=torch.Generator().manual_seed(0))
    feature = torch.tensor([[distance, 0.0]]) + cloud.mean(0)
    return float(loss.match(feature, None, cloud, None).gradient.norm())


def noise(kind: type[Trainer], seed: int, **changes) -> tuple[np.ndarray, float]:
    """The noise of the task loss's mini-batch gradient at the last layer, and how large the features got.

    Returns:
        Steps, variances and ratios of noise to signal, infinite where noise drowns it, `[measurements, 3]`; and the
        mean squared length of the training images' features after training.
    """
    trainer = train(kind, seed, noise_every=EVERY, **SETTINGS | changes)
    names = ("step", "gradient_variance", "gradient_noise_to_signal")
    lines = [line for line in trainer.state.log_history if "gradient_variance" in line]
    features, _ = extract_features(trainer.model, trainer.get_test_dataloader(trainer.train_dataset))
    found = np.array([[line.get(name, math.inf) for name in names] for line in lines])
    return found, float((features**2).sum(1).mean())


def mean_ratio(plain: np.ndarray, aligned: np.ndarray) -> tuple[float, float, float]:
    """The geometric mean of aligned over plain variances `[seeds, measurements]`, and its 95 % interval over seeds.

    The first measurement is left out: it is before the first step, where the two runs are the same.
    """
    logs = np.log(aligned[:, 1:] / plain[:, 1:]).mean(axis=1)
    return math.exp(logs.mean()), *(math.exp(end) for end in interval(logs))


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % t-interval of the mean over the first dimension."""
    return stats.t.interval(0.95, len(values) - 1, values.mean(axis=0), stats.sem(values))


def draw(runs: dict[str, np.ndarray]) -> None:
    """Both panels, of `[seeds, measurements, 3]` by name."""
    figure = new_figure(3.4)
    left, right = figure.subplots(1, 2)
    fine = np.linspace(0, DISTANCES[-1], 200)
    draw_curve(left, 0, "MMD, by algebra", fine, pull(fine))
    draw_curve(left, 1, "MMD, measured", DISTANCES, np.array([measured_pull(each) for each in DISTANCES]))
    left.lines[1].set_linestyle("none")
    draw_curve(left, 2, "distance of the means", fine, 2 * fine)
    left.set_ylim(0, 2)
    decorate(left, "How hard a feature is pulled", "distance from the other batch, sigma", "length of the gradient")
    for place, (name, found) in enumerate(runs.items(), start=3):
        steps, logs = found[0, :, 0], np.log(found[..., 1])
        low, high = np.exp(interval(logs))
        draw_curve(right, place, name, steps, np.exp(logs.mean(axis=0)))
        right.fill_between(steps, low, high, alpha=0.25, linewidth=0, color=COLOURS[place])
    right.set_yscale("log")
    decorate(right, "Noise of the task loss's gradient", "optimizer step", "variance over mini-batches")
    add_legend(figure, [*left.lines, *right.lines], "outside lower center")
    figure.savefig(PICTURE)


def main() -> None:
    runs, lengths = {}, {}
    for kind in KINDS:
        found, lengths[kind.__name__] = zip(*(noise(kind, seed) for seed in SEEDS), strict=True)
        runs[kind.__name__] = np.array(found)
    for name, found in runs.items():
        print(
            f"{name}: noise over signal, median {np.median(found[:, 1:, 2]):.1f}; features {np.mean(lengths[name]):.0f}"
        )
    mean, low, high = mean_ratio(*(found[..., 1] for found in runs.values()))
    print(f"with alignment {mean:.2f} times the variance, 95 % interval {low:.2f} to {high:.2f}, {len(SEEDS)} seeds")
    draw(runs)


if __name__ == "__main__":
    main()
