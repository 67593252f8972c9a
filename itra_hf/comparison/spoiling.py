"""Harder training data: labels flipped at random, classes thinned out."""

import numpy as np


def flip_labels(labels: np.ndarray, share: float, classes: int, seed: int) -> np.ndarray:
    """Gives a share of the examples another class, drawn uniformly from the others.

    Args:
        labels: `[n]` class ids.
        share: 0 to 1; `round(share * n)` examples are changed.
        classes: how many there are.
        seed: of the draw.

    Returns:
        The new `[n]`.

    Example:
        >>> int((flip_labels(np.zeros(10, dtype=int), 0.2, 3, seed=0) != 0).sum())
        2
    """
    random = np.random.default_rng(seed)
    rows = random.choice(len(labels), round(share * len(labels)), replace=False)
    flipped = labels.copy()
    flipped[rows] = (labels[rows] + random.integers(1, classes, len(rows))) % classes
    return flipped


def thin_classes(labels: np.ndarray, ratio: float, seed: int) -> np.ndarray:
    """Chooses examples so that the classes' sizes fall geometrically, in a random order of classes.

    The class that comes first keeps all of its examples, the last `1 / ratio` of them, at least one.

    Args:
        labels: `[n]` class ids.
        ratio: >= 1.
        seed: of the order and of the examples.

    Returns:
        The rows to keep, ascending.

    Example:
        >>> labels = np.repeat([0, 1, 2], 100)
        >>> sorted(np.bincount(labels[thin_classes(labels, 25, seed=0)]).tolist())
        [4, 20, 100]
    """
    random = np.random.default_rng(seed)
    present = random.permutation(np.unique(labels))
    kept = []
    for place, label in enumerate(present):
        rows = np.flatnonzero(labels == label)
        share = ratio ** (-place / max(1, len(present) - 1))
        kept.append(random.choice(rows, max(1, round(share * len(rows))), replace=False))
    return np.sort(np.concatenate(kept))
