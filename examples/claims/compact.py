"""Draws `guide/compact.png`: two-dimensional features of test images after plain and after aligned training.

    python -m examples.claims.compact

Trains on 200 images of five digits with ten seeds, and draws the seed whose gain is the median.
"""

from pathlib import Path

import numpy as np
from transformers import Trainer

from examples.claims.classifier import KINDS, SEEDS, train
from itra_hf.features import extract_features
from itra_hf.reports.compactness import compactness
from itra_hf.reports.plots import feature_map

PICTURE = Path(__file__).resolve().parents[1] / "guide" / "compact.png"
CLASSES = 5
SETTINGS = {"size": 200, "classes": CLASSES, "dim": 2, "num_train_epochs": 60, "learning_rate": 1e-2}

Features = tuple[np.ndarray, np.ndarray]  # `[n, 2]`, and the digits `[n]`


def run(kind: type[Trainer], seed: int, **changes) -> tuple[Features, float]:
    """The features of the test images with their digits, and the accuracy on them."""
    trainer = train(kind, seed, **SETTINGS | changes)
    prediction = trainer.predict(trainer.eval_dataset)
    accuracy = float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))
    return extract_features(trainer.model, trainer.get_eval_dataloader()), accuracy


def ratio(features: Features) -> float:
    """The scatter within over that between classes."""
    return compactness(*features)["scatter_ratio"]


def line(name: str, values: list[float]) -> str:
    """A row of the guide's table: mean, smallest and largest."""
    return f"| {name} | {np.mean(values):.3f} | {min(values):.3f} to {max(values):.3f} |"


def main() -> None:
    runs = {kind.__name__: {seed: run(kind, seed) for seed in SEEDS} for kind in KINDS}
    ratios = {name: {seed: ratio(features) for seed, (features, _) in each.items()} for name, each in runs.items()}
    gains = {seed: ratios["ITRATrainer"][seed] / ratios["Trainer"][seed] for seed in SEEDS}
    for name, each in runs.items():
        print(line(f"`{name}`: within / between scatter", [*ratios[name].values()]))
        print(line(f"`{name}`: accuracy", [accuracy for _, accuracy in each.values()]))
    print(line("ratio of the two scatters", [*gains.values()]))
    drawn = sorted(gains, key=gains.__getitem__)[len(gains) // 2]
    print(f"drawn: seed {drawn}")
    feature_map({name: each[drawn][0] for name, each in runs.items()}, list("01234")).savefig(PICTURE)


if __name__ == "__main__":
    main()
