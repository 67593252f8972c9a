"""Does the second batch do less in longer runs because its average lags less? The runs that `protocol.md` plans for it.

    python -m examples.study longer

They are of the tuning seeds, on documents of the training split alone. What is there is not run again.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cells import PLAIN, Figures, cell, difference, finish, read_figures
from packaged import read_tweets
from protocol import OUTPUT, RESULTS, SECOND_BATCH, TESTED, TUNING_SEEDS, VARIANTS, runs_of
from run import write_splits

from itra_hf.comparison.measures import BY_NAME
from itra_hf.comparison.plan import Run
from itra_hf.comparison.report import Rows, markdown_table

FOLDER = RESULTS / "tuning-longer"
LIKE = "settled-tweets"  # the condition
DECAYS = (0.99, 0.995)  # beside the default's 0.97
COMPARED: Mapping[str, Mapping[str, Any]] = {
    **{name: VARIANTS[name] for name in (PLAIN, "smoothing", "second-batch", "memory")},
    **{f"decay-{decay:g}": {**SECOND_BATCH, "companion_decay": decay} for decay in DECAYS},
}
MEASURES = ("accuracy", "nll", "nll_scaled", "calibration_error")


def runs() -> Iterator[Run]:
    """Those of the condition, with other documents to test on."""
    rows = read_tweets()["train"]
    files = write_splits("tweets-tuning", {"train": rows.iloc[TESTED:], "test": rows.iloc[:TESTED]})
    return runs_of(LIKE, TUNING_SEEDS, COMPARED, **files)


def table(folder: Path = FOLDER) -> str:
    """The variants minus the plain Trainer."""
    figures: Figures = read_figures(folder)
    rows: Rows = [["minus Trainer", "seeds", *(BY_NAME[each].title for each in MEASURES)]]
    for variant in COMPARED:
        if variant != PLAIN and {variant, PLAIN} <= figures.keys():
            found = [difference(figures, variant, BY_NAME[each]) for each in MEASURES]
            cells = [cell(value, BY_NAME[each]) for value, each in zip(found, MEASURES, strict=True)]
            rows.append([variant, str(found[0].seeds), *cells])
    return markdown_table(rows, escape=False)


def main() -> None:
    for run in runs():
        finish(run, FOLDER, OUTPUT / "protocol" / FOLDER.name)
    print(table())


if __name__ == "__main__":
    main()
