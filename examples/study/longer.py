"""Does the second batch do less in longer runs because its average lags less? The runs that `protocol.md` plans for it.

    python -m examples.study longer [CONDITION ...]

They are of the tuning seeds, on documents of the training split alone. What is there is not run again.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import averaged
from against import heading, title
from cells import PLAIN, Figures, cell, difference, finish, read_figures
from protocol import CONDITIONS, OUTPUT, RESULTS, SECOND_BATCH, TUNING_SEEDS, VARIANTS, held_out, runs_of

from itra_hf.comparison.measures import BY_NAME
from itra_hf.comparison.plan import Run
from itra_hf.comparison.report import Rows, markdown_table

FOLDER = RESULTS / "tuning-longer"
DECAYS = (0.99, 0.995, 0.998)  # beside 0.97
OURS = "second-batch"
BY_DECAY: Mapping[str, Mapping[str, Any]] = {
    f"decay-{decay:g}": {**SECOND_BATCH, "companion_decay": decay} for decay in DECAYS
}
OPEN = {**SECOND_BATCH, "companion_decay": None}
# By condition; what is compared there.
COMPARED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "settled-tweets": {**{name: VARIANTS[name] for name in (PLAIN, "smoothing", OURS, "memory")}, **BY_DECAY},
    "settled-20newsgroups": {**{name: VARIANTS[name] for name in (PLAIN, OURS)}, "decay-0.99": BY_DECAY["decay-0.99"]},
    "short-20newsgroups": {**{name: VARIANTS[name] for name in (PLAIN, OURS)}, "decay-0.99": BY_DECAY["decay-0.99"]},
    **{
        f"few-{corpus}": {
            PLAIN: VARIANTS[PLAIN],
            OURS: SECOND_BATCH,
            "open": OPEN,
            "decay-0.998": BY_DECAY["decay-0.998"],  # a quarter of 2,000 steps, of which 144 are made
            "open-long": {**OPEN, "trainer": f"{averaged.__file__}:PlannedLongTrainer"},
        }
        for corpus in ("20newsgroups", "tweets")
    },
}
NAMES = {
    "smoothing": "label smoothing",
    OURS: "second batch, decay 0.97",
    "memory": "memory",
    "open": "second batch, decay open",
    "open-long": "second batch, decay open, planned for 2,000 steps",
}
MEASURES = ("accuracy", "nll", "nll_scaled", "calibration_error")


def runs(condition: str) -> Iterator[Run]:
    """Those of a condition, with other documents to test on."""
    return runs_of(condition, TUNING_SEEDS, COMPARED[condition], **held_out(CONDITIONS[condition].corpus))


def table(folder: Path = FOLDER) -> str:
    """The variants minus the plain Trainer, a part a condition."""
    rows: Rows = [["training documents", "seeds", "minus Trainer", *(heading(each) for each in MEASURES)]]
    for condition, variants in COMPARED.items():
        figures: Figures = read_figures(folder / condition)
        for variant in variants:
            if variant != PLAIN and {variant, PLAIN} <= figures.keys():
                found = [difference(figures, variant, BY_NAME[each]) for each in MEASURES]
                cells = [cell(value, BY_NAME[each]) for value, each in zip(found, MEASURES, strict=True)]
                name = NAMES.get(variant, f"second batch, {variant.replace('-', ' ')}")
                rows.append([title(condition), str(found[0].seeds), name, *cells])
    return markdown_table(rows, escape=False)


def main() -> None:
    for condition in sys.argv[1:] or COMPARED:
        for run in runs(condition):
            finish(run, FOLDER / condition, OUTPUT / "protocol" / f"{FOLDER.name}-{condition}")
    print(table())


if __name__ == "__main__":
    main()
