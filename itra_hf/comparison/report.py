"""Writes a comparison: JSON, Markdown and one HTML page that loads nothing."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment
from transformers.utils import logging

from .plan import Plan
from .run import write_atomically
from .summary import Comparison, as_plain_values
from .tables import difference_rows, figure_rows, markdown, notes
from .variants import PLAIN, Variant

logger = logging.get_logger(__name__)

JSON_NAME, MARKDOWN_NAME, PAGE_NAME = "comparison.json", "comparison.md", "comparison.html"
TEMPLATE = Path(__file__).with_name("page.html")


class Picture(NamedTuple):
    """A picture of the page.

    Attributes:
        title: its heading.
        description: for those who can't see it.
        data: a PNG file in base64.
    """

    title: str
    description: str
    data: str


def write_reports(plan: Plan, comparison: Comparison, results: Sequence[Mapping[str, Any]], title: str) -> None:
    """Writes the three reports into the plan's output folder.

    Args:
        plan: has the settings.
        comparison: from `summarize`.
        results: from `read_results`.
        title: the heading.
    """
    settings = {variant.name: describe_settings(variant) for variant in plan.variants}
    values = as_plain_values(comparison) | {
        "arguments": asdict(plan.args),
        "common": without_secrets(plan.common),
        "variants": settings,
    }
    write_atomically(plan.output_dir / JSON_NAME, json.dumps(values, indent=1, default=str) + "\n")
    write_atomically(plan.output_dir / MARKDOWN_NAME, markdown(comparison, title))
    write_atomically(plan.output_dir / PAGE_NAME, render(plan, comparison, results, title))


def render(plan: Plan, comparison: Comparison, results: Sequence[Mapping[str, Any]], title: str) -> str:
    """The HTML page; every string is escaped, and pictures are inside."""
    drawn = draw(plan, comparison, results)
    sizes = [
        {
            "title": size.title.capitalize(),
            "verdicts": list(size.verdicts.values()),
            "figures": figure_rows(comparison, size),
            "differences": difference_rows(comparison, size),
            "pictures": drawn.get(size.train_samples, []),
        }
        for size in comparison.sizes
    ]
    shared = plain_settings(plan.common | asdict(plan.args))
    settings = [("all runs", shared), *((v.name, describe_settings(v)) for v in plan.variants)]
    return (
        Environment(autoescape=True)
        .from_string(TEMPLATE.read_text(encoding="utf-8"))
        .render(title=title, sizes=sizes, pictures=drawn["all"], settings=settings, notes=notes(comparison))
    )


def draw(plan: Plan, comparison: Comparison, results: Sequence[Mapping[str, Any]]) -> dict[Any, list[Picture]]:
    """The pictures by size of training set, and those over `"all"` sizes; none without matplotlib."""
    try:
        from . import pictures
    except ImportError as error:
        logger.warning(f"The page has no pictures: {error}")
        return {"all": []}
    title = comparison.metric.title
    found: dict[Any, list[tuple[str, str, Any]]] = {
        "all": [
            ("Over the size of the training set", f"{title} by variant and size.", pictures.size_curves(comparison))
        ]
    }
    for size in comparison.sizes:
        found[size.train_samples] = [
            (
                "Paired differences",
                "Dots with bars: mean differences of each variant to the plain Trainer and their 95 % intervals; "
                "ticks: the seeds.",
                pictures.differences(size, comparison.measures),
            ),
            (
                "Learning curves",
                "Training and evaluation losses over the optimizer steps, means over seeds, a line a variant.",
                pictures.learning_curves(results, size),
            ),
            (
                "Feature maps",
                "Features of the tested examples on their two main directions, coloured by class, a panel a variant.",
                pictures.feature_maps(results, size, plan.output_dir / "runs"),
            ),
        ]
    return {
        key: [Picture(name, text, _encode(figure)) for name, text, figure in drawn if figure is not None]
        for key, drawn in found.items()
    }


def describe_settings(variant: Variant) -> str:
    """A variant's trainer and what it sets, in a line."""
    parts = [variant.trainer] if variant.trainer != PLAIN or not variant.extra_compute else []
    if variant.extra_compute:
        parts.append({"batch": "twice the batch, as many steps", "steps": "twice the steps"}[variant.extra_compute])
    parts += [plain_settings({**variant.settings, **variant.trainer_arguments})]
    return ", ".join(part for part in parts if part)


def plain_settings(settings: Mapping[str, Any]) -> str:
    """Fields and values in a line."""
    return ", ".join(f"{name}={value}" for name, value in without_secrets(settings).items())


def without_secrets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without access tokens."""
    return {name: value for name, value in settings.items() if "token" not in name.split("_")}


def _encode(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
