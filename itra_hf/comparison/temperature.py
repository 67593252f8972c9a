"""Temperature scaling: one number that mends a trained classifier's probabilities, and leaves its answers."""

import math

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

WIDEST = (1e-4, 1e4)  # temperatures that are looked at


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that logits are divided by for the best likelihood (Guo et al., ICML 2017).

    One label in `n + 1` is taken for unknown, as in Platt scaling (Platt, 1999). Else a model that is right on all of a
    few examples would be made infinitely sure.

    Args:
        logits: `[n, classes]`, of examples that were not trained on.
        labels: `[n]` class ids; negative ones are left out.

    Returns:
        A number from 0.0001 to 10,000; 1 without examples.

    Example:
        >>> rows = np.array([[4.0, 0.0]] * 3 + [[0.0, 4.0]])
        >>> round(fit_temperature(rows, np.array([0, 0, 0, 0])), 2)
        4.72
    """
    rows, labels = logits[labels >= 0].astype(np.float64), labels[labels >= 0]
    if len(labels) == 0:
        return 1.0

    known = len(labels) / (len(labels) + 1)

    def loss(log_temperature: float) -> float:
        logs = log_softmax(rows / math.exp(log_temperature), axis=1)
        return float(-(known * logs[np.arange(len(labels)), labels] + (1 - known) * logs.mean(axis=1)).mean())

    # Convex in the inverse of the temperature, so there is one valley in its logarithm too.
    found = minimize_scalar(loss, bounds=[math.log(each) for each in WIDEST], method="bounded")
    return math.exp(found.x)
