"""How far a classifier's own probabilities tell its right answers from its wrong ones."""

import numpy as np
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

COVERAGE = 0.8  # the share of examples that are answered


def selective_figures(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """What one gains by leaving the examples that the model is least sure of to somebody else.

    Sure is who gives its likeliest class a high probability (Geifman and El-Yaniv, NeurIPS 2017).

    Args:
        logits: `[n, classes]`.
        labels: `[n]` class ids; negative ones are left out.

    Returns:
        `selective_accuracy`, the accuracy on the four fifths of the examples that the model is surest of, and, where
        some answers are right and some wrong, `error_auroc`: the chance that a right answer is surer than a wrong one.

    Example:
        >>> logits = np.array([[3.0, 0.0], [2.0, 0.0], [0.0, 2.5], [0.0, 1.5], [0.1, 0.0]])
        >>> selective_figures(logits, np.array([0, 0, 1, 1, 1]))
        {'selective_accuracy': 1.0, 'error_auroc': 1.0}
    """
    logits, labels = logits[labels >= 0], labels[labels >= 0]
    right = logits.argmax(axis=1) == labels
    sureness = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    kept = max(1, round(COVERAGE * len(labels)))
    last = np.sort(sureness)[-kept]  # those as sure as this one count in part, right and wrong ones alike
    surer, tied = sureness > last, sureness == last
    figures = {"selective_accuracy": float((right[surer].sum() + right[tied].mean() * (kept - surer.sum())) / kept)}
    if 0 < right.sum() < len(right):
        figures["error_auroc"] = float(roc_auc_score(right, sureness))
    return figures
