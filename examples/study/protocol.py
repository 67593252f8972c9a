"""Does alignment help, against what costs nothing? The runs that `protocol.md` plans, kept one small file each.

    python -m examples.study protocol [CONDITION ...] [--seeds N] [--skip N] [--variants NAME ...] [--gpu]
    python -m examples.study protocol --tune   # what chose the learning rate for the tweets

What is there is not run again. Each run takes one core: start this as many times as there are cores. Runs of one
condition and seed are compared with each other, so make them all on the same kind of machine.
"""

import argparse
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing below needs the Hub

import averaged
import pandas as pd
from cells import finish
from packaged import MODEL, read_split, read_tweets
from run import OUTPUT, write_splits

from itra_hf.comparison.plan import ComparisonArguments, Run, make_plan

RESULTS = Path(__file__).resolve().parent / "protocol"
SEEDS = list(range(501, 521))  # no other study's
TUNING_SEEDS = [401, 402, 403]
TESTED = 1000
COMMON = {
    "model_name_or_path": MODEL,
    "max_predict_samples": TESTED,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "warmup_steps": 0.1,
    "use_cpu": True,
}
# Every setting that decides a variant stands here, so that other defaults of the package don't change it.
ALIGNED = {"matching_weight": 1.0, "weight_mode": "rising", "alignment": "conditional"}
SECOND_BATCH = {**ALIGNED, "companion": "sample", "companion_decay": 0.97}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"trainer": "Trainer"},
    "averaged": {"trainer": "itra_hf.comparison.rivals:AveragedTrainer"},  # measured in the run of `plain`
    "smoothing": {"trainer": "Trainer", "label_smoothing_factor": 0.1},
    "second-batch": SECOND_BATCH,
    "memory": {**ALIGNED, "companion": "memory", "memory_size": 256},
}
FURTHER: Mapping[str, Mapping[str, Any]] = {
    "second-batch-smoothing": {**SECOND_BATCH, "label_smoothing_factor": 0.1},
    "second-batch-averaged": {**SECOND_BATCH, "trainer": f"{averaged.__file__}:AlignedAveragedTrainer"},
    "second-batch-balanced": {**SECOND_BATCH, "weight_mode": "balanced", "matching_weight": 0.1},
    "second-batch-marginal": {**SECOND_BATCH, "alignment": "marginal"},
    "second-batch-slower": {**SECOND_BATCH, "companion_decay": 0.991},
    "equal-time": {"trainer": "Trainer", "num_train_epochs": 15.0},  # in place of 12
}
EVERYWHERE = ("second-batch-smoothing", "second-batch-balanced")
AVERAGED, SLOWER = "second-batch-averaged", "second-batch-slower"
FREQUENT = 40  # training documents, of R52's classes where some are left out


class Condition(NamedTuple):
    """What to train on, and for how long.

    Attributes:
        corpus: see `read_corpus`.
        size: training documents.
        epochs: of training.
        learning_rate: its highest.
        seeds: how many.
        harder: more of `ComparisonArguments`.
        tokens: the length that texts are cut to.
        further: those of the further variants that run too, beside those that do everywhere.
    """

    corpus: str
    size: int
    epochs: float
    learning_rate: float
    seeds: int = 20
    harder: Mapping[str, Any] = {}
    tokens: int = 32
    further: tuple[str, ...] = ()


RATES = (1e-4, 2e-4, 3e-4)  # tried for the tweets
NOISE, UNKNOWN, THIN = {"label_noise": 0.2}, {"unknown_classes": 5}, {"class_imbalance": 20.0}
TWEETS_RATE = 1e-4
# In the order in which they are run.
CONDITIONS = {
    "few-20newsgroups": Condition("20newsgroups", 200, 12.0, 3e-4, harder=UNKNOWN, further=(AVERAGED, "equal-time")),
    "few-r52": Condition("r52-frequent", 200, 12.0, 2e-4, harder=UNKNOWN, further=(AVERAGED,)),
    "few-tweets": Condition("tweets", 200, 12.0, TWEETS_RATE),
    "noise-20newsgroups": Condition(
        "20newsgroups", 200, 12.0, 3e-4, harder=NOISE, further=(AVERAGED, "second-batch-marginal")
    ),
    "noise-r52": Condition("r52", 200, 12.0, 2e-4, harder=NOISE),
    "noise-tweets": Condition("tweets", 200, 12.0, TWEETS_RATE, harder=NOISE, further=(AVERAGED, "equal-time")),
    "short-20newsgroups": Condition("20newsgroups", 4000, 2.0, 1e-4, 10, UNKNOWN, further=(SLOWER,)),
    "short-r52": Condition("r52", 4000, 2.0, 1e-4, 10, further=(SLOWER,)),
    "short-tweets": Condition("tweets", 4000, 2.0, 1e-4, 10, further=(SLOWER,)),
    "settled-20newsgroups": Condition("20newsgroups", 1000, 8.0, 3e-4, 10, further=(SLOWER,)),
    "settled-r52": Condition("r52", 1000, 8.0, 2e-4, 10, further=(SLOWER,)),
    "settled-tweets": Condition("tweets", 1000, 8.0, TWEETS_RATE, 10, further=(SLOWER,)),
    "few-r8": Condition("r8", 200, 12.0, 2e-4),
    "thin-20newsgroups": Condition("20newsgroups", 200, 12.0, 3e-4, 10, THIN),
    "thin-r52": Condition("r52", 200, 12.0, 2e-4, 10, THIN),
    "few-20newsgroups-64": Condition("20newsgroups", 200, 12.0, 3e-4, 10, UNKNOWN, 64),
    "few-20newsgroups-128": Condition("20newsgroups", 200, 12.0, 3e-4, 10, UNKNOWN, 128),
}


def read_corpus(corpus: str) -> dict[str, pd.DataFrame]:
    """The training and test documents of a corpus."""
    if corpus == "tweets":
        return read_tweets()
    name = corpus if corpus == "20newsgroups" else f"reuters-{corpus.removesuffix('-frequent')}"
    splits = {split: read_split(name, split) for split in ("train", "test")}
    if corpus.endswith("-frequent"):
        counts = splits["train"].Category.value_counts()
        kept = counts.index[counts >= FREQUENT]
        splits = {split: rows[rows.Category.isin(kept)] for split, rows in splits.items()}
    return splits


def held_out(corpus: str) -> dict[str, str]:
    """Files of a corpus's training documents, of which `TESTED` are kept to test on."""
    rows = read_corpus(corpus)["train"]
    rows = rows if corpus == "tweets" else rows.sample(frac=1, random_state=0)  # tweets are in random order already
    return write_splits(f"{corpus}-tuning", {"train": rows.iloc[TESTED:], "test": rows.iloc[:TESTED]})


def known_variants(name: str) -> dict[str, Mapping[str, Any]]:
    """The variants that a condition may have."""
    return {**VARIANTS, **{each: FURTHER[each] for each in (*EVERYWHERE, *CONDITIONS[name].further)}}


def runs_of(
    name: str, seeds: list[int], variants: Mapping[str, Mapping[str, Any]], gpu: bool = False, **changes: Any
) -> Iterator[Run]:
    """The runs of a condition, seed by seed.

    Args:
        name: of the condition.
        seeds: of the runs.
        variants: by name, their settings.
        gpu: whether to use one.
        **changes: of what all runs are given, such as other files.
    """
    condition = CONDITIONS[name]
    asked = ComparisonArguments(
        seeds=seeds,
        max_train_samples=[condition.size],
        equal_compute="none",
        temperature_share=0.1,
        **condition.harder,
    )
    common = COMMON | {
        "use_cpu": not gpu,
        "learning_rate": condition.learning_rate,
        "num_train_epochs": condition.epochs,
        "max_seq_length": condition.tokens,
    }
    common |= changes or write_splits(condition.corpus, read_corpus(condition.corpus))
    plan = make_plan(asked, common, variants, str(OUTPUT / "protocol" / name))
    return (run for run in plan.runs() if run.variant in variants)


def tuning_runs() -> Iterator[Run]:
    """The plain runs that choose the tweets' learning rate, on training documents alone."""
    asked = ComparisonArguments(
        seeds=TUNING_SEEDS, max_train_samples=[200], equal_compute="none", temperature_share=0.1
    )
    common = COMMON | held_out("tweets") | {"num_train_epochs": CONDITIONS["few-tweets"].epochs, "max_seq_length": 32}
    variants = {f"rate-{rate:g}": {"trainer": "Trainer", "learning_rate": rate} for rate in RATES}
    plan = make_plan(asked, common, variants, str(OUTPUT / "protocol" / "tuning"))
    return (run for run in plan.runs() if run.variant in variants)


def make(runs: Iterable[Run], name: str) -> None:
    """Makes the runs of a condition that have no figures yet; one run gives those of `plain` and of `averaged`."""
    for run in runs:
        both = {"measuring": averaged.measure_both, "gives": ("plain", "averaged")} if run.variant == "plain" else {}
        if run.variant != "averaged":
            finish(run, RESULTS / name, OUTPUT / "protocol" / name, **both)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="CONDITION", help=f"of: {', '.join(CONDITIONS)}")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many, from the first")
    parser.add_argument("--skip", type=int, default=0, help="leaves out so many of the first")
    parser.add_argument("--gpu", action="store_true", help="trains on it; runs beside each other leave their time out")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), help="the further ones are run where named")
    parser.add_argument("--tune", action="store_true", help="make the runs that choose a learning rate, and no others")
    options = parser.parse_args()
    if options.tune:
        for run in tuning_runs():
            finish(run, RESULTS / "tuning", OUTPUT / "protocol" / "tuning")
        return
    for name in options.names or CONDITIONS:
        seeds = SEEDS[options.skip : min(options.seeds, CONDITIONS[name].seeds)]
        asked = {each: settings for each, settings in known_variants(name).items() if each in options.variants}
        make(runs_of(name, seeds, asked, options.gpu), name)


if __name__ == "__main__":
    main()
