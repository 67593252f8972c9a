"""Tables and the picture of what alignment brings against what costs nothing, from the runs in `protocol/`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cells import PLAIN, TITLES, Figures, cell, difference, means_by_seed, read_figures, together

from itra_hf.comparison.measures import BY_NAME, Measure, PairedDifference, show
from itra_hf.comparison.report import Rows, markdown_table
from itra_hf.reports import drawing

FOLDER = Path(__file__).resolve().parent
PICTURE = FOLDER / "against.png"
FEWEST = 5  # seeds of a row
SMOOTHING, OURS, MEMORY = "smoothing", "second-batch", "memory"
CORPORA = {"20newsgroups": "20 newsgroups", "r52": "R52", "tweets": "tweets", "r8": "R8"}
KINDS = {
    "few": "200",
    "noise": "200, a fifth of the labels wrong",
    "short": "4,000, 2 epochs",
    "settled": "1,000, 8 epochs",
}
VARIANTS = {
    "averaged": "averaged weights",
    SMOOTHING: "label smoothing",
    OURS: "ITRA, second batch",
    MEMORY: "ITRA, memory",
    "second-batch-smoothing": "ITRA and label smoothing",
    "rdrop": "R-Drop",
    "supcon": "supervised contrast",
    "equal-time": "Trainer, 1.25 times as long",
}
REFERENCES = {"tfidf": "logistic regression on TF-IDF", "frozen": "the same on frozen MiniLM"}
# The score that was best for each in the runs of the mechanism, whose seeds and documents are not these.
SCORES = ("unknown_probability", "unknown_energy", "unknown_mahalanobis", "unknown_neighbours")
TUNED_ON = "20newsgroups-200"
TUNED_AS = {OURS: "average-0.97-late-rising", MEMORY: "memory-256-late-rising"}  # their names there
UNKNOWN = Measure("unknown", "unknown classes, AUROC", "higher", "points")
MEASURES = {
    each.name: each
    for each in (
        *(BY_NAME[name] for name in ("accuracy", "f1_macro", "nll", "nll_scaled")),
        *(BY_NAME[name] for name in ("calibration_error", "calibration_error_scaled", "scatter_ratio")),
        *(BY_NAME[name] for name in ("selective_accuracy", "error_auroc")),
        UNKNOWN,
        *(BY_NAME[name] for name in ("new_classes_1", "new_classes_5")),
    )
}


class Goal(NamedTuple):
    """One of the plan's goals, and what was found."""

    name: str
    found: str
    met: bool


def title(condition: str) -> str:
    """What tables call a condition."""
    kind, corpus, *tokens = condition.split("-")
    return f"{CORPORA[corpus]}, {KINDS[kind]}" + (f", {tokens[0]} tokens" if tokens else "")


def best_scores() -> dict[str, str]:
    """By variant, the score that told unknown classes best in the runs that are not reported."""
    figures = read_figures(FOLDER / "mechanism" / TUNED_ON)
    found = {}
    for variant in (PLAIN, SMOOTHING, OURS, MEMORY):
        runs = figures[TUNED_AS.get(variant, variant)]
        found[variant] = max(SCORES, key=lambda name: float(np.mean(list(runs[name].values()))))
    return found


def read_conditions() -> dict[str, Figures]:
    """The figures of all conditions that have enough runs of the default beside plain ones, clean ones first."""
    best = best_scores()
    places = {kind: place for place, kind in enumerate(KINDS)}
    folders = [path for path in (FOLDER / "protocol").iterdir() if path.name.partition("-")[0] in KINDS]
    found = {}
    for folder in sorted(folders, key=lambda path: (places[path.name.partition("-")[0]], path.name)):
        figures = read_figures(folder)
        for variant, measures in figures.items():
            name = best.get(variant, best[PLAIN])
            if name in measures:
                measures[UNKNOWN.name] = measures[name]
        if paired(figures, OURS) >= FEWEST:
            found[folder.name] = figures
    return found


def paired(figures: Figures, variant: str, measure: str = "accuracy") -> int:
    """How many runs of a variant have a plain one beside them."""
    return len(set.intersection(*(set(figures.get(each, {}).get(measure, {})) for each in (variant, PLAIN))))


def table(conditions: Mapping[str, Figures], measure: Measure) -> str:
    """A measure: a row a condition, a column a variant, minus the plain Trainer."""
    shown = {name: figures for name, figures in conditions.items() if measure.name in figures[PLAIN]}
    variants = [each for each in VARIANTS if any(paired(one, each, measure.name) >= FEWEST for one in shown.values())]
    rows: Rows = [["training documents", "seeds", "Trainer", *(VARIANTS[each] for each in variants)]]
    for name, figures in shown.items():
        plain = means_by_seed([figures], PLAIN, measure.name, also=OURS)
        cells = [
            cell(difference(figures, each, measure), measure) if paired(figures, each, measure.name) >= FEWEST else ""
            for each in variants
        ]
        middle = show(measure, float(np.mean(list(plain.values()))))
        rows.append([title(name), str(len(plain)), middle, *cells])
    return markdown_table(rows, escape=False)


def reference_table(conditions: Mapping[str, Figures]) -> str:
    """What needs no fine-tuning, and the fine-tuned ones beside it: accuracy and macro-F1, not differences."""
    columns = {PLAIN: "Trainer", OURS: VARIANTS[OURS], **REFERENCES}
    rows: Rows = [["training documents", *(f"{each}: accuracy; macro-F1" for each in columns.values())]]
    for name, figures in conditions.items():
        if not figures.keys() >= REFERENCES.keys():
            continue
        row = [title(name)]
        for variant in columns:
            values = [
                np.mean(list(means_by_seed([figures], variant, measure, also="tfidf").values()))
                for measure in ("accuracy", "f1_macro")
            ]
            row.append("; ".join(show(MEASURES["accuracy"], float(value)) for value in values))
        rows.append(row)
    return markdown_table(rows, escape=False)


def goals(conditions: Mapping[str, Figures]) -> list[Goal]:
    """The goals of the plan, on these conditions."""
    main = {name: figures for name, figures in conditions.items() if len(name.split("-")) == 2 and "r8" not in name}
    return [
        accuracy_goal(main),
        likelihood_goal(main),
        unknown_goal(main),
        everywhere("scatter lower in all conditions", main, MEASURES["scatter_ratio"]),
        by_points("five new examples: 2 points more", main, MEASURES["new_classes_5"], 2.0, needed=2),
        by_points(
            "wrong labels: a point of accuracy on two corpora",
            {name: figures for name, figures in main.items() if name.startswith("noise")},
            MEASURES["accuracy"],
            1.0,
            needed=2,
        ),
    ]


def accuracy_goal(conditions: Mapping[str, Figures]) -> Goal:
    """Not 0.3 points worse over all conditions, and worse beyond chance in none."""
    measure = MEASURES["accuracy"]
    found = together(list(conditions.values()), OURS, measure)
    worse = [name for name, each in conditions.items() if difference(each, OURS, measure).verdict == "worse"]
    text = f"together {cell(found, measure)}; worse: {', '.join(map(title, worse)) or 'none'}"
    return Goal("accuracy: lower end above -0.3 points, worse nowhere", text, found.low > -0.003 and not worse)


def likelihood_goal(conditions: Mapping[str, Figures]) -> Goal:
    """Better than label smoothing beyond chance on two corpora."""
    return _count(
        "likelihood: better than label smoothing on two corpora",
        {
            CORPORA[corpus]: together(group, OURS, MEASURES["nll"], SMOOTHING)
            for corpus, group in by_corpus(conditions, SMOOTHING, "nll").items()
        },
        MEASURES["nll"],
        lambda each: each.verdict == "better",
        needed=2,
    )


def unknown_goal(conditions: Mapping[str, Figures]) -> Goal:
    """2 points of AUROC more than the plain Trainer and 1 more than smoothing, on both corpora that have them."""
    few = {name: each for name, each in conditions.items() if name.startswith("few") and UNKNOWN.name in each[PLAIN]}
    found = {
        f"{CORPORA[name.split('-')[1]]} minus {baseline}": difference(figures, OURS, UNKNOWN, baseline)
        for name, figures in few.items()
        for baseline in (PLAIN, SMOOTHING)
    }

    def reached(each: PairedDifference) -> bool:
        return each.low > 0

    goal = _count("unknown classes: 2 points over Trainer, 1 over smoothing", found, UNKNOWN, reached, len(found))
    enough = all(each.mean >= (0.02 if name.endswith(PLAIN) else 0.01) for name, each in found.items())
    return goal._replace(met=goal.met and enough and len(few) == 2)


def everywhere(name: str, conditions: Mapping[str, Figures], measure: Measure) -> Goal:
    """Better beyond chance in every condition."""
    found = {title(each): difference(figures, OURS, measure) for each, figures in conditions.items()}
    return _count(name, found, measure, lambda each: each.verdict == "better", len(found))


def by_points(name: str, conditions: Mapping[str, Figures], measure: Measure, points: float, needed: int) -> Goal:
    """So many points more than the plain Trainer, with an interval above 0."""
    found = {
        title(each): difference(figures, OURS, measure)
        for each, figures in conditions.items()
        if paired(figures, OURS, measure.name) >= FEWEST
    }
    return _count(name, found, measure, lambda each: each.low > 0 and 100 * each.mean >= points, needed)


def by_corpus(conditions: Mapping[str, Figures], variant: str, measure: str) -> dict[str, list[Figures]]:
    """The conditions of each corpus that have a variant."""
    found: dict[str, list[Figures]] = {}
    for name, figures in conditions.items():
        if paired(figures, variant, measure) >= FEWEST:
            found.setdefault(name.split("-")[1], []).append(figures)
    return found


def _count(name: str, found: Mapping[str, PairedDifference], measure: Measure, reached, needed: int) -> Goal:
    text = "; ".join(f"{each} {cell(value, measure)}" for each, value in found.items())
    return Goal(name, text, bool(found) and sum(map(reached, found.values())) >= needed)


def goal_table(conditions: Mapping[str, Figures]) -> str:
    """The goals, what was found, and whether that meets them."""
    rows: Rows = [["goal", "found", "met"]]
    rows += [[each.name, each.found, "yes" if each.met else "no"] for each in goals(conditions)]
    return markdown_table(rows, escape=False)


def summary(conditions: Mapping[str, Figures], kinds: Sequence[str]) -> str:
    """A row a variant: its differences to the plain Trainer, each seed's mean over the conditions of these kinds."""
    group = [figures for name, figures in conditions.items() if name.partition("-")[0] in kinds and "r8" not in name]
    measures = [MEASURES[name] for name in ("accuracy", "nll", "nll_scaled", "calibration_error", "scatter_ratio")]
    rows: Rows = [["minus Trainer", *(TITLES.get(each.name, each.title) for each in measures), "seeds"]]
    for variant, name in VARIANTS.items():
        if all(paired(figures, variant) >= FEWEST for figures in group):
            found = [together(group, variant, each) for each in measures]
            cells = [cell(each, measure) for each, measure in zip(found, measures, strict=True)]
            rows.append([name, *cells, str(found[0].seeds)])
    return markdown_table(rows, escape=False)


def draw(conditions: Mapping[str, Figures]) -> None:
    """Accuracy and likelihood of each variant minus the plain Trainer, a row a condition."""
    variants = [each for each in list(VARIANTS)[:4] if all(paired(one, each) for one in conditions.values())]
    figure = drawing.new_figure(1.6 + 0.5 * len(conditions))
    panels = (("accuracy", 100, "points: right is better"), ("nll", 1, "nats: left is better"))
    for axis, (measure, unit, label) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        for place, variant in enumerate(variants):
            found = [difference(figures, variant, BY_NAME[measure]) for figures in conditions.values()]
            heights = np.arange(len(found)) + 0.18 * (place - (len(variants) - 1) / 2)
            low, middle, high = (
                unit * np.array([getattr(each, part) for each in found]) for part in ("low", "mean", "high")
            )
            colour = drawing.COLOURS[place]
            axis.hlines(heights, low, high, color=colour, linewidth=1.5)
            axis.plot(middle, heights, "o", color=colour, markersize=4, label=VARIANTS[variant])
        axis.axvline(0, color="black", linewidth=0.8)
        drawing.decorate(axis, f"{BY_NAME[measure].title}, minus Trainer", label)
        axis.set_yticks(range(len(conditions)), [title(name) for name in conditions])
        axis.set_ylim(len(conditions) - 0.5, -0.5)
    drawing.add_legend(figure, figure.axes[0].lines[: len(variants)], "outside upper center")
    figure.savefig(PICTURE)
