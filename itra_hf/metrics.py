"""Metrics as `evaluate.Metric` classes that need no network; scikit-learn computes them.

They work like metrics from the hub: `compute`, `add_batch`, and `evaluate.combine([...])`.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import datasets
import evaluate
import numpy as np
from sklearn import metrics as sklearn_metrics
from transformers import EvalPrediction

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
Average = Literal["macro", "micro", "weighted"]


def _features(value: Any) -> datasets.Features:
    return datasets.Features({"predictions": value, "references": value})


_CLASS_IDS = _features(datasets.Value("int64"))
_MULTI_HOT = _features(datasets.Sequence(datasets.Value("int64")))
_TARGETS = _features(datasets.Value("float64"))


def _info(description: str, *features: datasets.Features) -> evaluate.MetricInfo:
    inputs = "predictions and references: one value, or for multi-label one 0/1 list, an example."
    return evaluate.MetricInfo(description=description, citation="", inputs_description=inputs, features=list(features))


class Accuracy(evaluate.Metric):
    """The share of examples predicted right, 0 to 1, higher is better; multi-label: all labels right.

    Example:
        >>> from itra_hf.metrics import Accuracy
        >>> Accuracy(keep_in_memory=True).compute(predictions=[0, 1, 1, 2], references=[0, 1, 2, 2])
        {'accuracy': 0.75}
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info("The share of examples predicted right.", _CLASS_IDS, _MULTI_HOT)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(sklearn_metrics.accuracy_score(np.asarray(references), np.asarray(predictions)))}


class F1(evaluate.Metric):
    """The harmonic mean of precision and recall, 0 to 1, higher is better.

    `average` in `compute`: `macro` (mean over classes), `micro` (over all decisions) or `weighted` (mean over
    classes, by their frequency). The key is `f1_` and the average.

    Example:
        >>> from itra_hf.metrics import F1
        >>> F1(keep_in_memory=True).compute(predictions=[0, 1, 1], references=[0, 1, 0], average="macro")
        {'f1_macro': 0.6666666666666666}
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info("The harmonic mean of precision and recall.", _CLASS_IDS, _MULTI_HOT)

    def _compute(self, predictions: Any, references: Any, average: Average = "macro") -> dict[str, float]:
        if average not in get_args(Average):
            raise ValueError(f"average={average!r} is not one of {', '.join(map(repr, get_args(Average)))}.")
        truth, guess = np.asarray(references), np.asarray(predictions)
        return {f"f1_{average}": float(sklearn_metrics.f1_score(truth, guess, average=average, zero_division=0.0))}


class RegressionErrors(evaluate.Metric):
    """Errors of float predictions: `mse` and `mae` (>= 0, lower is better) and `r2` (<= 1, higher is better).

    Example:
        >>> from itra_hf.metrics import RegressionErrors
        >>> RegressionErrors(keep_in_memory=True).compute(predictions=[1.0, 2.0], references=[1.0, 4.0])
        {'mse': 2.0, 'mae': 1.0, 'r2': 0.11111111111111116}
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info("Mean squared error, mean absolute error and coefficient of determination.", _TARGETS)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {
            "mse": float(sklearn_metrics.mean_squared_error(references, predictions)),
            "mae": float(sklearn_metrics.mean_absolute_error(references, predictions)),
            "r2": float(sklearn_metrics.r2_score(references, predictions)),
        }


def compute_metrics_for(problem_type: ProblemType) -> Callable[[EvalPrediction], dict[str, float]]:
    """A `compute_metrics` for the Trainer.

    Args:
        problem_type: as in a model's config.

    Returns:
        A function from predictions to accuracy and macro-F1 (single label), accuracy, micro- and macro-F1
        (multi-label, a label counts from a logit of 0) or the errors of `RegressionErrors`.
    """

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits = prediction.predictions
        logits = logits[0] if isinstance(logits, tuple) else logits
        references = prediction.label_ids
        if problem_type == "regression":
            flat = {"predictions": logits.reshape(-1), "references": np.asarray(references).reshape(-1)}
            return RegressionErrors(keep_in_memory=True).compute(**flat)
        averages: tuple[Average, ...] = ("macro",)
        columns: dict[str, Any]
        if problem_type == "multi_label_classification":
            columns = {"predictions": (logits > 0).astype(int), "references": np.asarray(references).astype(int)}
            averages = ("micro", "macro")
        else:
            columns = {"predictions": logits.argmax(-1), "references": references}
        result = Accuracy(keep_in_memory=True).compute(**columns)
        for average in averages:
            result |= F1(keep_in_memory=True).compute(**columns, average=average)
        return result

    return compute
