"""Does alignment help on images? A small vision transformer on handwritten digits, ten paired seeds.

    python -m examples.images          # trains 20 times, some two minutes on two cores, and prints a table
    python -m examples.images --tune   # how epochs and learning rate were chosen: plain runs of other seeds
    python -m examples.images --mends  # smaller pulls, on seeds of their own

200 images to train on, all 1,597 others to test on; everything but the method is the same in both runs of a seed.
"""

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed
from transformers.trainer_callback import PrinterCallback

from examples.digits import read_digits
from itra_hf import ITRAConfig, ITRATrainer
from itra_hf.comparison.assessment import negative_log_likelihood
from itra_hf.comparison.measures import BY_NAME, paired_difference, show, show_difference
from itra_hf.features import extract_features
from itra_hf.reports.compactness import compactness
from itra_hf.text.metrics import compute_metrics_for

TASK = "single_label_classification"
SEEDS, TUNING_SEEDS, MENDING_SEEDS = range(1, 11), (101, 102), range(301, 309)
MENDS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "matching_weight=0.3": {"matching_weight": 0.3},
    'weight_mode="balanced", matching_weight=0.1': {"weight_mode": "balanced", "matching_weight": 0.1},
}
IMAGES, EPOCHS, LEARNING_RATE = 200, 40, 5e-4
TRIED = [(epochs, rate) for epochs in (20, 40) for rate in (3e-4, 5e-4, 1e-3)]
SHOWN = ("accuracy", "nll", "calibration_error", "scatter_ratio", "seconds")

Figures = dict[str, float]


def make_model() -> ViTForImageClassification:
    """Two layers of width 64 on patches of 2 x 2 pixels; 70,000 parameters, from scratch."""
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        num_labels=10,
    )
    return ViTForImageClassification(config)


def run(
    kind: type[Trainer],
    seed: int,
    epochs: float = EPOCHS,
    learning_rate: float = LEARNING_RATE,
    images: int = IMAGES,
    **settings: Any,
) -> Figures:
    """The figures of one run on the test images; `seconds` are of processor time, in training alone."""
    torch.set_num_threads(1)  # more would wait for each other at this size
    train_set, test_set = read_digits(images, seed)
    make = ITRAConfig if kind is ITRATrainer else TrainingArguments
    with tempfile.TemporaryDirectory() as folder:
        args = make(
            output_dir=folder,
            num_train_epochs=epochs,
            learning_rate=learning_rate,
            warmup_steps=0.1,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=512,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
            **settings,
        )
        set_seed(seed)
        metrics = compute_metrics_for(TASK)
        trainer = kind(make_model(), args, train_dataset=train_set, eval_dataset=test_set, compute_metrics=metrics)
        trainer.remove_callback(PrinterCallback)
        start = time.process_time()
        trainer.train()
        seconds = time.process_time() - start
    prediction = trainer.predict(test_set)
    features = extract_features(trainer.model, trainer.get_eval_dataloader())
    return {
        "accuracy": prediction.metrics["test_accuracy"],
        "nll": negative_log_likelihood(prediction.predictions, prediction.label_ids, TASK),
        "calibration_error": prediction.metrics["test_calibration_error"],
        "scatter_ratio": compactness(*features)["scatter_ratio"],
        "seconds": seconds,
    }


def run_pair(seed: int) -> tuple[Figures, Figures]:
    """The figures of a seed's run without alignment, and of that with it."""
    return run(Trainer, seed), run(ITRATrainer, seed)


def table(plain: dict[int, Figures], aligned: dict[int, Figures]) -> str:
    """Means of the plain runs, and how the aligned ones differ from them, by measure."""
    lines = ["| | `Trainer` | `ITRATrainer` minus that | 95 % interval |", "|---|---|---|---|"]
    for measure in map(BY_NAME.__getitem__, SHOWN):
        own, other = ({seed: each[measure.name] for seed, each in runs.items()} for runs in (aligned, plain))
        found = paired_difference(own, other, measure.better)
        mean = sum(other.values()) / len(other)
        lines.append(f"| {measure.title} | {show(measure, mean)} | {' | '.join(show_difference(measure, found))} |")
    return "\n".join(lines)


def tune() -> None:
    """Prints the plain Trainer's accuracy for each number of epochs and learning rate that were tried."""
    for epochs, rate in TRIED:
        accuracies = [run(Trainer, seed, epochs, rate)["accuracy"] for seed in TUNING_SEEDS]
        print(f"{epochs} epochs, {rate:g}: {100 * sum(accuracies) / len(accuracies):.1f} %", flush=True)


def mend() -> None:
    """Prints what smaller pulls change, a table each."""
    plain = {seed: run(Trainer, seed) for seed in MENDING_SEEDS}
    for name, settings in MENDS.items():
        aligned = {seed: run(ITRATrainer, seed, **settings) for seed in MENDING_SEEDS}
        print(f"{name}\n{table(plain, aligned)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true", help="try epochs and learning rates instead")
    parser.add_argument("--mends", action="store_true", help="try smaller pulls instead")
    options = parser.parse_args()
    if options.tune or options.mends:
        return tune() if options.tune else mend()
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        pairs = dict(zip(SEEDS, pool.map(run_pair, SEEDS), strict=True))
    return print(table(*({seed: pair[place] for seed, pair in pairs.items()} for place in (0, 1))))


if __name__ == "__main__":
    main()
