"""One run of a comparison, in a process of its own: trains, tests, and leaves its figures in a file."""

import json
import math
import os
import shutil
import sys
import traceback
from collections.abc import Mapping
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil
import torch
from scipy.special import log_softmax
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits
from transformers import Trainer, set_seed
from transformers.trainer_utils import EvalPrediction, PredictionOutput

from ..features.extract import collected_features, extract_features
from ..features.item_counts import computes_with_item_count, takes_item_count
from ..reports.compactness import compactness
from ..text.data import Task, tokenize
from ..text.metrics import ProblemType, compute_metrics_for
from ..text.models import fitting_length, load_model
from ..text.train import read_data
from .few_examples import few_example_accuracy
from .measures import BY_NAME
from .plan import Run
from .propagation import propagate
from .selective import selective_figures
from .spoiling import HELD_OUT, UNKNOWN, relabelled, spoil
from .temperature import fit_temperature
from .unknown import unknown_auroc
from .variants import load_trainer

RESULT, ERROR, LOG, FEATURES = "result.json", "error.txt", "log.txt", "features.npz"
MOST_FEATURES = 2000  # examples whose features are kept for the maps
MOST_PROPAGATED = 3000  # examples whose features are propagated, for its matrix has as many rows and columns


def execute(run: Run, folder: Path, threads: int, device: str | None = None) -> None:
    """Runs, and writes `result.json` at once and whole, or `error.txt`; what is printed goes to `log.txt`.

    Args:
        run: what to do.
        folder: the run's own.
        threads: for this process.
        device: the one GPU that it may see; `None`: as they are.

    Raises:
        SystemExit: with status 1, after an error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ERROR).unlink(missing_ok=True)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    with open(folder / LOG, "w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        torch.set_num_threads(threads)
        try:
            with threadpool_limits(threads):
                result = measure(run, folder)
        except Exception as error:
            traceback.print_exc()
            sys.stderr.flush()
            (folder / ERROR).write_text(f"{type(error).__name__}: {error}\n", encoding="utf-8")
            raise SystemExit(1) from error
        write_atomically(folder / RESULT, json.dumps(result, indent=1))


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def measure(run: Run, folder: Path) -> dict[str, Any]:
    """Trains and tests; the folder keeps the features of the tested examples, and not the trainer's own files.

    Returns:
        The figures of `MEASURES` that apply, `None` where one is not finite, the training's log and what was run.

    Raises:
        FloatingPointError: the run diverged.
    """
    trainer, tested, task, others = build(run, folder)
    seconds = trainer.train().metrics["train_runtime"]
    peak = peak_memory(trainer.args.device)
    trainer.args.dataloader_drop_last = False  # of the training set alone
    metrics = assess(trainer, tested, task, others, run.seed, folder) | {"seconds": seconds, "peak_memory": peak}
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    found = {name: float(metrics[name]) for name in BY_NAME if metrics.get(name) is not None}
    return {
        "variant": run.variant,
        "seed": run.seed,
        "train_samples": run.train_samples,
        "metrics": {name: value if math.isfinite(value) else None for name, value in found.items()},
        "steps": trainer.state.global_step,
        "trained": len(trainer.train_dataset),  # type: ignore[arg-type]
        "tested": len(tested),
        "tested_on": "validation" if tested is trainer.eval_dataset else "test",
        "unknown": len(others[UNKNOWN]) if UNKNOWN in others else 0,
        "log": [
            {key: value for key, value in entry.items() if not isinstance(value, float) or math.isfinite(value)}
            for entry in trainer.state.log_history
        ],
        "versions": {name: version(name) for name in ("itra_hf", "torch", "transformers")},
    }


def build(run: Run, folder: Path) -> tuple[Trainer, datasets.Dataset, Task, dict[str, datasets.Dataset]]:
    """Reads and prepares the data, and makes the trainer.

    Returns:
        The trainer, the examples to test on, the task, and what `spoil` left out of training, by name.

    Raises:
        ValueError: settings, data and trainer that don't go together, or files that have changed.
    """
    model_args, data_args, args = run.arguments(folder / "trainer")
    run.check_sources()
    trainer_class = load_trainer(run.trainer)
    set_seed(run.seed)  # the new head starts from it, whatever the trainer's file did to the generators
    splits, task, tested = spoil(run, *read_data(data_args, args, model_args), data_args)
    model, tokenizer = load_model(model_args, task)
    longest = fitting_length(data_args.max_seq_length, model, tokenizer)
    for name, data in splits.items():
        splits[name] = tokenize(data, tokenizer, task, longest, data_args.preprocessing_num_workers)
    steps = count_steps(len(splits["train"]), args)
    if run.extra_compute == "batch":
        args.per_device_train_batch_size *= 2
        args.max_steps = steps
    elif run.extra_compute == "steps":
        args.max_steps = 2 * steps
    trainer = trainer_class(
        model=model,
        args=args,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics_for(task.problem_type),
        **run.trainer_arguments,
    )
    counted = takes_item_count(model) or computes_with_item_count(trainer_class)
    if trainer.compute_loss_func is None and not counted:
        # Else the stock Trainer skips the division by the accumulation steps for most heads, and ITRATrainer does not.
        trainer.model_accepts_loss_kwargs = False
    return trainer, splits[tested], task, {name: splits[name] for name in (UNKNOWN, HELD_OUT) if name in splits}


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
    # float16 is plenty for a picture
    sample = features[:MOST_FEATURES].astype(np.float16)
    names = np.array(task.label_names)
    np.savez_compressed(folder / FEATURES, features=sample, labels=labels[:MOST_FEATURES], names=names)
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


def count_steps(examples: int, args: Any) -> int:
    """The optimizer steps of a plain run, as the Trainer counts them in one process."""
    if args.max_steps > 0:
        return args.max_steps
    batches = examples / args.per_device_train_batch_size
    batches = math.floor(batches) if args.dataloader_drop_last else math.ceil(batches)
    return math.ceil(args.num_train_epochs * max(1, math.ceil(batches / args.gradient_accumulation_steps)))


def peak_memory(device: torch.device) -> float:
    """The most memory that this process has held so far, in MB: of the GPU where it trains on one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
