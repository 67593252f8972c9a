"""Metrics as `evaluate.Metric` classes that need no network; scikit-learn computes those that it has.

They work like metrics from the hub: `compute`, `add_batch`, and `evaluate.combine([...])`. Their inputs are
`references` and one of `predictions` (decisions), `prediction_scores` (probabilities) or `features`. To combine
metrics of different inputs, give them all to `add_batch` and call `compute()` without any.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

import datasets
import evaluate
import numpy as np
from scipy.special import expit, softmax
from sklearn import metrics as sklearn_metrics
from transformers import EvalPrediction
from transformers.utils import logging

from ..reports.compactness import compactness

logger = logging.get_logger(__name__)

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
Average = Literal["macro", "micro", "weighted"]

_CLASS_ID, _NUMBER = datasets.Value("int64"), datasets.Value("float64")
_NUMBERS = datasets.Sequence(_NUMBER)
_LABELS = (_CLASS_ID, datasets.Sequence(_CLASS_ID))  # one an example, or for multi-label a list of 0 and 1
_DECISIONS = tuple({"predictions": kind, "references": kind} for kind in _LABELS)
_SCORES = tuple({"prediction_scores": _NUMBERS, "references": kind} for kind in _LABELS)


class _Metric(evaluate.Metric):
    """What `evaluate` asks of a metric, from its docstring and the ways that its `inputs` can be."""

    inputs: tuple[dict[str, Any], ...] = _DECISIONS

    def _info(self) -> evaluate.MetricInfo:
        description, _, details = str(self.__doc__).partition("\n")
        features = [datasets.Features(each) for each in self.inputs]
        return evaluate.MetricInfo(description=description, citation="", inputs_description=details, features=features)


class Accuracy(_Metric):
    """The share of examples predicted right, 0 to 1, higher is better; multi-label: all labels right.

    Example:
        >>> from itra_hf.text.metrics import Accuracy
        >>> Accuracy(keep_in_memory=True).compute(predictions=[0, 1, 1, 2], references=[0, 1, 2, 2])
        {'accuracy': 0.75}
    """

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(sklearn_metrics.accuracy_score(np.asarray(references), np.asarray(predictions)))}


class F1(_Metric):
    """The harmonic mean of precision and recall, `2 tp / (2 tp + fp + fn)`: 0 to 1, higher is better.

    `average` in `compute`: `macro` (mean over classes), `micro` (over all decisions; with one label an example that is
    the accuracy) or `weighted` (mean over classes, by their frequency). The key is `f1_` and the average.

    Example:
        >>> from itra_hf.text.metrics import F1
        >>> F1(keep_in_memory=True).compute(predictions=[0, 1, 1], references=[0, 1, 0], average="macro")
        {'f1_macro': 0.6666666666666666}
    """

    def _compute(self, predictions: Any, references: Any, average: Average = "macro") -> dict[str, float]:
        if average not in get_args(Average):
            raise ValueError(f"average={average!r} is not one of {', '.join(map(repr, get_args(Average)))}.")
        truth, guess = np.asarray(references), np.asarray(predictions)
        return {f"f1_{average}": float(sklearn_metrics.f1_score(truth, guess, average=average, zero_division=0.0))}


class MatthewsCorrelation(_Metric):
    """The correlation of predicted and true classes: -1 to 1, higher is better, 0 for guessing whatever the imbalance.

    With two classes `(tp tn - fp fn) / sqrt((tp + fp)(tp + fn)(tn + fp)(tn + fn))`, with more Gorodkin's R_K; multi-
    label: the mean over the labels, where one that never or always occurs counts 0.

    Example:
        >>> from itra_hf.text.metrics import MatthewsCorrelation
        >>> MatthewsCorrelation(keep_in_memory=True).compute(predictions=[0, 0, 1, 1], references=[0, 0, 1, 0])
        {'matthews_correlation': 0.5773502691896258}
    """

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        truth, guess = (np.asarray(values).reshape(len(values), -1) for values in (references, predictions))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a label that never occurs counts 0, as documented
            each = [sklearn_metrics.matthews_corrcoef(*columns) for columns in zip(truth.T, guess.T, strict=True)]
        return {"matthews_correlation": float(np.mean(each))}


class CalibrationError(_Metric):
    """The expected calibration error, `sum_b n_b / n |accuracy_b - confidence_b|`: 0 to 1, lower is better.

    A prediction's confidence is its class's probability; predictions are grouped by it into `bins` intervals of equal
    width, closed on the right (Guo et al., ICML 2017). Multi-label: each label of each example is a prediction of its
    own, with the confidence `max(p, 1 - p)`.

    Example:
        >>> from itra_hf.text.metrics import CalibrationError
        >>> scores = [[0.75, 0.25], [0.75, 0.25]]
        >>> CalibrationError(keep_in_memory=True).compute(prediction_scores=scores, references=[0, 1])
        {'calibration_error': 0.25}
    """

    inputs = _SCORES

    def _compute(
        self, prediction_scores: Any, references: Any, bins: int = 15, predictions: None = None
    ) -> dict[str, float]:
        if bins < 1:
            raise ValueError(f"bins={bins!r} must be at least 1.")
        scores, truth = np.asarray(prediction_scores), np.asarray(references)
        if truth.ndim == 2:
            confidence, right = np.maximum(scores, 1 - scores).ravel(), ((scores > 0.5) == truth).ravel()
        else:
            confidence, right = scores.max(axis=1), scores.argmax(axis=1) == truth
        if not np.isfinite(confidence).all():
            return {"calibration_error": math.nan}
        group = np.searchsorted(np.arange(1, bins) / bins, confidence)
        gaps = np.bincount(group, right - confidence, minlength=bins)  # n_b times the gap
        return {"calibration_error": float(np.abs(gaps).sum() / len(confidence))}


class BrierScore(_Metric):
    """The squared error of the probabilities, `mean_i sum_k (p_ik - y_ik)^2`: 0 to 2, lower is better.

    `y_ik` is 1 for the true class and 0 for the others (Brier, 1950). Multi-label: the mean over the labels instead of
    the sum, 0 to 1.

    Example:
        >>> from itra_hf.text.metrics import BrierScore
        >>> BrierScore(keep_in_memory=True).compute(prediction_scores=[[0.75, 0.25], [0.5, 0.5]], references=[0, 1])
        {'brier_score': 0.3125}
    """

    inputs = _SCORES

    def _compute(self, prediction_scores: Any, references: Any, predictions: None = None) -> dict[str, float]:
        scores, truth = np.asarray(prediction_scores), np.asarray(references)
        if truth.ndim == 2:
            return {"brier_score": float(((scores - truth) ** 2).mean())}
        return {"brier_score": float(((scores - np.eye(scores.shape[1])[truth]) ** 2).sum(axis=1).mean())}


class RegressionErrors(_Metric):
    """Errors of float predictions: `mse` and `mae` (>= 0, lower is better) and `r2` (<= 1, higher is better).

    The mean squared error, the mean absolute error, and the coefficient of determination, 1 minus the mean squared
    error over the variance of the references.

    Example:
        >>> from itra_hf.text.metrics import RegressionErrors
        >>> RegressionErrors(keep_in_memory=True).compute(predictions=[1.0, 2.0], references=[1.0, 4.0])
        {'mse': 2.0, 'mae': 1.0, 'r2': 0.11111111111111116}
    """

    inputs = ({"predictions": _NUMBER, "references": _NUMBER},)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        errors = {"mse": "mean_squared_error", "mae": "mean_absolute_error", "r2": "r2_score"}
        if not (np.isfinite(predictions).all() and np.isfinite(references).all()):
            return dict.fromkeys(errors, math.nan)
        return {key: float(getattr(sklearn_metrics, name)(references, predictions)) for key, name in errors.items()}


class Compactness(_Metric):
    """How tightly features gather around their classes' means, see `itra_hf.reports.compactness.compactness`.

    Example:
        >>> from itra_hf.text.metrics import Compactness
        >>> result = Compactness(keep_in_memory=True).compute(features=[[0.0], [2.0], [9.0]], references=[0, 0, 1])
        >>> result["class_separation"]
        1.0
    """

    inputs = ({"features": _NUMBERS, "references": _CLASS_ID},)

    def _compute(self, features: Any, references: Any, predictions: None = None) -> dict[str, float]:
        return compactness(features, references)


def metric_names(problem_type: ProblemType) -> list[str]:
    """The names of what `compute_metrics_for` computes."""
    logits, several = np.eye(2), np.eye(2, dtype=int)
    labels = {"single_label_classification": np.arange(2), "multi_label_classification": several}
    references = labels.get(problem_type, np.arange(2.0))
    predictions = logits[:, :1] if problem_type == "regression" else logits
    return list(compute_metrics_for(problem_type)(EvalPrediction(predictions, references)))


def compute_metrics_for(problem_type: ProblemType) -> Callable[[EvalPrediction], dict[str, float]]:
    """A `compute_metrics` for the Trainer.

    Args:
        problem_type: as in a model's config.

    Returns:
        A function from predictions to accuracy, macro-, micro- and weighted F1, Matthews correlation, calibration
        error and Brier score, in their multi-label forms where needed (a label counts from a logit of 0), or to the
        errors of `RegressionErrors`. Where a logit is not finite, all of them are NaN. Examples without label (-100)
        are left out, as the loss leaves them out; over none there is no metric.
    """
    told = False

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        nonlocal told
        logits = prediction.predictions
        logits = np.asarray(logits[0] if isinstance(logits, tuple) else logits).astype(np.float64)
        references = np.asarray(prediction.label_ids)
        if problem_type == "regression":
            flat = {"predictions": logits.reshape(-1), "references": references.reshape(-1)}
            return _computed(RegressionErrors, **flat) if logits.size else {}
        references = references.astype(int)
        labelled = references >= 0 if references.ndim == 1 else (references >= 0).all(axis=1)
        if not labelled.any():
            if not told:
                logger.warning("The evaluation set has no labels, so there are no metrics of it.")
            told = True
            return {}
        return _classification_metrics(logits[labelled], references[labelled])

    return compute


def _classification_metrics(logits: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Of `[n, classes]` logits and `[n]` class ids or `[n, classes]` of 0 and 1."""
    finite = np.isfinite(logits).all()
    if not finite:
        logits = np.zeros_like(logits)  # for the names of the metrics alone
    if references.ndim == 2:
        decisions, scores = (logits > 0).astype(int), expit(logits)
    else:
        decisions, scores = logits.argmax(-1), softmax(logits, axis=-1)
    decided = {"predictions": decisions, "references": references}
    scored = {"prediction_scores": scores, "references": references}
    result = _computed(Accuracy, **decided)
    for average in get_args(Average):
        result |= _computed(F1, **decided, average=average)
    result |= _computed(MatthewsCorrelation, **decided)
    result |= _computed(CalibrationError, **scored) | _computed(BrierScore, **scored)
    return result if finite else dict.fromkeys(result, math.nan)


def _computed(metric: type[_Metric], **inputs: Any) -> dict[str, float]:
    return metric(keep_in_memory=True).compute(**inputs) or {}
