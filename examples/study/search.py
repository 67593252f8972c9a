"""The runs that the method's default settings were chosen by, kept in `examples/study/search/`.

    python -m examples.study search [CONDITION ...] [--seeds 101 102] [--processes 2]

Trains on a part of the training splits and tests on the rest, with seeds that the study does not use: what the study
is tested on had no part in the choice.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaged import read_split
from run import Condition, command, run, write_splits

FOLDER = Path(__file__).resolve().parent / "search"
HELD_OUT = 2000  # documents of the training split to test on
SUSTAINED = {"weight_mode": "sustained", "matching_weight": 0.3, "matching_warmup_ratio": 0.2}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "memory, conditional, 0.3": {**SUSTAINED, "companion": "memory", "alignment": "conditional"},
    "memory, conditional, 1.0": {
        **SUSTAINED,
        "companion": "memory",
        "alignment": "conditional",
        "matching_weight": 1.0,
    },
    "memory, marginal, 0.3": {**SUSTAINED, "companion": "memory", "alignment": "marginal"},
    "split, marginal, 0.3": {**SUSTAINED, "companion": "split", "alignment": "marginal"},
    "sample, conditional, balanced 0.1": {
        "weight_mode": "balanced",
        "matching_weight": 0.1,
        "matching_warmup_ratio": 0.5,
        "companion": "sample",
        "alignment": "conditional",
    },
}
CONDITIONS = {
    "20newsgroups-200": Condition("20newsgroups", 200),
    "reuters-r8-200": Condition("reuters-r8", 200),
    "reuters-r8-200-noise": Condition("reuters-r8", 200, {"label_noise": 0.2}),
}


def search(name: str, **args: Any) -> Any:
    """Runs a condition with all variants."""
    condition = CONDITIONS[name]
    rows = read_split(condition.corpus, "train").sample(frac=1, random_state=0)
    splits = {"train": rows.iloc[HELD_OUT:], "test": rows.iloc[:HELD_OUT]}
    files = write_splits(f"{condition.corpus}-held-out", splits)
    return run(condition, VARIANTS, files, FOLDER / f"{name}.json", equal_compute="none", **args)


if __name__ == "__main__":
    command(str(__doc__), search, CONDITIONS, [101, 102])
