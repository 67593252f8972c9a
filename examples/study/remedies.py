"""Which remedy helps which data: tables, advice and a picture, from the runs that `rivals.md` plans."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import protocol
from against import CORPORA, FEWEST, MEASURES, NOT_RUN, PLANNED, VARIANTS, paired, title, titled
from cells import PLAIN, TITLES, Figures, cell, difference, read_figures, together
from rivals import RIVALS, TIMED, TIMES

from itra_hf.comparison.measures import Measure
from itra_hf.comparison.report import Rows, markdown_table
from itra_hf.reports import drawing

PICTURE = Path(__file__).resolve().parent / "remedies.png"
KINDS = {
    "few": "200 documents",
    "noise": "a fifth of the labels wrong",
    "thin": "classes thinned out to 1/20",
}
RIGHT = ("accuracy", "f1_macro")  # what a remedy is judged by
BOTH = ("20newsgroups", "r52")


def conditions_of(conditions: Mapping[str, Figures], kind: str) -> dict[str, Figures]:
    """A kind of data by corpus, as far as it has runs."""
    names = dict(zip(BOTH, names_of(kind), strict=True))
    return {corpus: conditions[name] for corpus, name in names.items() if name in conditions}


def variants_of(group: Mapping[str, Figures]) -> list[str]:
    """The variants that have enough runs on each corpus."""
    return [each for each in VARIANTS if all(paired(figures, each) >= FEWEST for figures in group.values())]


def table(conditions: Mapping[str, Figures], kind: str) -> str:
    """A row a remedy of one kind of data: seeds, accuracy and macro-F1 by corpus, then likelihood and time over all."""
    group = conditions_of(conditions, kind)
    if not group:
        return NOT_RUN
    right, likelihood = ([MEASURES[name] for name in names] for names in (RIGHT, ("nll", "nll_scaled")))
    heads = [f"{CORPORA[corpus]}: {TITLES.get(each.name, each.title)}" for corpus in group for each in right]
    rows: Rows = [["minus Trainer", "seeds", *heads, "NLL", "NLL, temperature fitted", "training time"]]
    for variant in variants_of(group):
        cells = [cell(difference(figures, variant, each), each) for figures in group.values() for each in right]
        cells += [cell(together(list(group.values()), variant, each), each) for each in likelihood]
        ratio = time_ratio(kind, variant)
        seeds = str(min(paired(figures, variant) for figures in group.values()))
        rows.append([VARIANTS[variant], seeds, *cells, "" if ratio is None else f"x {ratio:.2f}"])
    return markdown_table(rows, escape=False)


def all_measures(conditions: Mapping[str, Figures]) -> str:
    """A table a measure: a row a remedy of another kind than this plan's variants, a column a condition."""
    group = {name: each for kind in KINDS for name, each in conditions.items() if name in names_of(kind)}
    remedies = [each for each in VARIANTS if each not in PLANNED]
    return "\n\n".join(
        titled(measure, measure_table(group, remedies, measure))
        for measure in MEASURES.values()
        if any(paired(figures, each, measure.name) >= FEWEST for figures in group.values() for each in remedies)
    )


def names_of(kind: str) -> list[str]:
    """The conditions of a kind of data."""
    return [f"{kind}-{corpus}" for corpus in BOTH]


def measure_table(group: Mapping[str, Figures], remedies: Sequence[str], measure: Measure) -> str:
    """Remedies minus the plain Trainer on the conditions that have any of them; those without this measure left out."""
    known = {
        name: [each for each in remedies if paired(figures, each, measure.name) >= FEWEST]
        for name, figures in group.items()
    }
    shown = [name for name, found in known.items() if found]
    rows: Rows = [["minus Trainer", *map(title, shown)]]
    for variant in remedies:
        cells = [
            cell(difference(group[name], variant, measure), measure) if variant in known[name] else "" for name in shown
        ]
        if any(cells):
            rows.append([VARIANTS[variant], *cells])
    return markdown_table(rows, escape=False)


def time_ratio(kind: str, variant: str) -> float | None:
    """How many times as long training took as the plain Trainer's, in the runs that were made to tell it.

    Returns:
        The median over seeds; `None` while runs are missing.
    """
    figures = read_figures(TIMES / (kind if variant in RIVALS[kind] else TIMED))
    if not figures.keys() >= {variant, PLAIN}:
        return None
    own, plain = figures[variant]["seconds"], figures[PLAIN]["seconds"]
    return float(np.median([own[seed] / plain[seed] for seed in own.keys() & plain.keys()]))


def verdicts(group: Mapping[str, Figures], variant: str) -> dict[str, list[str]]:
    """By measure, on each corpus, whether a variant is `better` or `worse` than the plain Trainer beyond chance."""
    return {
        name: [difference(figures, variant, MEASURES[name]).verdict for figures in group.values()] for name in RIGHT
    }


def advice(conditions: Mapping[str, Figures]) -> str:
    """A row a kind of data: what bettered accuracy or macro-F1 beyond chance and where, and what harmed."""
    rows: Rows = [["data", "better on both corpora", "better on one", "worse on one or both", "not run yet"]]
    for kind, data in KINDS.items():
        group = conditions_of(conditions, kind)
        found = {}
        if len(group) == len(BOTH):
            found = {variant: verdicts(group, variant).values() for variant in variants_of(group)}
        both = [each for each, by_measure in found.items() if ["better"] * len(BOTH) in by_measure]
        one = [each for each, by_measure in found.items() if any("better" in verdict for verdict in by_measure)]
        worse = [each for each, by_measure in found.items() if any("worse" in verdict for verdict in by_measure)]
        named = [both, [each for each in one if each not in both], worse]
        cells = ["; ".join(VARIANTS[each] for each in names) or ("nothing" if found else "") for names in named]
        missing = (each for each in (*protocol.VARIANTS, *RIVALS[kind]) if each not in (PLAIN, *found))
        rows.append([data, *cells, "; ".join(VARIANTS[each] for each in missing)])
    return markdown_table(rows, escape=False)


def draw(conditions: Mapping[str, Figures]) -> None:
    """Accuracy and macro-F1 of each remedy minus the plain Trainer, a row of panels a kind of data, a dot a corpus."""
    shown = {kind: group for kind in KINDS if (group := conditions_of(conditions, kind))}
    if not shown:
        return
    heights = [len(variants_of(group)) for group in shown.values()]
    figure = drawing.new_figure(0.8 + sum(0.7 + 0.3 * each for each in heights))
    grid = figure.subplots(len(shown), len(RIGHT), squeeze=False, gridspec_kw={"height_ratios": heights})
    for panels, (kind, group) in zip(grid, shown.items(), strict=True):
        for axis, measure in zip(panels, RIGHT, strict=True):
            draw_panel(axis, group, measure)
            title = f"{KINDS[kind]}: {MEASURES[measure].title}" if measure == RIGHT[0] else MEASURES[measure].title
            drawing.decorate(axis, title, "points minus Trainer" if kind == list(shown)[-1] else "")
        panels[-1].tick_params(labelleft=False)
    drawing.add_legend(figure, grid[0, 0].lines[: len(BOTH)], "outside upper center")
    figure.savefig(PICTURE)


def draw_panel(axis: drawing.Axes, group: Mapping[str, Figures], measure: str) -> None:
    """One measure of a kind of data: a row a remedy, a dot with its interval a corpus."""
    names = variants_of(group)
    for place, corpus in enumerate(BOTH):
        found = [difference(group[corpus], each, MEASURES[measure]) for each in names] if corpus in group else []
        rows = np.arange(len(found)) + 0.24 * (place - 0.5)
        middle = [100 * each.mean for each in found]
        axis.plot(middle, rows, **drawing.dots(place, label=CORPORA[corpus], markersize=4))
        low, high = ([100 * getattr(each, end) for each in found] for end in ("low", "high"))
        axis.hlines(rows, low, high, color=drawing.COLOURS[place], linewidth=1.5)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(names)), [VARIANTS[each] for each in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
