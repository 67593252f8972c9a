"""What a trained model is worth: the figures of one run."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy.special import log_softmax
from transformers import Trainer
from transformers.trainer_utils import PredictionOutput

from ..features.extract import collected_features, extract_features
from ..reports.compactness import compactness
from ..text.data import Task
from ..text.metrics import ProblemType
from .spoiling import relabelled
from .unknown import unknown_auroc

FEATURES = "features.npz"
MOST_FEATURES = 2000  # examples whose features are kept for the maps


def assess(
    trainer: Trainer, tested: datasets.Dataset, task: Task, unknown: datasets.Dataset | None, folder: Path
) -> dict[str, Any]:
    """The figures of a trained model on tested examples, and how well it tells unknown classes' examples from them.

    Writes the features of the tested examples to the run's folder, for the maps.

    Raises:
        FloatingPointError: the logits are not finite.
    """
    single = task.problem_type == "single_label_classification"
    prediction, features = _predict_with_features(trainer, tested) if single else (trainer.predict(tested), None)
    logits, labels = _finite_logits(prediction), np.asarray(prediction.label_ids)
    metrics: dict[str, Any] = {name.removeprefix("test_"): value for name, value in (prediction.metrics or {}).items()}
    metrics["nll"] = negative_log_likelihood(logits, labels, task.problem_type)
    if features is None:
        return metrics
    metrics["scatter_ratio"] = compactness(features, labels)["scatter_ratio"]
    # float16 is plenty for a picture
    sample = features[:MOST_FEATURES].astype(np.float16)
    names = np.array(task.label_names)
    np.savez_compressed(folder / FEATURES, features=sample, labels=labels[:MOST_FEATURES], names=names)
    if unknown is not None:
        # The head has no outputs for these labels; another stands in, for some models can't do without.
        others, other_features = _predict_with_features(trainer, relabelled(unknown, np.zeros(len(unknown), int)))
        assert trainer.model is not None
        train = extract_features(trainer.model, trainer.get_test_dataloader(trainer.train_dataset))  # type: ignore[arg-type]
        metrics |= unknown_auroc(logits, _finite_logits(others), features, other_features, *train)
    return metrics


def _predict_with_features(trainer: Trainer, data: datasets.Dataset) -> tuple[PredictionOutput, np.ndarray]:
    """A Trainer's prediction, and the features of the examples, `[n, dim]` float32, in one pass over them."""
    assert trainer.model is not None
    inputs = next(iter(trainer.get_test_dataloader(data)))
    inputs = trainer._prepare_inputs({name: value for name, value in inputs.items() if name != "labels"})
    try:
        with collected_features(trainer.model, inputs) as features:
            prediction = trainer.predict(data)
    except FloatingPointError as error:
        raise FloatingPointError(f"the run diverged: {error}") from error
    return prediction, np.concatenate(features)


def _finite_logits(prediction: PredictionOutput) -> np.ndarray:
    logits = prediction.predictions
    logits = np.asarray(logits[0] if isinstance(logits, tuple) else logits, dtype=np.float64)
    if not np.isfinite(logits).all():
        raise FloatingPointError("the run diverged: the model's logits are not finite")
    return logits


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, problem_type: ProblemType) -> float | None:
    """The mean negative log-likelihood of the labels, without label smoothing or class weights.

    Args:
        logits: `[n, classes]`.
        labels: `[n]` class ids, of which negative ones are left out, or `[n, classes]` of 0 and 1.
        problem_type: as in a model's config.

    Returns:
        Nats an example (multi-label: an example and label); `None` for regression.
    """
    if problem_type == "regression":
        return None
    if problem_type == "multi_label_classification":
        return float(np.mean(np.logaddexp(0, logits) - labels * logits))
    kept = labels >= 0
    return float(-np.mean(log_softmax(logits[kept], axis=-1)[np.arange(kept.sum()), labels[kept]]))
