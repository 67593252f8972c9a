"""A comparison as tables of text: for the terminal, and for Markdown."""

import math
from collections.abc import Iterator, Sequence

from .measures import BY_NAME, DASH, Measure, PairedDifference, show, show_difference
from .plan import ComparisonArguments
from .summary import Comparison, Figures, Results, Size, mean
from .variants import PLAIN

Rows = list[list[str]]


def figure_rows(comparison: Comparison, size: Size) -> Rows:
    """Means over seeds: a header, then a row a variant."""
    rows = [["mean over seeds", "seeds", "steps", *(measure.title for measure in comparison.measures)]]
    for variant, figures in size.figures.items():
        seeds = max(map(len, figures.values()), default=0)
        steps = str(size.steps.get(variant, DASH))
        rows.append([variant, str(seeds), steps, *_means(figures, comparison.measures)])
    return rows


def difference_rows(size: Size) -> Rows:
    """Paired differences: a header, then a row a variant, baseline and measure."""
    rows = [["variant", "minus", "measure", "difference", "95 % interval", "wins", "losses", "the variant is"]]
    for (variant, baseline, name), found in size.differences.items():
        measure = BY_NAME[name]
        counts = str(found.wins), str(found.losses)
        rows.append([variant, baseline, measure.title, *show_difference(measure, found), *counts, found.verdict])
    return rows


def terminal(comparison: Comparison) -> str:
    """What `itra-hf compare` prints: the plain Trainer's means, differences to them with half their interval, notes."""
    lines: list[str] = []
    for size in comparison.sizes:
        rows = [["", *(measure.title for measure in comparison.measures)]]
        rows.append([PLAIN, *_means(size.figures[PLAIN], comparison.measures)])
        for variant in size.figures:
            found = [size.differences.get((variant, PLAIN, measure.name)) for measure in comparison.measures]
            if any(found):
                rows.append([variant, *map(_short, comparison.measures, found)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines.append(f"{size.title}, differences to {PLAIN} (± half of the 95 % interval)")
        for first, *others in rows:
            cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
            lines.append("  ".join([first.ljust(widths[0]), *cells]))
        lines += [*size.verdicts.values(), ""]
    return "\n".join([*lines, *notes(comparison)])


def markdown(comparison: Comparison, title: str) -> str:
    """The whole comparison as a Markdown page."""
    parts = [f"# {_cell(title)}", ""]
    for size in comparison.sizes:
        parts += [f"## {size.title.capitalize()}", ""]
        parts += [f"- {_cell(verdict)}" for verdict in size.verdicts.values()]
        parts += ["", markdown_table(figure_rows(comparison, size)), ""]
        parts += [markdown_table(difference_rows(size)), ""]
    return "\n".join([*parts, *(f"- {_cell(note)}" for note in notes(comparison))]) + "\n"


def markdown_table(rows: Rows, escape: bool = True) -> str:
    """A Markdown table whose first row is the header; cells may hold Markdown themselves unless it is escaped."""
    lines = ["| " + " | ".join(_cell(cell) if escape else cell for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def notes(comparison: Comparison) -> list[str]:
    """What a reader has to know beside the figures."""
    lines = _data_notes(comparison.plan.args, comparison.results)
    lines.append("One interval in twenty misses the truth; with many variants and measures, expect some that do.")
    if len(comparison.versions) > 1:
        lines.append(f"The runs were made with different versions: {'; '.join(comparison.versions)}.")
    lines += [f"Failed: {key}: {error}" for key, error in comparison.failed.items()]
    if comparison.missing:
        lines.append(f"{comparison.missing} of the planned runs have no result; the same command runs those alone.")
    return lines


def _data_notes(args: ComparisonArguments, results: Results) -> list[str]:
    lines = []
    if results:
        lines.append(
            f"Tested on {results[0]['tested']:,} examples of the {results[0]['tested_on']} split. Variants share "
            "examples, the head's first weights and the order of the data in each seed; differences are paired by "
            "seed, intervals are Student's t. They hold the chance of the seeds, not that of these test examples."
        )
    if results and results[0]["tested_on"] == "validation":
        lines.append(
            "There was no labelled test split. A validation split that is cut off the training data is another one "
            "for each seed; where settings were chosen by it, differences flatter them."
        )
    spoiled = []
    if args.class_imbalance > 1:
        spoiled.append(f"classes thinned to sizes that fall to 1 in {args.class_imbalance:g}")
    if args.label_noise:
        spoiled.append(f"{args.label_noise:.0%} of the labels replaced by wrong ones")
    if spoiled:
        lines.append(f"The training data were spoiled on purpose: {', '.join(spoiled)}.")
    if args.unknown_classes:
        left_out = "1 class was" if args.unknown_classes == 1 else f"{args.unknown_classes} classes were"
        least = min((result.get("unknown", 0) for result in results), default=0)
        lines.append(
            f"{left_out} left out of training, drawn anew for each seed and the same for all variants. The measures of "
            f"unknown classes tell how well their tested examples, at least {least} a run, are told from those of the "
            "known classes (50 % is a guess); all others are of known classes alone, so the number of tested examples "
            "is the first seed's."
        )
    return lines


def _means(figures: Figures, measures: Sequence[Measure]) -> Iterator[str]:
    for measure in measures:
        values = figures.get(measure.name)
        yield show(measure, mean(values)) if values else DASH


def _short(measure: Measure, found: PairedDifference | None) -> str:
    if found is None:
        return DASH
    half = "" if math.isnan(found.low) else f" ±{show(measure, (found.high - found.low) / 2, signed=True)[1:]}"
    return show(measure, found.mean, signed=True) + half


def _cell(text: str) -> str:
    """Text that Markdown takes as it is: names come from the user's files."""
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in "\\|`*_[]#$~" else character for character in flat)
