"""Renews the README's table and picture from `examples/study/results/`.

    python -m examples.study show

Differences are paired by seed, with 95 % t-intervals. The rows of several conditions together take each seed's mean
over the conditions as one value.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from itra_hf import drawing
from itra_hf.comparison.measures import BY_NAME, show
from itra_hf.comparison.plan import PLAIN, TWICE
from itra_hf.comparison.statistics import PairedDifference, paired_difference
from itra_hf.comparison.tables import markdown_table

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
BEGIN, END = "<!-- study: begin -->", "<!-- study: end -->"
PICTURE = FOLDER / "differences.png"
TWICE_BATCH = TWICE["batch"]
NAMES = {"reuters-r8": "R8", "reuters-r52": "R52", "20newsgroups": "20 newsgroups"}

Results = Mapping[str, Mapping[str, Any]]  # by condition


def read_results() -> dict[str, dict[str, Any]]:
    """The results files by condition, in the study's order: small training sets first."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (FOLDER / "results").glob("*-*.json")}
    return dict(sorted(found.items(), key=lambda item: (bool(item[1]["args"]), item[1]["size"] or 10**9, item[0])))


def title(condition: Mapping[str, Any]) -> str:
    """What the table calls a condition."""
    parts = [NAMES[condition["corpus"]], "all documents" if condition["size"] is None else f"{condition['size']:,}"]
    for name, value in condition["args"].items():
        parts.append({"label_noise": f"{value:.0%} wrong labels", "class_imbalance": f"imbalance {value:g}"}[name])
    return ", ".join(parts)


def difference(results: Results, variant: str, baseline: str, measure: str) -> PairedDifference | None:
    """The paired difference of two variants over one condition, or over the seeds' means of several."""
    pairs = []
    for condition in results.values():
        figures = condition["figures"]
        if variant not in figures or baseline not in figures:
            continue
        pairs.append([{int(k): v for k, v in figures[name].get(measure, {}).items()} for name in (variant, baseline)])
    pairs = [pair for pair in pairs if pair[0] and pair[1]]
    if not pairs:
        return None
    seeds = set.intersection(*(set(side) for pair in pairs for side in pair))
    if not seeds:
        return None
    sides = [{seed: float(np.mean([pair[i][seed] for pair in pairs])) for seed in seeds} for i in (0, 1)]
    return paired_difference(sides[0], sides[1], BY_NAME[measure].better)


def cell(found: PairedDifference | None, measure: str) -> str:
    """A difference with half its interval; bold where the interval leaves 0 out."""
    if found is None:
        return ""
    text = show(BY_NAME[measure], found.mean, signed=True)
    if math.isfinite(found.low):
        text += f" ± {show(BY_NAME[measure], (found.high - found.low) / 2, signed=True)[1:]}"
    return f"**{text}**" if found.verdict in ("better", "worse") else text


def groups(results: Results) -> dict[str, Results]:
    """The table's rows: each condition, then those of up to 1,000 clean documents together."""
    rows: dict[str, Results] = {title(each): {name: each} for name, each in results.items()}
    small = {name: each for name, each in results.items() if each["size"] and not each["args"]}
    return rows | {"**the first six together**": small} if len(small) == 6 else rows


def table(results: Results, variant: str = "ITRA") -> str:
    """The README's table as Markdown."""
    rows = [
        [
            "data and training documents",
            "accuracy of Trainer",
            "ITRA, at equal steps",
            "ITRA, at equal compute",
            "negative log-likelihood, equal steps",
            "equal compute",
            "scatter ratio, equal steps",
        ]
    ]
    for name, group in groups(results).items():
        plain = [np.mean(list(each["figures"][PLAIN]["accuracy"].values())) for each in group.values()]
        cells = [show(BY_NAME["accuracy"], float(np.mean(plain)))]
        for baseline, measure in (
            (PLAIN, "accuracy"),
            (TWICE_BATCH, "accuracy"),
            (PLAIN, "nll"),
            (TWICE_BATCH, "nll"),
            (PLAIN, "scatter_ratio"),
        ):
            cells.append(cell(difference(group, variant, baseline, measure), measure))
        rows.append([name, *cells])
    return markdown_table(rows, escape=False)


def others_table(results: Results) -> str:
    """R-Drop and supervised contrast beside ITRA, over the conditions that have them."""
    group = {name: each for name, each in results.items() if "R-Drop" in each["figures"]}
    if not group:
        return ""
    measures = ("accuracy", "f1_macro", "nll", "calibration_error", "scatter_ratio", "seconds")
    rows = [["differences to Trainer", *(BY_NAME[name].title for name in measures)]]
    for variant in (TWICE_BATCH, "ITRA", "R-Drop", "SupCon"):
        rows.append([variant, *(cell(difference(group, variant, PLAIN, name), name) for name in measures)])
    return markdown_table(rows, escape=False)


def draw(results: Results, variant: str = "ITRA") -> None:
    """The accuracy differences of all conditions, against both plain runs."""
    rows = groups(results)
    figure = drawing.new_figure(1.4 + 0.32 * len(rows))
    for axis, (baseline, name) in zip(
        figure.subplots(1, 2, sharey=True, sharex=True),
        ((PLAIN, "Trainer, equal steps"), (TWICE_BATCH, "Trainer, equal compute")),
        strict=True,
    ):
        for height, group in enumerate(rows.values()):
            found = difference(group, variant, baseline, "accuracy")
            if found is not None:
                colour = drawing.COLOURS[0 if len(group) == 1 else 2]
                axis.plot([100 * found.low, 100 * found.high], [height] * 2, color=colour, linewidth=2)
                axis.plot(100 * found.mean, height, "o", color=colour, markersize=6)
        axis.axvline(0, color="black", linewidth=0.8)
        drawing.decorate(axis, f"ITRA minus {name}", "accuracy, points (95 % interval)")
        axis.set_yticks(range(len(rows)), [row.strip("*") for row in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
    figure.savefig(PICTURE)


def main() -> None:
    results = read_results()
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    if not after:
        raise SystemExit(f"README.md lacks the marks {BEGIN} and {END}.")
    parts = [table(results), others_table(results)]
    readme.write_text(before + BEGIN + "\n" + "\n\n".join(filter(None, parts)) + "\n" + END + after, encoding="utf-8")
    draw(results)
    print("\n\n".join(filter(None, parts)))


if __name__ == "__main__":
    main()
