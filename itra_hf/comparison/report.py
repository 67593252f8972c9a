"""The reports of a comparison: text for the terminal, Markdown, JSON, and one HTML page that loads nothing."""

import base64
import io
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, select_autoescape
from transformers.utils import logging

from .measures import BY_NAME, DASH, mean, show, show_difference, show_half
from .plan import without_secrets
from .run import write_atomically
from .summary import Comparison, Size
from .variants import PLAIN, Variant

logger = logging.get_logger(__name__)

Rows = list[list[str]]
REPORTS = PAGE, MARKDOWN, JSON = "comparison.html", "comparison.md", "comparison.json"
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(), keep_trailing_newline=True
)


def write_reports(comparison: Comparison, title: str) -> None:
    """Writes the three reports, with this heading, into the plan's output folder.

    In the page every string is escaped, and pictures are inside, unless there is no matplotlib.
    """
    pictures: Any = None
    try:
        from . import pictures
    except ImportError as error:
        logger.warning(f"The page has no pictures: {error}")
    plan = comparison.plan
    arguments, common = asdict(plan.args), without_secrets(plan.common)
    variants = {variant.name: describe_variant(variant) for variant in plan.variants}
    values = as_plain_values(comparison) | {"arguments": arguments, "common": common, "variants": variants}
    shown = {
        "title": title,
        "comparison": comparison,
        "variants": variants,
        "shared": _listed(common | arguments),
        "notes": notes(comparison),
        "pictures": pictures,
        "png": _png,
        "figure_rows": figure_rows,
        "difference_rows": difference_rows,
        "table": markdown_table,
        "cell": _cell,
    }
    write_atomically(plan.output_dir / JSON, json.dumps(values, indent=1, default=str) + "\n")
    for name in (MARKDOWN, PAGE):
        write_atomically(plan.output_dir / name, TEMPLATES.get_template(name).render(shown))


def as_plain_values(comparison: Comparison) -> dict[str, Any]:
    """For JSON: figures by size, variant, measure and seed, with the differences and verdicts."""
    sizes = []
    for size in comparison.sizes:
        differences = [
            {"variant": variant, "baseline": baseline, "measure": name}
            | found._asdict()
            | ({"low": None, "high": None} if math.isnan(found.low) else {})  # JSON has no NaN
            for (variant, baseline, name), found in size.differences.items()
        ]
        values = {name: getattr(size, name) for name in ("train_samples", "trained", "figures", "verdicts")}
        sizes.append(values | {"differences": differences})
    tested = {name: comparison.results[0][name] for name in ("tested", "tested_on")}
    values = {name: getattr(comparison, name) for name in ("versions", "failed", "missing")}
    return {"metric": comparison.metric.name, **tested, "steps": comparison.sizes[0].steps, **values, "sizes": sizes}


def _png(figure: Any) -> str:
    """A figure as a PNG file in base64."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def describe_variant(variant: Variant) -> str:
    """A variant's trainer and what it sets, in a line."""
    ways = {"": variant.trainer, "batch": "twice the batch, as many steps", "steps": "twice the steps"}
    settings = _listed(without_secrets({**variant.settings, **variant.trainer_arguments}))
    return f"{ways[variant.extra_compute]}, {settings}".removesuffix(", ")


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def figure_rows(comparison: Comparison, size: Size) -> Rows:
    """Means over seeds: a header, then a row a variant."""
    rows = [["mean over seeds", "seeds", "steps", *(measure.title for measure in comparison.measures)]]
    for variant, figures in size.figures.items():
        counts = max(map(len, figures.values()), default=0), size.steps.get(variant, DASH)
        means = (show(measure, mean(figures.get(measure.name, {}))) for measure in comparison.measures)
        rows.append([variant, *map(str, counts), *means])
    return rows


def difference_rows(size: Size) -> Rows:
    """Paired differences: a header, then a row a variant, baseline and measure."""
    rows = [["variant", "minus", "measure", "difference", "95 % interval", "wins", "losses", "the variant is"]]
    for (variant, baseline, name), found in size.differences.items():
        told = *show_difference(BY_NAME[name], found), str(found.wins), str(found.losses), found.verdict
        rows.append([variant, baseline, BY_NAME[name].title, *told])
    return rows


def terminal(comparison: Comparison) -> str:
    """What `itra-hf compare` prints: the plain Trainer's means, differences to them with half their interval, notes."""
    lines: list[str] = []
    titles, width = [measure.title for measure in comparison.measures], shutil.get_terminal_size((120, 24)).columns
    for size in comparison.sizes:
        columns = {PLAIN: figure_rows(comparison, size)[1][3:]}
        for variant in size.figures:
            found = [size.differences.get((variant, PLAIN, measure.name)) for measure in comparison.measures]
            if any(found):
                cells = zip(comparison.measures, found, strict=True)
                columns[variant] = [show_half(measure, each) if each else DASH for measure, each in cells]
        lines.append(f"{size.title}, differences to {PLAIN} (± half of the 95 % interval)")
        table = pd.DataFrame(columns, titles).to_string(line_width=max(80, width))
        lines += [table, *size.verdicts.values(), ""]
    return "\n".join([*lines, *notes(comparison)])


def markdown_table(rows: Rows, escape: bool = True) -> str:
    """A Markdown table whose first row is the header; cells may hold Markdown themselves unless it is escaped."""
    lines = ["| " + " | ".join(_cell(cell) if escape else cell for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _cell(text: str) -> str:
    """Text that Markdown takes as it is: names come from the user's files."""
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in "\\|`*_[]#$~" else character for character in flat)


def notes(comparison: Comparison) -> list[str]:
    """What a reader has to know beside the figures."""
    text = TEMPLATES.get_template("notes.txt").render(comparison=comparison)
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
