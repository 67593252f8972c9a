"""Tables and the picture of the study of the mechanism, from the figures in `mechanism/`."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cells import PLAIN, TITLES, Figures, cell, difference, means_by_seed, read_figures, together

from itra_hf.comparison.measures import BY_NAME, Measure, PairedDifference, show
from itra_hf.comparison.report import Rows, markdown_table
from itra_hf.reports import drawing

FOLDER = Path(__file__).resolve().parent
PICTURE = FOLDER / "lag.png"
BATCH = 16
# The mean of the two scores that the plan decides by.
UNKNOWN = Measure("unknown", "unknown classes, AUROC", "higher", "points")
MEASURES = (BY_NAME["accuracy"], BY_NAME["nll"], BY_NAME["calibration_error"], BY_NAME["scatter_ratio"], UNKNOWN)
CONDITIONS = {
    "20newsgroups-200": "20 newsgroups, 200, 12 epochs",
    "reuters-r8-200": "R8, 200, 12 epochs",
    "reuters-r52-1000": "R52, 1,000, 12 epochs",
    "reuters-r8-1000-short": "R8, 1,000, 2 epochs",
    "20newsgroups-4000-short": "20 newsgroups, 4,000, 2 epochs",
}
DEFAULT = "average-0.97-late-rising"  # the package's defaults
FEWEST, WHOLE = 3, 10  # seeds of a row, and of a condition that is whole
TOGETHER = "**together, those with ten seeds**"
MEMORY = "memory-256-late-rising"
# What the page says of pairs of cells.
PAIRS = (
    ("20newsgroups-200", "average-0.97", "average-0"),
    ("20newsgroups-200", "average-0.97", "average-0.9"),
    ("20newsgroups-200", "average-0.97", "average-0.99"),
    ("20newsgroups-200", DEFAULT, "smoothing"),
    ("reuters-r8-1000-short", DEFAULT, "smoothing"),
    ("20newsgroups-200", DEFAULT, MEMORY),
    ("reuters-r8-1000-short", DEFAULT, MEMORY),
    ("reuters-r8-200", DEFAULT, MEMORY),
    ("reuters-r52-1000", DEFAULT, MEMORY),
    ("20newsgroups-4000-short", DEFAULT, MEMORY),
    (TOGETHER, DEFAULT, MEMORY),
    ("reuters-r8-1000-short", "memory-256-corrected", "memory-256"),
)
KINDS = {"average": "averaged weights", "snapshot": "old weights", "memory": "memory"}


def read_runs(condition: str) -> Figures:
    """The figures of a condition's runs."""
    found = read_figures(FOLDER / "mechanism" / condition)
    for figures in found.values():
        if "unknown_energy" in figures:
            distances = figures["unknown_mahalanobis"]
            mean = {seed: (energy + distances[seed]) / 2 for seed, energy in figures["unknown_energy"].items()}
            figures[UNKNOWN.name] = mean
    return found


def conditions() -> list[str]:
    """Those that have runs."""
    return sorted({path.parent.name for path in (FOLDER / "mechanism").glob("*/*.json")})


def lag(variant: str) -> float | None:
    """How many optimizer steps behind the weights a companion's features are, on average; `None` for no such cell."""
    kind, _, value = variant.partition("-")
    if kind not in KINDS or not value.replace(".", "").isdigit():
        return None
    return {"average": lambda x: x / (1 - x), "snapshot": lambda x: x, "memory": lambda x: x / 2 / BATCH}[kind](
        float(value)
    )


def table(condition: str, baseline: str = PLAIN) -> str:
    """Every cell of a condition against a baseline, those that lag less first."""
    figures = read_runs(condition)
    measures = [each for each in MEASURES if each.name in figures[baseline]]
    heads = ["companion", "lag, steps", "runs", *(TITLES.get(each.name, each.title) for each in measures)]
    rows: Rows = [heads]
    for variant in sorted(figures, key=lambda name: (lag(name) is None, name.split("-")[0], lag(name) or 0, name)):
        if variant == baseline or variant.startswith("cosine-"):  # those are the runs of other cells again
            continue
        behind = lag(variant)
        found = [difference(figures, variant, each) for each in measures]
        cells = [cell(each, measure) for each, measure in zip(found, measures, strict=True)]
        shown = "" if behind is None else f"{behind:.0f}"
        rows.append([variant, shown, str(found[0].seeds), *cells])
    return markdown_table(rows, escape=False)


def summary(variant: str) -> str:
    """A cell against the plain Trainer, a row a condition that has a few seeds of it, and one for all whole ones."""
    heads = ["training documents", "Trainer's accuracy", *(TITLES.get(each.name, each.title) for each in MEASURES)]
    rows: Rows = [[*heads, "seeds"]]
    groups = {title: [name] for name, title in CONDITIONS.items() if seeds_of(name, variant) >= FEWEST}
    whole = [name for name in CONDITIONS if seeds_of(name, variant) >= WHOLE]
    for title, names in [*groups.items(), (TOGETHER, whole)]:
        group = [read_runs(name) for name in names]
        shared = [each for each in MEASURES if all(each.name in figures[PLAIN] for figures in group)]
        found = {each: together(group, variant, each) for each in shared}
        plain = float(np.mean(list(means_by_seed(group, PLAIN, "accuracy", variant).values())))
        cells = [cell(found[each], each) if each in found else "" for each in MEASURES]
        rows.append([title, show(BY_NAME["accuracy"], plain), *cells, str(next(iter(found.values())).seeds)])
    return markdown_table(rows, escape=False)


def between(pairs: Sequence[tuple[str, str, str]]) -> str:
    """One cell minus another, a row a pair, over a condition or over all whole ones."""
    rows: Rows = [["", "over", "seeds", *(TITLES.get(each.name, each.title) for each in MEASURES)]]
    for over, variant, baseline in pairs:
        names = [name for name in CONDITIONS if seeds_of(name, variant) >= WHOLE] if over == TOGETHER else [over]
        group = [read_runs(name) for name in names]
        shared = [each for each in MEASURES if all(each.name in figures[variant] for figures in group)]
        found = {each: together(group, variant, each, baseline) for each in shared}
        cells = [cell(found[each], each) if each in found else "" for each in MEASURES]
        seeds = str(next(iter(found.values())).seeds)
        rows.append([f"`{variant}` minus `{baseline}`", CONDITIONS.get(over, over), seeds, *cells])
    return markdown_table(rows, escape=False)


def cosines(condition: str) -> str:
    """How near a companion's matching gradient is to the one of the whole training set, a row a cell."""
    found: dict[str, list[tuple[float, float]]] = {}
    for path in sorted((FOLDER / "mechanism" / condition).glob("cosine-*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        means = float(np.mean(run["cosine_then"])), float(np.mean(run["cosine_now"]))
        found.setdefault(run["variant"].removeprefix("cosine-"), []).append(means)
    rows: Rows = [["companion", "runs", "cosine, through the companion's weights", "cosine, through today's weights"]]
    for name, runs in found.items():
        then, now = (float(np.mean(each)) for each in zip(*runs, strict=True))
        rows.append([name, str(len(runs)), f"{then:.2f}", f"{now:.2f}"])
    return markdown_table(rows, escape=False)


def seeds_of(condition: str, variant: str) -> int:
    """How many runs a condition has of a cell that have a plain one beside them."""
    figures = read_runs(condition)
    return len(set.intersection(*(set(figures.get(each, {}).get("accuracy", {})) for each in (variant, PLAIN))))


def draw(condition: str) -> None:
    """Benefit against lag: likelihood and unknown classes, for averaged weights, old weights and memories."""
    figures = read_runs(condition)
    drawing_of = drawing.new_figure(3.6)
    panels = ((BY_NAME["nll"], 1, "NLL, nats: lower is better"), (UNKNOWN, 100, "AUROC, points: higher is better"))
    for axis, (measure, unit, label) in zip(drawing_of.subplots(1, 2), panels, strict=True):
        for place, (kind, title) in enumerate(KINDS.items()):
            cells = sorted(
                (behind, name) for name in figures if name.startswith(kind) and (behind := lag(name)) is not None
            )
            draw_kind(
                axis, place, title, [(behind, difference(figures, name, measure)) for behind, name in cells], unit
            )
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xlim(-0.2, 2000)
        drawing.decorate(axis, measure.title, "lag of the companion, optimizer steps", f"minus Trainer: {label}")
    drawing.add_legend(drawing_of, drawing_of.axes[0].lines[: 2 * len(KINDS) : 2], "outside upper center")
    drawing_of.savefig(PICTURE)


def draw_kind(
    axis: drawing.Axes, place: int, title: str, cells: Sequence[tuple[float, PairedDifference]], unit: int
) -> None:
    """One line of the picture, with intervals."""
    steps = np.array([behind for behind, _ in cells])
    middle, low, high = (
        unit * np.array([getattr(each, part) for _, each in cells]) for part in ("mean", "low", "high")
    )
    drawing.draw_curve(axis, place, title, steps, middle)
    axis.vlines(steps, low, high, color=drawing.COLOURS[place], linewidth=1)
