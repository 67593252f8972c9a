"""The model card: from the facts of a training run to a README."""

import math
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment

from . import readme
from .facts import KINDS, CardFacts

TEMPLATE = Path(__file__).with_name("card_template.md")
TAG, METHOD = "itra", "arxiv:2211.13332"
REFUSED_KEYS = ("self", "eval_results", "ignore_metadata_errors")  # with which the Hub's client would not read the card
MOST_LABELS = 50
METRICS = {  # the Hub's metric type, and the name to show
    "loss": ("loss", "Loss"),
    "accuracy": ("accuracy", "Accuracy"),
    "f1_macro": ("f1", "Macro F1"),
    "f1_micro": ("f1", "Micro F1"),
    "f1_weighted": ("f1", "Weighted F1"),
    "matthews_correlation": ("matthews_correlation", "Matthews correlation"),
    "calibration_error": ("expected_calibration_error", "Expected calibration error"),
    "brier_score": ("brier_score", "Brier score"),
    "mse": ("mse", "Mean squared error"),
    "mae": ("mae", "Mean absolute error"),
    "r2": ("r_squared", "R²"),
}


def write_card(path: Path, facts: CardFacts, remote: str | None = None) -> None:
    """Writes the card, and keeps what the user wrote around the generated part and into the metadata.

    Args:
        path: the README.
        facts: what the card says.
        remote: the repository's README; `choose_card` says which of the two the user's part is taken from.
    """
    kept = readme.choose_card(readme.decode_card(path.read_bytes()) if path.is_file() else None, remote)
    block, marks = metadata(facts, kept)
    environment = Environment()
    environment.filters.update(plain=_plain, number=_number)
    shown = {prefix: each for prefix, each in facts.evaluations.items() if each.results}
    content = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        metadata=block,
        marks=marks,
        begin=readme.BEGIN,
        end=readme.END,
        kept=kept,
        facts=facts,
        kind=KINDS.get(facts.task or "", "A model"),
        shown=shown,
        metric_names={key: METRICS.get(key, (key, key))[1] for each in shown.values() for key in each.results},
        most_labels=MOST_LABELS,
        label_arguments=_label_arguments(facts),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(readme.stamp(content, kept.seen), encoding="utf-8", newline="")


def metadata(facts: CardFacts, kept: readme.KeptParts) -> tuple[str, list[str]]:
    """The card's metadata as YAML, and the marks of what was found rather than said, which the next run finds anew.

    What the user says, in the arguments or in the README, goes before what the run finds. Results in a README that was
    generated before are the last run's, so they go, unless they name a source.
    """
    found = {
        "base_model": facts.base_model and facts.base_model.name,
        "license": facts.base_license,
        "language": None,
        "pipeline_tag": facts.task,
        "datasets": [each.name for each in facts.datasets],
    }
    own = {key: facts.said.get(key) or readme.texts(kept.data.get(key)) for key in found}
    data: dict[str, Any] = {key: own[key] or found[key] or None for key in found}
    own_tags = [
        tag for tag in readme.listed(readme.texts(kept.data.get("tags"))) if facts.settings or tag not in (TAG, METHOD)
    ]
    own["tags"] = [*own_tags, *facts.tags]
    found_tags = [*([facts.adapter] if facts.adapter else []), *([TAG, METHOD] if facts.settings else [])]
    data["tags"] = [*own["tags"], *found_tags]
    data["library_name"] = "peft" if facts.adapter else "transformers"
    results = eval_results(facts, data["pipeline_tag"])
    data["metrics"] = list(dict.fromkeys(each.metric_type for each in results if each.metric_type != "loss")) or None
    marks = [
        readme.mark(key, item)
        for key in data
        for item in readme.listed(data[key])
        if item not in readme.listed(own.get(key))
    ]
    old_results = [old for old in readme.results_of(kept.data) if old.source_url or not kept.generated]
    shown = [*results, *(old for old in old_results if not any(map(old.is_equal_except_value, results)))]
    values = ModelCardData(**data, eval_results=shown or None, model_name=facts.name if shown else None).to_dict()
    return readme.merge_metadata(kept, values, {*data, *readme.REPLACED_KEYS, *REFUSED_KEYS}), marks


def eval_results(facts: CardFacts, task: Any) -> list[EvalResult]:
    """The evaluations as the Hub's `model-index` wants them: none without a task, and no values that are not finite."""
    return [
        EvalResult(
            task_type=task,
            dataset_type=each.data.name,
            dataset_name=each.data.name,
            dataset_config=each.data.config or None,
            dataset_revision=each.data.revision or None,
            dataset_split=each.data.split or prefix,
            metric_type=METRICS.get(key, (key, key))[0],
            metric_name=METRICS.get(key, (key, key))[1],
            metric_value=value,
        )
        for prefix, each in facts.evaluations.items()
        for key, value in each.results.items()
        if isinstance(task, str) and math.isfinite(value)
    ]


def _label_arguments(facts: CardFacts) -> str:
    """What `from_pretrained` has to be told of an adapter's head."""
    names = repr(dict(enumerate(facts.labels))).replace("<", "\\x3c")  # no comment of HTML may begin within
    given = f"id2label={names}" if 0 < len(facts.labels) <= MOST_LABELS else f"num_labels={len(facts.labels) or 1}"
    known = facts.problem_type in ("regression", "multi_label_classification")
    return given + (f', problem_type="{facts.problem_type}"' if known else "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if math.isfinite(value) else "not finite"


def _plain(value: Any) -> str:
    """A value as it can stand in a line of a table, whatever characters it holds."""
    text = " ".join(str(value).split())
    return re.sub(r"([\\`*\[\]|<>&#!])", r"\\\1", text) if isinstance(value, str) else text
