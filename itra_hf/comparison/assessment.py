"""The figures of a trained model."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy.special import log_softmax
from sklearn.preprocessing import normalize
from transformers import Trainer
from transformers.trainer_utils import EvalPrediction, PredictionOutput

from ..features.extract import collected_features, extract_features
from ..reports.compactness import compactness
from ..text.data import Task
from ..text.metrics import ProblemType, compute_metrics_for
from .few_examples import few_example_accuracy
from .propagation import propagate
from .selective import selective_figures
from .spoiling import HELD_OUT, UNKNOWN, relabelled
from .temperature import fit_temperature
from .unknown import unknown_auroc

FEATURES = "features.npz"
MOST_FEATURES = 2000  # examples whose features are kept for the maps
MOST_PROPAGATED = 3000  # examples whose features are propagated, for its matrix has as many rows and columns


def assess(
    trainer: Trainer,
    tested: datasets.Dataset,
    task: Task,
    others: Mapping[str, datasets.Dataset],
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """The figures of a trained model on tested examples and on those that were left out of training.

    Writes the features of the tested examples to the run's folder, for the maps.

    Raises:
        FloatingPointError: the logits are not finite.
    """
    single = task.problem_type == "single_label_classification"
    prediction, logits, features = _predict(trainer, tested, collects=single)
    labels = np.asarray(prediction.label_ids)
    metrics: dict[str, Any] = {name.removeprefix("test_"): value for name, value in (prediction.metrics or {}).items()}
    metrics["nll"] = negative_log_likelihood(logits, labels, task.problem_type)
    if not single:
        return metrics
    metrics["scatter_ratio"] = compactness(features, labels)["scatter_ratio"]
    rows = np.sort(np.random.default_rng(0).permutation(len(labels))[:MOST_FEATURES])  # files may be sorted by class
    sample = features[rows].astype(np.float16)  # plenty for a picture
    np.savez_compressed(folder / FEATURES, features=sample, labels=labels[rows], names=np.array(task.label_names))
    metrics |= selective_figures(logits, labels)
    if HELD_OUT in others:
        held_out, held_out_logits, _ = _predict(trainer, others[HELD_OUT], collects=False)
        scaled = logits / fit_temperature(held_out_logits, np.asarray(held_out.label_ids))
        metrics["nll_scaled"] = negative_log_likelihood(scaled, labels, task.problem_type)
        figures = compute_metrics_for(task.problem_type)(EvalPrediction(scaled, labels))
        metrics["calibration_error_scaled"] = figures.get("calibration_error")
    if UNKNOWN in others:
        metrics |= _assess_unknown(trainer, others[UNKNOWN], logits, features, seed)
    return metrics


def _assess_unknown(
    trainer: Trainer, unknown: datasets.Dataset, logits: np.ndarray, features: np.ndarray, seed: int
) -> dict[str, float | None]:
    """How well examples of classes that were left out are told from known ones, and from each other by a few."""
    classes = np.asarray(unknown["labels"][:])
    # The head has no outputs for these labels; another stands in, for some models can't do without.
    _, *found = _predict(trainer, relabelled(unknown, np.zeros(len(unknown), int)), collects=True)
    assert trainer.model is not None
    train = extract_features(trainer.model, trainer.get_test_dataloader(trainer.train_dataset))  # type: ignore[arg-type]
    few = {f"new_classes_{each}": few_example_accuracy(found[1], classes, each, seed) for each in (1, 5)}
    rows = np.random.default_rng(seed).permutation(len(classes))[:MOST_PROPAGATED]
    smooth, some = propagate(normalize(found[1][rows].astype(np.float64))), classes[rows]
    few |= {f"new_classes_{each}_propagated": few_example_accuracy(smooth, some, each, seed) for each in (1, 5)}
    return unknown_auroc(logits, found[0], features, found[1], *train) | few


def _predict(trainer: Trainer, data: datasets.Dataset, collects: bool) -> tuple[PredictionOutput, np.ndarray, Any]:
    """A Trainer's prediction, its logits, and if asked the features, `[n, dim]` float32, in one pass over the examples.

    Raises:
        FloatingPointError: the logits are not finite.
    """
    assert trainer.model is not None
    inputs = next(iter(trainer.get_test_dataloader(data)))
    inputs = trainer._prepare_inputs({name: value for name, value in inputs.items() if name != "labels"})
    collecting: Any = collected_features(trainer.model, inputs) if collects else nullcontext([])
    try:
        with collecting as features:
            prediction = trainer.predict(data)
    except FloatingPointError as error:
        raise FloatingPointError(f"the run diverged: {error}") from error
    logits = prediction.predictions
    logits = np.asarray(logits[0] if isinstance(logits, tuple) else logits, dtype=np.float64)
    if not np.isfinite(logits).all():
        raise FloatingPointError("the run diverged: the model's logits are not finite")
    return prediction, logits, np.concatenate(features) if collects else None


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
