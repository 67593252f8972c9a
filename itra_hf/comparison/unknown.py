"""How well a trained classifier tells examples of classes that it never saw from those of its own classes.

Scores are `[n]`, higher for what looks known, of logits `[n, classes]` or features `[n, dim]`.
"""

import numpy as np
from scipy.special import logsumexp, softmax
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

NEIGHBOURS = 5


def unknown_auroc(
    logits_known: np.ndarray,
    logits_unknown: np.ndarray,
    features_known: np.ndarray,
    features_unknown: np.ndarray,
    train_features: np.ndarray,
    train_labels: np.ndarray,
) -> dict[str, float]:
    """The area under the ROC curve of four scores, the examples of known classes being the positive ones.

    It is the chance that an example of a known class scores higher than one of an unknown class; 0.5 is a guess. Logits
    are `[n, classes]` and features `[n, dim]`, of the training examples with their class ids `[n]`.

    Returns:
        `unknown_probability`, `unknown_energy`, `unknown_neighbours` and, unless every training example has a class of
        its own, `unknown_mahalanobis`, 0 to 1 each.

    Example:
        >>> known, unknown, train = np.eye(2), np.full((1, 2), 0.5), np.repeat(np.eye(2), 5, axis=0)
        >>> unknown_auroc(known, unknown, known, unknown, train, np.repeat([0, 1], 5))["unknown_neighbours"]
        1.0
    """
    logits = np.concatenate([logits_known, logits_unknown]).astype(np.float64)
    features = np.concatenate([features_known, features_unknown]).astype(np.float64)
    train = np.asarray(train_features, dtype=np.float64)
    scores = {
        "unknown_probability": probability_scores(logits),
        "unknown_energy": energy_scores(logits),
        "unknown_neighbours": neighbour_scores(features, train),
    }
    if len(np.unique(train_labels)) < len(train):  # else nothing tells how features spread within a class
        scores["unknown_mahalanobis"] = mahalanobis_scores(features, train, np.asarray(train_labels))
    is_known = np.arange(len(logits)) < len(logits_known)
    return {name: float(roc_auc_score(is_known, values)) for name, values in scores.items()}


def probability_scores(logits: np.ndarray) -> np.ndarray:
    """The probability of the likeliest class (Hendrycks and Gimpel, ICLR 2017)."""
    return softmax(logits, axis=1).max(axis=1)


def energy_scores(logits: np.ndarray) -> np.ndarray:
    """The log of the summed exponentials of the logits, the negative free energy (Liu et al., NeurIPS 2020).

    Unlike the probability it also counts how large the logits are altogether.
    """
    return logsumexp(logits, axis=1)


def mahalanobis_scores(features: np.ndarray, train: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Minus the squared Mahalanobis distance to the nearest class mean (Lee et al., NeurIPS 2018).

    The classes share one covariance, that of the training features around the means of their classes. It is shrunk
    (Ledoit and Wolf, 2004), for there may be fewer examples than dimensions.
    """
    classes, ids = np.unique(labels, return_inverse=True)
    means = np.stack([train[ids == each].mean(axis=0) for each in range(len(classes))])
    precision = LedoitWolf(assume_centered=True).fit(train - means[ids]).precision_
    middle = means.mean(axis=0)  # taken off, as large numbers would cancel each other below
    rows, means = features - middle, means - middle
    weighted, weighted_means = rows @ precision, means @ precision
    squares = (weighted * rows).sum(axis=1)[:, None] + (weighted_means * means).sum(axis=1)
    return -(squares - 2 * weighted @ means.T).min(axis=1)


def neighbour_scores(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Minus the distance to the fifth nearest training feature, all scaled to length 1 (Sun et al., ICML 2022)."""
    search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(train))).fit(normalize(train))
    return -search.kneighbors(normalize(features))[0][:, -1]
