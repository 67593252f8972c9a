"""Tables and the picture of what alignment brings against what costs nothing, from the runs in `protocol/`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import protocol
from cells import PLAIN, TITLES, Figures, cell, difference, means_by_seed, read_figures, together

from itra_hf.comparison.measures import BY_NAME, Measure, show
from itra_hf.comparison.report import Rows, markdown_table
from itra_hf.reports import drawing

FOLDER = Path(__file__).resolve().parent
PICTURE = FOLDER / "against.png"
FEWEST = 5  # seeds of a row
SMOOTHING, OURS, MEMORY = "smoothing", "second-batch", "memory"
SLOWER, FIXED = protocol.SLOWER, "second-batch-0.97"
BOTH, BALANCED = protocol.EVERYWHERE
CORPORA = {"20newsgroups": "20 newsgroups", "r52": "R52", "tweets": "tweets", "r8": "R8"}
KINDS = {
    "few": "200",
    "noise": "200, a fifth of the labels wrong",
    "short": "4,000, 2 epochs",
    "settled": "1,000, 8 epochs",
    "thin": "200, classes thinned out to 1/20",
}
VARIANTS = {
    "averaged": "averaged weights",
    SMOOTHING: "label smoothing",
    OURS: "ITRA, second batch",
    MEMORY: "ITRA, memory",
    BOTH: "ITRA and label smoothing",
    "second-batch-averaged": "ITRA and averaged weights",
    BALANCED: "ITRA, balanced weight 0.1",
    "second-batch-marginal": "ITRA, marginal",
    FIXED: "ITRA, average of 0.97",
    "equal-time": "Trainer, 1.25 times as long",
    "rdrop": "R-Drop",
    "supcon": "supervised contrast",
    "extrapolation": "extrapolation",
    "stages": "stages",
    "generalised": "generalised cross-entropy",
    "small-loss": "small-loss selection",
    "logit-adjustment": "logit adjustment",
    "second-batch-adjusted": "ITRA and logit adjustment",
    "class-balanced": "class-balanced weights",
    "equalization": "equalization loss",
    "transport": "optimal transport",
    "retargeting": "logits retargeting",
}
PLANNED = [each for each in VARIANTS if each in (*protocol.VARIANTS, *protocol.FURTHER, FIXED)]
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
# The conditions that are taken together.
GROUPS = {"200": ("few",), "1,000 and 4,000": ("settled", "short"), "200, a fifth of the labels wrong": ("noise",)}
BRIEF = (SMOOTHING, OURS, BOTH, MEMORY)
COMPARED = (
    (OURS, SMOOTHING),
    (OURS, "averaged"),
    (OURS, FIXED),
    (BOTH, SMOOTHING),
    (BOTH, OURS),
    (BALANCED, OURS),
    (MEMORY, SMOOTHING),
    (MEMORY, OURS),
)
SHORT = {"nll": "NLL", "nll_scaled": "NLL, temperature fitted", "scatter_ratio": "scatter"}
TOGETHER = ("accuracy", "nll", "nll_scaled", "calibration_error", "scatter_ratio")  # over several conditions
NOT_RUN = "These runs are not made yet."
# What the page shows together.
SECTIONS = {
    "right": ("accuracy", "f1_macro"),
    "probabilities": ("nll", "nll_scaled", "calibration_error", "calibration_error_scaled"),
    "compactness": ("scatter_ratio",),
    "errors": ("selective_accuracy", "error_auroc"),
    "classes": (UNKNOWN.name, "new_classes_1", "new_classes_5"),
}


def title(condition: str) -> str:
    """What tables call a condition."""
    kind, corpus, *tokens = condition.split("-")
    return f"{CORPORA[corpus]}, {KINDS[kind]}" + (f", {tokens[0]} tokens" if tokens else "")


def decides(condition: str) -> bool:
    """Whether a condition has a part in the goals: R8 is no independent evidence, and `thin` is of the other plan."""
    return len(condition.split("-")) == 2 and not (condition.endswith("r8") or condition.startswith("thin"))


def best_scores() -> dict[str, str]:
    """By variant, the score that told unknown classes best in the runs that are not reported."""
    figures = read_figures(FOLDER / "mechanism" / TUNED_ON)
    found = {}
    for variant in (PLAIN, SMOOTHING, OURS, MEMORY):
        runs = figures[TUNED_AS.get(variant, variant)]
        found[variant] = max(SCORES, key=lambda name: float(np.mean(list(runs[name].values()))))
    return found


def read_all() -> dict[str, Figures]:
    """The figures of all conditions that have runs, clean ones first, with the best score of unknown classes."""
    best, places = best_scores(), {kind: place for place, kind in enumerate(KINDS)}
    folders = [path for path in (FOLDER / "protocol").iterdir() if path.name.partition("-")[0] in KINDS]
    found = {}
    for folder in sorted(folders, key=lambda path: (places[path.name.partition("-")[0]], path.name)):
        found[folder.name] = as_it_comes(read_figures(folder))
        for variant, measures in found[folder.name].items():
            name = best.get(variant, best[PLAIN])
            if name in measures:
                measures[UNKNOWN.name] = measures[name]
    return found


def as_it_comes(figures: Figures) -> Figures:
    """Has the name of the default stand for today's, whose average is slower in the longer runs."""
    slower = figures.pop(SLOWER, None)
    return figures if slower is None else {**figures, OURS: slower, FIXED: figures[OURS]}


def read_conditions() -> dict[str, Figures]:
    """Those that have enough runs of the default beside plain ones."""
    return {name: figures for name, figures in read_all().items() if paired(figures, OURS) >= FEWEST}


def paired(figures: Figures, variant: str, measure: str = "accuracy") -> int:
    """How many runs of a variant have a plain one beside them."""
    return len(set.intersection(*(set(figures.get(each, {}).get(measure, {})) for each in (variant, PLAIN))))


def table(conditions: Mapping[str, Figures], measure: Measure) -> str:
    """A measure: a row a condition, a column a variant of this plan, minus the plain Trainer."""
    shown = {name: figures for name, figures in conditions.items() if measure.name in figures[PLAIN]}
    variants = [each for each in PLANNED if any(paired(one, each, measure.name) >= FEWEST for one in shown.values())]
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


def grouped(conditions: Mapping[str, Figures], variants: Sequence[str]) -> str:
    """Variants minus the plain Trainer, over the conditions of each group: each seed's mean counts once."""
    rows: Rows = [["training documents", "seeds", "minus Trainer", *(heading(each) for each in TOGETHER)]]
    for name, group in groups(conditions).items():
        for variant in (each for each in variants if all(paired(figures, each) >= FEWEST for figures in group)):
            found = [together(group, variant, MEASURES[each]) for each in TOGETHER]
            cells = [cell(value, MEASURES[each]) for value, each in zip(found, TOGETHER, strict=True)]
            rows.append([name, str(found[0].seeds), VARIANTS[variant], *cells])
    return markdown_table(rows, escape=False)


def groups(conditions: Mapping[str, Figures]) -> dict[str, list[Figures]]:
    """The conditions that decide, by group, as far as there are any."""
    found = {}
    for name, kinds in GROUPS.items():
        group = [each for key, each in conditions.items() if decides(key) and key.partition("-")[0] in kinds]
        if group:
            found[name] = group
    return found


def heading(measure: str) -> str:
    """What tables of several conditions call a measure."""
    return SHORT.get(measure) or TITLES.get(measure, MEASURES[measure].title)


def ahead(conditions: Mapping[str, Figures]) -> str:
    """The default minus what costs nothing, and others minus either, over the conditions of each group."""
    rows: Rows = [["training documents", "seeds", "", "minus", *(heading(each) for each in TOGETHER)]]
    for name, group in groups(conditions).items():
        for variant, base in COMPARED:
            if all(paired(figures, each) >= FEWEST for figures in group for each in (variant, base)):
                found = [together(group, variant, MEASURES[each], base) for each in TOGETHER]
                cells = [cell(value, MEASURES[each]) for value, each in zip(found, TOGETHER, strict=True)]
                rows.append([name, str(found[0].seeds), VARIANTS[variant], VARIANTS[base], *cells])
    return markdown_table(rows, escape=False)


def mends(conditions: Mapping[str, Figures], baseline: str = PLAIN) -> str:
    """The default and what was tried in its place, minus another, on the conditions that have any of it."""
    names = ("accuracy", "nll", "nll_scaled", "calibration_error", "scatter_ratio", UNKNOWN.name, "new_classes_5")
    heads = [*map(heading, names[:-1]), "five new examples, points"]
    rows: Rows = [["training documents", f"minus {VARIANTS.get(baseline, 'Trainer')}", "seeds", *heads]]
    for name, figures in conditions.items():
        tried = [each for each in (*protocol.FURTHER, FIXED) if paired(figures, each) >= FEWEST]
        for variant in [each for each in (OURS, *tried) if each != baseline] if tried else []:
            known = [MEASURES[each] if each in figures[variant] else None for each in names]
            cells = ["" if each is None else cell(difference(figures, variant, each, baseline), each) for each in known]
            rows.append([title(name), VARIANTS[variant], str(paired(figures, variant)), *cells])
    return markdown_table(rows, escape=False)


def section(conditions: Mapping[str, Figures], name: str) -> str:
    """The tables of some measures, one below the other, each under what it measures."""
    measures = [MEASURES[each] for each in SECTIONS[name]]
    return "\n\n".join(titled(measure, table(conditions, measure)) for measure in measures)


def titled(measure: Measure, text: str) -> str:
    """A table under what it measures."""
    heading = TITLES.get(measure.name, measure.title + (", points" if measure.unit == "points" else ""))
    return f"**{heading[:1].upper()}{heading[1:]}**\n\n{text}"


def reference_table(conditions: Mapping[str, Figures]) -> str:
    """What needs no fine-tuning, and the fine-tuned ones beside it: accuracy and macro-F1, not differences."""
    columns = {**REFERENCES, PLAIN: "Trainer", OURS: VARIANTS[OURS]}
    rows: Rows = [["training documents", *(f"{each}: accuracy; macro-F1" for each in columns.values())]]
    for name, figures in conditions.items():
        if figures.keys() >= REFERENCES.keys():
            rows.append([title(name), *(both(figures.get(variant, {})) for variant in columns)])
    return markdown_table(rows, escape=False)


def both(runs: Mapping[str, Mapping[int, float]]) -> str:
    """The means of accuracy and macro-F1 over the seeds; empty with too few runs."""
    if len(runs.get("accuracy", ())) < FEWEST:
        return ""
    means = (float(np.mean(list(runs[name].values()))) for name in ("accuracy", "f1_macro"))
    return "; ".join(show(MEASURES["accuracy"], each) for each in means)


def draw(conditions: Mapping[str, Figures]) -> None:
    """Accuracy and likelihood of each variant minus the plain Trainer, a row a condition of the usual length."""
    conditions = {name: figures for name, figures in conditions.items() if len(name.split("-")) == 2}
    variants = [each for each in list(VARIANTS)[:4] if all(paired(one, each) for one in conditions.values())]
    figure = drawing.new_figure(1.6 + 0.5 * len(conditions))
    panels = (("accuracy", 100, "right is better"), ("nll", 1, "nats: left is better"))
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
        drawing.decorate(axis, f"{heading(measure)}, minus Trainer", label)
        axis.set_yticks(range(len(conditions)), [title(name) for name in conditions])
        axis.set_ylim(len(conditions) - 0.5, -0.5)
    drawing.add_legend(figure, figure.axes[0].lines[: len(variants)], "outside upper center")
    figure.savefig(PICTURE)
