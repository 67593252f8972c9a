"""Writes a comparison: JSON, Markdown and one HTML page that loads nothing."""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment
from transformers.utils import logging

from .plan import without_secrets
from .run import write_atomically
from .summary import Comparison
from .tables import difference_rows, figure_rows, markdown, notes
from .variants import PLAIN, Variant

logger = logging.get_logger(__name__)

REPORTS = PAGE, MARKDOWN, JSON = "comparison.html", "comparison.md", "comparison.json"
TEMPLATE = Path(__file__).with_name("page.html")


def write_reports(comparison: Comparison, title: str) -> None:
    """Writes the three reports, with this heading, into the plan's output folder."""
    plan = comparison.plan
    values = as_plain_values(comparison) | {
        "arguments": asdict(plan.args),
        "common": without_secrets(plan.common),
        "variants": {variant.name: _describe_variant(variant) for variant in plan.variants},
    }
    write_atomically(plan.output_dir / JSON, json.dumps(values, indent=1, default=str) + "\n")
    write_atomically(plan.output_dir / MARKDOWN, markdown(comparison, title))
    write_atomically(plan.output_dir / PAGE, render(comparison, title))


def as_plain_values(comparison: Comparison) -> dict[str, Any]:
    """For JSON: figures by size, variant, measure and seed, with the differences and verdicts."""
    first = comparison.results[0] if comparison.results else {"tested": None, "tested_on": "test"}
    sizes = []
    for size in comparison.sizes:
        differences = [
            {"variant": variant, "baseline": baseline, "measure": name}
            | found._asdict()
            | ({} if found.seeds > 1 else {"low": None, "high": None})  # JSON has no NaN
            for (variant, baseline, name), found in size.differences.items()
        ]
        sizes.append(
            {
                "train_samples": size.train_samples,
                "trained": size.trained,
                "figures": size.figures,
                "differences": differences,
                "verdicts": size.verdicts,
            }
        )
    return {
        "metric": comparison.metric.name,
        "tested": first["tested"],
        "tested_on": first["tested_on"],
        "steps": comparison.sizes[0].steps,
        "versions": comparison.versions,
        "failed": comparison.failed,
        "missing": comparison.missing,
        "sizes": sizes,
    }


def render(comparison: Comparison, title: str) -> str:
    """The HTML page; every string is escaped, and pictures are inside, unless there is no matplotlib."""
    pictures: Any = None
    try:
        from . import pictures
    except ImportError as error:
        logger.warning(f"The page has no pictures: {error}")
    page = Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    return page.render(
        title=title,
        comparison=comparison,
        pictures=pictures,
        shared=_plain_settings(comparison.plan.common | asdict(comparison.plan.args)),
        functions={
            "describe": _describe_variant,
            "differences": difference_rows,
            "figures": figure_rows,
            "notes": notes,
            "png": _png,
        },
    )


def _png(figure: Any) -> str:
    """A figure as a PNG file in base64."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def _describe_variant(variant: Variant) -> str:
    """A variant's trainer and what it sets, in a line."""
    parts = [variant.trainer] if variant.trainer != PLAIN or not variant.extra_compute else []
    if variant.extra_compute:
        parts.append({"batch": "twice the batch, as many steps", "steps": "twice the steps"}[variant.extra_compute])
    parts.append(_plain_settings({**variant.settings, **variant.trainer_arguments}))
    return ", ".join(part for part in parts if part)


def _plain_settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in without_secrets(settings).items())
