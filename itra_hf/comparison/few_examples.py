"""How well frozen features tell classes apart that the classifier was not trained on, from a few examples each."""

import numpy as np
from sklearn.preprocessing import normalize

DRAWS = 20  # of the examples, for which ones they are matters more than anything else


def few_example_accuracy(features: np.ndarray, labels: np.ndarray, examples: int, seed: int) -> float | None:
    """The accuracy of the nearest class mean (Snell et al., NeurIPS 2017) on examples of new classes.

    Features are scaled to length 1. The mean of each class is that of a few of its examples; the others are tested on,
    each class counting the same.

    Args:
        features: `[n, dim]`, of the new classes' examples.
        labels: `[n]` class ids.
        examples: how many of each class are known.
        seed: of the draws, so that models are compared by the same examples.

    Returns:
        The mean over draws, 0 to 1; `None` with fewer than two classes of more examples than that.

    Example:
        >>> features = np.repeat(np.eye(3), 4, axis=0)
        >>> few_example_accuracy(features, np.repeat([0, 1, 2], 4), examples=1, seed=0)
        1.0
    """
    classes, counts = np.unique(labels, return_counts=True)
    classes = classes[counts > examples]
    if len(classes) < 2:
        return None
    rows, random = normalize(np.asarray(features, dtype=np.float64)), np.random.default_rng(seed)
    accuracies = []
    for _ in range(DRAWS):
        known = np.concatenate([random.choice(np.flatnonzero(labels == each), examples, False) for each in classes])
        tested = np.setdiff1d(np.flatnonzero(np.isin(labels, classes)), known)
        means = np.stack([rows[known[labels[known] == each]].mean(axis=0) for each in classes])
        nearest = classes[((means**2).sum(axis=1) - 2 * rows[tested] @ means.T).argmin(axis=1)]
        right = nearest == labels[tested]
        accuracies.append(np.mean([right[labels[tested] == each].mean() for each in classes]))
    return float(np.mean(accuracies))
