"""Renews the README's table, the study's own page and its picture from the results files.

    python -m examples.study show

Differences are paired by seed, with 95 % t-intervals. Rows that take several conditions together take each seed's mean
over the conditions as one value.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import against
import goals
import lag
import longer
import numpy as np
import remedies

from itra_hf.comparison.measures import BY_NAME, PairedDifference, paired_difference, show
from itra_hf.comparison.report import Rows, markdown_table
from itra_hf.comparison.variants import PLAIN
from itra_hf.reports import drawing

FOLDER = Path(__file__).resolve().parent
README, PAGE = FOLDER.parents[1] / "README.md", FOLDER / "README.md"
AGAINST, GUIDE = FOLDER / "against.md", FOLDER.parent / "guide" / "rivals.md"
PICTURE, CURVES = FOLDER / "differences.png", FOLDER / "curves.png"
NAMES = {"reuters-r8": "R8", "reuters-r52": "R52", "20newsgroups": "20 newsgroups"}
ITRA, SMALL = "ITRA", "**up to 1,000 documents, together**"
TITLES = {"calibration_error": "calibration error, points", "accuracy": "accuracy, points", "f1_macro": "F1, points"}

Condition = Mapping[str, Any]  # a results file
Results = Mapping[str, Condition]  # by name


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """The results files by name: clean data first, small training sets first."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    return dict(sorted(found.items(), key=lambda item: (bool(item[1]["args"]), item[1]["size"] or 10**9, item[0])))


def title(condition: Condition) -> str:
    """What tables call a condition."""
    parts = [NAMES[condition["corpus"]], "all documents" if condition["size"] is None else f"{condition['size']:,}"]
    for name, value in condition["args"].items():
        parts.append({"label_noise": f"{value:.0%} wrong labels", "class_imbalance": f"imbalance {value:g}"}[name])
    if (rate := condition.get("learning_rate")) is not None:
        parts.append(f"learning rate {rate:g}")
    return ", ".join(parts)


def groups(results: Results) -> dict[str, list[Condition]]:
    """Rows of the table and the picture: each condition, then the clean ones of up to 1,000 documents together."""
    rows = {title(condition): [condition] for condition in results.values()}
    small = [each for each in results.values() if each["size"] and not each["args"]]
    return rows | {SMALL: small} if len(small) > 1 else rows


def means_by_seed(group: Sequence[Condition], variant: str, measure: str) -> dict[int, float]:
    """The means over conditions of a variant's figures, for the seeds that all of them have."""
    figures = [condition["figures"][variant][measure] for condition in group]
    seeds = set.intersection(*(set(each) for each in figures))
    return {int(seed): float(np.mean([each[seed] for each in figures])) for seed in seeds}


def difference(group: Sequence[Condition], variant: str, measure: str, baseline: str = PLAIN) -> PairedDifference:
    """The paired difference of two variants over the seeds."""
    sides = [means_by_seed(group, name, measure) for name in (variant, baseline)]
    return paired_difference(sides[0], sides[1], BY_NAME[measure].better)


def cell(found: PairedDifference, measure: str) -> str:
    """A difference with half its interval; bold where the interval leaves 0 out."""
    text = show(BY_NAME[measure], found.mean, signed=True)
    if math.isfinite(found.low):
        text += f" ± {show(BY_NAME[measure], (found.high - found.low) / 2, signed=True)[1:]}"
    return f"**{text}**" if found.verdict in ("better", "worse") else text


def seconds_ratio(group: Sequence[Condition], variant: str, baseline: str = PLAIN) -> str:
    """How many times as long training took: the median over seeds and conditions."""
    pairs = [[means_by_seed([each], name, "seconds") for name in (variant, baseline)] for each in group]
    return f"{np.median([own[seed] / plain[seed] for own, plain in pairs for seed in own if seed in plain]):.2f}"


def main_table(results: Results) -> str:
    """ITRA's defaults against the plain Trainer, condition by condition."""
    measures = ("accuracy", "f1_macro", "nll", "calibration_error", "scatter_ratio")
    head = ["training documents", "Trainer's accuracy", *(TITLES.get(name, BY_NAME[name].title) for name in measures)]
    rows: Rows = [[*head, "training time"]]
    for name, group in groups(results).items():
        plain = float(np.mean(list(means_by_seed(group, PLAIN, "accuracy").values())))
        cells = [cell(difference(group, ITRA, measure), measure) for measure in measures]
        rows.append([name, show(BY_NAME["accuracy"], plain), *cells, f"x {seconds_ratio(group, ITRA)}"])
    return markdown_table(rows, escape=False)


def others_table(results: Results) -> str:
    """What people would try instead, over the conditions that have it."""
    group = [condition for condition in results.values() if "R-Drop" in condition["figures"]]
    measures = ("accuracy", "f1_macro", "nll", "calibration_error", "scatter_ratio")
    rows: Rows = [["minus Trainer", *(TITLES.get(name, BY_NAME[name].title) for name in measures), "training time"]]
    for variant in (name for name in group[0]["figures"] if name != PLAIN):
        cells = [cell(difference(group, variant, measure), measure) for measure in measures]
        rows.append([variant, *cells, f"x {seconds_ratio(group, variant)}"])
    return f"Over {' and '.join(map(title, group))}:\n\n{markdown_table(rows, escape=False)}"


def search_table(results: Results) -> str:
    """Each setting's differences to the plain Trainer in the search, by data and over the seeds that tried it."""
    columns: dict[str, list[Condition]] = {}
    for condition in results.values():
        columns.setdefault(title(condition), []).append(condition)
    names = {name: None for each in results.values() for name in each["figures"] if name != PLAIN}
    rows: Rows = [["setting", *(f"{column}: accuracy, points; NLL (seeds)" for column in columns)]]
    for name in names:
        row = [name]
        for conditions in columns.values():
            found = {measure: seed_differences(conditions, name, measure) for measure in ("accuracy", "nll")}
            values = (show(BY_NAME[m], float(np.mean(each)), signed=True) for m, each in found.items() if each)
            row.append("; ".join(values) + (f" ({len(found['nll'])})" if found["nll"] else ""))
        rows.append(row)
    return markdown_table(rows, escape=False)


def seed_differences(conditions: Sequence[Condition], variant: str, measure: str) -> list[float]:
    """A variant's differences to the plain Trainer, seed by seed, over results files of the same data."""
    found = []
    for condition in conditions:
        own, plain = (condition["figures"].get(name, {}).get(measure, {}) for name in (variant, PLAIN))
        found += [own[seed] - plain[seed] for seed in own if seed in plain]
    return found


def draw(results: Results) -> None:
    """The differences in accuracy and negative log-likelihood, with their intervals."""
    rows = groups(results)
    figure = drawing.new_figure(1.4 + 0.32 * len(rows))
    panels = (("accuracy", 100, "accuracy, points: right is better"), ("nll", 1, "NLL, nats: left is better"))
    for axis, (measure, unit, label) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        for height, group in enumerate(rows.values()):
            found = difference(group, ITRA, measure)
            colour = drawing.COLOURS[0 if len(group) == 1 else 5]
            axis.plot([unit * found.low, unit * found.high], [height] * 2, color=colour, linewidth=2)
            axis.plot(unit * found.mean, height, "o", color=colour, markersize=6)
        axis.axvline(0, color="black", linewidth=0.8)
        drawing.decorate(axis, "ITRA minus Trainer", label)
        axis.set_yticks(range(len(rows)), [row.strip("*") for row in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
    figure.savefig(PICTURE)


def read_curves(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The curves' files, by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def mean_curve(by_seed: Mapping[str, Mapping[str, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the means over the seeds."""
    steps = sorted(set.intersection(*(set(values) for values in by_seed.values())), key=int)
    means = [np.mean([values[step] for values in by_seed.values()]) for step in steps]
    return np.array([int(step) for step in steps]), np.array(means)


def draw_curves(files: Mapping[str, Mapping[str, Any]]) -> None:
    """Accuracy, likelihood and matching weight over training, a column a condition, a line a variant."""
    rows = {"accuracy": "test accuracy, %", "nll": "test NLL, nats", "matching_weight": "matching weight"}
    figure = drawing.new_figure(6.6)
    grid = figure.subplots(len(rows), len(files), squeeze=False, sharex="col", sharey="row")
    for column, (name, content) in enumerate(files.items()):
        for axis, (measure, label) in zip(grid[:, column], rows.items(), strict=True):
            for place, (variant, curves) in enumerate(content["curves"].items()):
                if measure in curves:
                    steps, values = mean_curve(curves[measure])
                    unit = 100 if measure == "accuracy" else 1
                    drawing.draw_curve(axis, place, variant, steps, unit * values)
            last = measure == list(rows)[-1]
            heading = name if measure == "accuracy" else ""
            drawing.decorate(axis, heading, "optimizer step" if last else "", label if not column else "")
    drawing.add_legend(figure, grid[0, 0].lines, "outside upper center")
    figure.savefig(CURVES)


def put(path: Path, name: str, text: str) -> None:
    """Puts a text between a file's marks of that name.

    Raises:
        ValueError: the file lacks the marks.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{path} lacks the marks {begin} and {end}.")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def renew_against() -> None:
    """Renews the page on what costs nothing."""
    conditions = against.read_conditions()
    texts = {
        "progress": goals.progress(conditions),
        "goals": goals.goal_table(conditions),
        "ahead": against.ahead(conditions),
        "mends": against.mends(conditions),
        **{f"mends, {each}": against.mends(conditions, each) for each in (against.OURS, against.SMOOTHING)},
        "longer": longer.table(),
        "together": against.grouped(conditions, list(against.VARIANTS)),
        **{name: against.section(conditions, name) for name in against.SECTIONS},
        **{f"remedies, {kind}": remedies.table(conditions, kind) for kind in remedies.KINDS},
        "remedies, all": remedies.all_measures(conditions),
        "references": against.reference_table(against.read_all()),
    }
    for name, text in texts.items():
        put(AGAINST, name, text)
    put(README, "study", against.grouped(conditions, against.BRIEF))
    put(GUIDE, "remedies", remedies.advice(conditions))
    against.draw(conditions)
    remedies.draw(conditions)


def main() -> None:
    results = read_results(FOLDER / "results")
    put(PAGE, "defaults", lag.summary(lag.DEFAULT))
    put(PAGE, "between", lag.between(lag.PAIRS))
    put(PAGE, "cosines", lag.cosines("20newsgroups-200"))
    put(PAGE, "study", main_table(results))
    put(PAGE, "first", main_table(read_results(FOLDER / "first")))
    put(PAGE, "others", others_table(results))
    put(PAGE, "search", search_table(read_results(FOLDER / "search")))
    for condition in lag.conditions():
        put(PAGE, f"mechanism, {condition}", lag.table(condition))
    lag.draw("20newsgroups-200")
    renew_against()
    draw(results)
    draw_curves(read_curves(FOLDER / "curves"))
    print(main_table(results), others_table(results), sep="\n\n")


if __name__ == "__main__":
    main()
