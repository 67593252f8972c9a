"""Runs the study's conditions with `itra_hf.comparison` and keeps their figures in `examples/study/results/`.

    python -m examples.study run [CONDITION ...] [--processes 2]

Without names, runs all. What is finished is not run again: an interrupted study goes on where it was.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing below needs the Hub

import pandas as pd
from datasets import disable_progress_bars
from packaged import CORPORA, MODEL, read_split
from transformers.utils import logging

from itra_hf.comparison.plan import ComparisonArguments, make_plan
from itra_hf.comparison.report import as_plain_values
from itra_hf.comparison.run import write_atomically
from itra_hf.comparison.study import compare
from itra_hf.comparison.summary import Comparison

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
OUTPUT = Path("outputs", "study")
REGULARISERS = str(FOLDER.parent / "regularisers.py")
COMMON = {
    "model_name_or_path": MODEL,
    "max_seq_length": 32,
    "max_predict_samples": 2200,  # all of R8's test documents
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "warmup_steps": 0.1,
    "bf16": True,
    "use_cpu": True,
}
SEEDS = [1, 2, 3, 4, 5]
LEARNING_RATES = {"reuters-r8": 2e-4, "reuters-r52": 2e-4, "20newsgroups": 3e-4}  # chosen for the plain Trainer
EPOCHS = {200: 20.0, 1000: 6.0, None: 2.0}  # by training documents; chosen for the plain Trainer
OTHERS: Mapping[str, Mapping[str, Any]] = {
    "ITRA, sample": {"companion": "sample", "companion_decay": 0.0},
    "R-Drop": {
        "trainer": f"{REGULARISERS}:RDropTrainer",
        "trainer_arguments": {"strength": 1.0},
        "twice_compute": True,
    },
    "SupCon": {"trainer": f"{REGULARISERS}:SupConTrainer", "trainer_arguments": {"weight": 0.5}},
}


class Condition(NamedTuple):
    """One comparison of the study.

    Attributes:
        corpus: of `packaged.CORPORA`.
        size: training documents, `None` for all.
        args: more of `ComparisonArguments`.
        others: whether R-Drop and SupCon run too.
        learning_rate: `None` for that of the corpus.
    """

    corpus: str
    size: int | None
    args: Mapping[str, Any] = {}
    others: bool = False
    learning_rate: float | None = None


CONDITIONS = {
    **{f"{corpus}-{size}": Condition(corpus, size) for size in (200, 1000) for corpus in CORPORA},
    "20newsgroups-200": Condition("20newsgroups", 200, others=True),
    "reuters-r8-200-noise": Condition("reuters-r8", 200, {"label_noise": 0.2}),
    "20newsgroups-200-noise": Condition("20newsgroups", 200, {"label_noise": 0.2}),
    "20newsgroups-200-imbalance": Condition("20newsgroups", 200, {"class_imbalance": 20.0}),
    "reuters-r8-all": Condition("reuters-r8", None),
}


def schedule(condition: Condition) -> dict[str, float]:
    """The learning rate and the number of epochs."""
    rate = condition.learning_rate or LEARNING_RATES[condition.corpus]
    return {"learning_rate": rate, "num_train_epochs": EPOCHS[condition.size]}


def write_files(corpus: str) -> dict[str, str]:
    """The corpus's standard splits as CSV files."""
    return write_splits(corpus, {split: read_split(corpus, split) for split in ("train", "test")})


def write_splits(name: str, splits: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """Splits as CSV files, and the fields of `DataArguments` that name these."""
    files = {}
    for split, table in splits.items():
        path = OUTPUT / "data" / f"{name}-{split}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = table.rename(columns={"Text": "text", "Category": "label"})[["text", "label"]].to_csv(index=False)
        write_atomically(path, text)
        files[f"{split}_file"] = str(path)
    return files


def run(
    condition: Condition, variants: Mapping[str, Any], files: Mapping[str, str], path: Path, **args: Any
) -> Comparison:
    """Runs a condition, or what it lacks, and writes its small results file.

    Args:
        condition: what to run.
        variants: what to compare with the plain Trainer.
        files: the data.
        path: the results file; the runs themselves go to a folder of its name.
        args: more of `ComparisonArguments`.

    Returns:
        The comparison.
    """
    sizes = [] if condition.size is None else [condition.size]
    asked = ComparisonArguments(max_train_samples=sizes, **condition.args, **args)
    common = COMMON | schedule(condition) | files
    comparison = compare(make_plan(asked, common, variants, str(OUTPUT / path.parent.name / path.stem)))
    write_small(path, comparison, condition)
    return comparison


def write_small(path: Path, comparison: Comparison, condition: Condition) -> None:
    """Figures by variant, measure and seed, to five digits; differences are computed from them when shown."""
    values = as_plain_values(comparison)
    figures = {
        variant: {
            measure: {seed: float(f"{value:.5g}") for seed, value in by_seed.items()}
            for measure, by_seed in measures.items()
        }
        for variant, measures in values["sizes"][0]["figures"].items()
    }
    small = condition._asdict() | {name: values[name] for name in ("tested", "steps", "versions", "failed", "missing")}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(small | {"figures": figures}, indent=1) + "\n", encoding="utf-8")


def study(name: str, processes: int) -> Comparison:
    """Runs a condition of the study."""
    condition = CONDITIONS[name]
    variants = {"ITRA": {}, **(OTHERS if condition.others else {})}
    path = RESULTS / f"{name}.json"
    return run(condition, variants, write_files(condition.corpus), path, seeds=SEEDS, processes=processes)


def command(about: str, part: Callable[[str, int], Comparison], names: Iterable[str]) -> None:
    """Reads the command line and runs what it names, or all."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="CONDITION", help=f"of: {', '.join(names)}")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    unknown = set(options.names) - set(names)
    if unknown:
        parser.error(f"unknown conditions: {', '.join(sorted(unknown))}")
    logging.set_verbosity_error()
    disable_progress_bars()
    for name in options.names or names:
        print(f"{name} ...", flush=True)
        print(*part(name, options.processes).sizes[0].verdicts.values(), sep="\n", flush=True)


if __name__ == "__main__":
    command(str(__doc__), study, CONDITIONS)
