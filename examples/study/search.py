"""The runs that the method's default settings were chosen by, kept in `examples/study/search/`.

    python -m examples.study search [CONDITION ...] [--processes 2]

Trains on a part of the training splits and tests on the rest, with seeds that the study does not use: what the study
is tested on had no part in the choice. Many settings with two seeds first; the best of them with more; the same on a
data set of many rare classes, where they did harm; then the weight that rises as the task loss's pull falls; then how
classes are weighed, with what else the settings offer.

Where a variant's name has "conditional" without "by size", its kept figures are of a version that gave all classes of a
batch one weight; run anew, they weigh by size.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from packaged import read_split
from run import Condition, command, run, write_splits

from itra_hf.comparison.summary import Comparison

FOLDER = Path(__file__).resolve().parent / "search"
HELD_OUT = 2000  # documents of the training split to test on
LEARNING_RATE = 3e-4  # on all corpora
BALANCED = {"weight_mode": "balanced", "matching_weight": 0.1, "matching_warmup_ratio": 0.5}
SUSTAINED = {"weight_mode": "sustained", "matching_weight": 0.3, "matching_warmup_ratio": 0.2}
SECOND_BATCH = {"companion": "sample", "companion_decay": 0.0}
MEMORY = {**SUSTAINED, "companion": "memory", "alignment": "conditional"}
FIRST: Mapping[str, Mapping[str, Any]] = {
    "memory, conditional, 0.3": MEMORY,
    "memory, conditional, 1.0": {**MEMORY, "matching_weight": 1.0},
    "memory, marginal, 0.3": {**MEMORY, "alignment": "marginal"},
    "split, marginal, 0.3": {**MEMORY, "alignment": "marginal", "companion": "split"},
    "sample, conditional, balanced 0.1": {**BALANCED, **SECOND_BATCH, "alignment": "conditional"},
}
SECOND: Mapping[str, Mapping[str, Any]] = {
    "memory, conditional, 0.3": MEMORY,
    "memory, conditional, 1.0": {**MEMORY, "matching_weight": 1.0},
    "memory, conditional, 1.0, ramp 0.5": {**MEMORY, "matching_weight": 1.0, "matching_warmup_ratio": 0.5},
}
THIRD: Mapping[str, Mapping[str, Any]] = {
    "memory, conditional, 0.3": MEMORY,
    "memory, conditional, 1.0": {**MEMORY, "matching_weight": 1.0},
    "memory, conditional, 1.0, ramp 0.5": {**MEMORY, "matching_weight": 1.0, "matching_warmup_ratio": 0.5},
    "memory, marginal, 0.3": {**MEMORY, "alignment": "marginal"},
    "memory, marginal, 1.0": {**MEMORY, "alignment": "marginal", "matching_weight": 1.0},
    "split, conditional, 0.3": {**MEMORY, "companion": "split"},
}
RISING = {"weight_mode": "rising", "matching_warmup_ratio": 0.0, "companion": "memory", "alignment": "conditional"}
FOURTH: Mapping[str, Mapping[str, Any]] = {
    "memory, conditional, rising 1.0": {**RISING, "matching_weight": 1.0},
    "memory, conditional, rising 0.5": {**RISING, "matching_weight": 0.5},
    "memory, conditional, rising 2.0": {**RISING, "matching_weight": 2.0},
}
RISING_1 = {**RISING, "matching_weight": 1.0}
JOINT = {**RISING_1, "alignment": "joint"}
FIFTH: Mapping[str, Mapping[str, Any]] = {
    "memory, conditional by size, rising 1.0": RISING_1,
    "memory, conditional, rising 1.0": RISING_1,
    "memory, joint, rising 1.0": JOINT,
}
SMALL_MEMORY: Mapping[str, Mapping[str, Any]] = {
    "memory of 64, conditional, rising 1.0": {**RISING_1, "memory_size": 64},
}
PARTS: Mapping[str, Mapping[str, Any]] = {
    "memory, joint, rising 2.0": {**JOINT, "matching_weight": 2.0},
    "memory of 64, joint, rising 1.0": {**JOINT, "memory_size": 64},
    "... with a quarter of the bandwidth": {**RISING_1, "bandwidth_multipliers": [0.25]},
    "... with four times the bandwidth": {**RISING_1, "bandwidth_multipliers": [4.0]},
    "... unbiased": {**RISING_1, "estimator": "unbiased"},
    "... of mean hidden states": {**RISING_1, "feature": "mean"},
    "sample, conditional, rising 1.0, companion_task_loss": {
        **RISING_1,
        **SECOND_BATCH,
        "companion_task_loss": True,
    },
}


class Search(NamedTuple):
    """What to search: a condition, the settings to try and the seeds."""

    condition: Condition
    variants: Mapping[str, Mapping[str, Any]]
    seeds: list[int]


SEARCHES = {
    "20newsgroups-200": Search(Condition("20newsgroups", 200), FIRST, [101, 102]),
    "reuters-r8-200": Search(Condition("reuters-r8", 200), FIRST, [101, 102]),
    "reuters-r8-200-noise": Search(Condition("reuters-r8", 200, {"label_noise": 0.2}), FIRST, [101, 102]),
    "20newsgroups-200-more": Search(Condition("20newsgroups", 200), SECOND, [103, 104]),
    "reuters-r8-200-more": Search(Condition("reuters-r8", 200), SECOND, [103, 104]),
    "reuters-r52-200": Search(Condition("reuters-r52", 200), THIRD, [101]),
    "reuters-r52-200-rising": Search(Condition("reuters-r52", 200), FOURTH, [101, 102]),
    "20newsgroups-200-rising": Search(Condition("20newsgroups", 200), FOURTH, [101, 102]),
    "reuters-r8-200-rising": Search(Condition("reuters-r8", 200), dict(list(FOURTH.items())[:1]), [101, 102]),
    "20newsgroups-200-noise": Search(
        Condition("20newsgroups", 200, {"label_noise": 0.2}),
        {**FIFTH, "memory, marginal, rising 1.0": {**RISING_1, "alignment": "marginal"}},
        [101, 102],
    ),
    "reuters-r52-200-weighed": Search(Condition("reuters-r52", 200), FIFTH | SMALL_MEMORY, [103, 104]),
    "reuters-r8-200-weighed": Search(Condition("reuters-r8", 200), FIFTH | SMALL_MEMORY, [103, 104]),
    "20newsgroups-200-weighed": Search(Condition("20newsgroups", 200), FIFTH | PARTS, [103, 104]),
}


def search(name: str, processes: int) -> Comparison:
    """Runs one of the searches."""
    condition, variants, seeds = SEARCHES[name]
    condition = condition._replace(learning_rate=LEARNING_RATE)
    rows = read_split(condition.corpus, "train").sample(frac=1, random_state=0)
    splits = {"train": rows.iloc[HELD_OUT:], "test": rows.iloc[:HELD_OUT]}
    files = write_splits(f"{condition.corpus}-held-out", splits)
    path = FOLDER / f"{name}.json"
    return run(condition, variants, files, path, equal_compute="none", seeds=seeds, processes=processes)


if __name__ == "__main__":
    command(str(__doc__), search, SEARCHES)
