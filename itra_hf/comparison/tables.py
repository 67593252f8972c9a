"""A comparison as tables of text: for the terminal, and for Markdown."""

import math
from collections.abc import Mapping

from .measures import Measure, show
from .statistics import PairedDifference
from .summary import Comparison, Size, mean
from .variants import PLAIN

Rows = list[list[str]]
DASH = "-"


def figure_rows(comparison: Comparison, size: Size) -> Rows:
    """Means over seeds: a header, then a row a variant."""
    rows = [["mean over seeds", "seeds", "steps", *(measure.title for measure in comparison.measures)]]
    for variant, figures in size.figures.items():
        seeds = max((len(values) for values in figures.values()), default=0)
        cells = [_mean(measure, figures.get(measure.name, {})) for measure in comparison.measures]
        rows.append([variant, str(seeds), str(size.steps.get(variant, DASH)), *cells])
    return rows


def difference_rows(comparison: Comparison, size: Size) -> Rows:
    """Paired differences: a header, then a row a variant, baseline and measure."""
    rows = [["variant", "minus", "measure", "difference", "95 % interval", "wins", "losses", "the variant is"]]
    for (variant, baseline), found in size.differences.items():
        for measure in comparison.measures:
            if measure.name in found:
                rows.append([variant, baseline, measure.title, *difference_cells(measure, found[measure.name])])
    return rows


def difference_cells(measure: Measure, found: PairedDifference) -> list[str]:
    """Difference, interval, wins, losses and verdict."""
    interval = DASH
    if math.isfinite(found.low):
        interval = f"{show(measure, found.low, signed=True)} to {show(measure, found.high, signed=True)}"
    unit = " points" if measure.unit == "points" else ""
    return [
        show(measure, found.mean, signed=True) + unit,
        interval,
        str(found.wins),
        str(found.losses),
        found.verdict,
    ]


def short_rows(comparison: Comparison, size: Size) -> Rows:
    """For the terminal: the plain Trainer's means, and every other variant's paired differences to it."""
    rows = [["", *(measure.title for measure in comparison.measures)]]
    plain = size.figures[PLAIN]
    rows.append([PLAIN, *(_mean(measure, plain.get(measure.name, {})) for measure in comparison.measures)])
    for variant in size.figures:
        found = size.differences.get((variant, PLAIN))
        if found is not None:
            rows.append([variant, *(_short(measure, found.get(measure.name)) for measure in comparison.measures)])
    return rows


def terminal(comparison: Comparison) -> str:
    """What `itra-hf compare` prints: differences to the plain Trainer with the half width of their interval."""
    parts = []
    for size in comparison.sizes:
        parts += [
            f"{size.title}, differences to {PLAIN} (± half of the 95 % interval)",
            _align(short_rows(comparison, size)),
        ]
        parts += [*size.verdicts.values(), ""]
    return "\n".join([*parts, *notes(comparison)])


def markdown(comparison: Comparison, title: str) -> str:
    """The whole comparison as a Markdown page."""
    parts = [f"# {_cell(title)}", ""]
    for size in comparison.sizes:
        parts += [f"## {size.title.capitalize()}", ""]
        parts += [f"- {_cell(verdict)}" for verdict in size.verdicts.values()]
        parts += ["", markdown_table(figure_rows(comparison, size)), ""]
        parts += [markdown_table(difference_rows(comparison, size)), ""]
    return "\n".join([*parts, *(f"- {_cell(note)}" for note in notes(comparison))]) + "\n"


def notes(comparison: Comparison) -> list[str]:
    """What a reader has to know beside the figures."""
    lines = []
    if comparison.tested is not None:
        lines.append(
            f"Tested on {comparison.tested:,} examples of the {comparison.tested_on} split. Variants share examples, "
            "the head's first weights and the order of the data in each seed; differences are paired by seed, "
            "intervals are Student's t. They hold the chance of the seeds, not that of these test examples."
        )
        if comparison.tested_on == "validation":
            lines.append(
                "There was no labelled test split. A validation split that is cut off the training data is another one "
                "for each seed; where settings were chosen by it, differences flatter them."
            )
    if comparison.spoiled:
        lines.append(f"The training data were spoiled on purpose: {comparison.spoiled}.")
    if comparison.unknown_classes:
        left_out = "1 class was" if comparison.unknown_classes == 1 else f"{comparison.unknown_classes} classes were"
        lines.append(
            f"{left_out} left out of training, drawn anew for each seed and the same for all variants. The measures of "
            f"unknown classes tell how well their tested examples, at least {comparison.unknown_tested} a run, are "
            "told from those of the known classes (50 % is a guess); all others are of known classes alone, so the "
            "number of tested examples is the first seed's."
        )
    lines.append("One interval in twenty misses the truth; with many variants and measures, expect some that do.")
    if len(comparison.versions) > 1:
        lines.append(f"The runs were made with different versions: {'; '.join(comparison.versions)}.")
    if comparison.failed:
        lines += [f"Failed: {key}: {error}" for key, error in comparison.failed.items()]
    if comparison.missing:
        lines.append(f"{comparison.missing} of the planned runs have no result; the same command runs those alone.")
    return lines


def markdown_table(rows: Rows, escape: bool = True) -> str:
    """A Markdown table whose first row is the header; cells may hold Markdown themselves unless it is escaped."""
    lines = ["| " + " | ".join(_cell(cell) if escape else cell for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _align(rows: Rows) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if not i else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _mean(measure: Measure, values: Mapping[int, float]) -> str:
    return show(measure, mean(values)) if values else DASH


def _short(measure: Measure, found: PairedDifference | None) -> str:
    if found is None:
        return DASH
    half = "" if math.isnan(found.low) else f" ±{show(measure, (found.high - found.low) / 2, signed=True)[1:]}"
    return show(measure, found.mean, signed=True) + half


def _cell(text: str) -> str:
    """Text that Markdown takes as it is: names come from the user's files."""
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in "\\|`*_[]#$~" else character for character in flat)
