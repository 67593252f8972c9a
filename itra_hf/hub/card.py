"""The model card: from the facts of a training run to a README."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Template

from ..reports.compactness import FIGURES
from ..reports.evaluation import PREFIX
from .provenance import Evaluation, HubSource
from .readme import (
    BEGIN,
    END,
    KeptParts,
    choose_card,
    decode_card,
    listed,
    mark,
    merge_metadata,
    results_of,
    texts,
    with_history,
)

TEMPLATE = Path(__file__).with_name("card_template.md")
TAG, METHOD = "itra", "arxiv:2211.13332"
REPLACED_KEYS = ("model-index", "metrics", "library_name")
REFUSED_KEYS = ("self", "eval_results", "ignore_metadata_errors")  # with which the Hub's client would not read the card
UNKNOWN = "unknown"  # what model-index has for data that are not on the Hub
MOST_LABELS = 50

KINDS = {
    "text-classification": "A text classifier",
    "image-classification": "An image classifier",
    "audio-classification": "An audio classifier",
}
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


@dataclass
class CardFacts:
    """What a card says.

    Attributes:
        name: the heading.
        task: the Hub's task, such as `text-classification`, if the model's class tells it.
        problem_type: as in the model's config.
        labels: the label names by id; empty for regression.
        location: from where users load the model: a repository, or a folder.
        adapter: the kind of peft adapter, in lower case.
        base_model: what was fine-tuned.
        datasets: what it was fine-tuned on.
        license: the Hub's id of the licence, as given.
        base_license: the base model's.
        language: the Hub's codes of the languages.
        tags: the user's and the model's.
        evaluations: by prefix, such as `eval`.
        evaluated_data: the Hub data sets that these were measured on.
        start_evaluations: those from before training.
        step: the optimizer steps done.
        progress: a sentence on how far training went.
        settings: the method's, or empty without alignment.
        hyperparameters: the Trainer's.
        pictures: paths in the repository, by name.
        versions: of the libraries.
        given: which of `base_model`, `dataset` and `task` the user said.
    """

    name: str
    task: str | None
    problem_type: str | None
    labels: list[str]
    location: str
    adapter: str | None
    base_model: HubSource | None
    datasets: list[HubSource]
    license: str | None
    base_license: str | None
    language: str | list[str] | None
    tags: list[str]
    evaluations: dict[str, Evaluation]
    evaluated_data: dict[str, HubSource | None]
    start_evaluations: dict[str, dict[str, float]]
    step: int
    progress: str
    settings: dict[str, Any]
    hyperparameters: dict[str, Any]
    pictures: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    given: frozenset[str] = frozenset()


def write_card(path: Path, facts: CardFacts, remote: str | None = None) -> None:
    """Writes the card, and keeps what the user wrote around the generated part and into the metadata.

    Args:
        path: the README.
        facts: what the card says.
        remote: the repository's README; `choose_card` says which of the two the user's part is taken from.
    """
    local = decode_card(path.read_bytes()) if path.is_file() else None
    kept = choose_card(local, remote)
    block, marks = metadata(facts, kept)
    content = Template(TEMPLATE.read_text(encoding="utf-8")).render(
        card_data=block, begin=BEGIN, end=END, before=kept.before, after=kept.after, **contents(facts)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(with_history(content, kept.history, marks), encoding="utf-8", newline="")


def metadata(facts: CardFacts, kept: KeptParts) -> tuple[str, list[str]]:
    """The card's metadata as YAML, and the marks of what was found rather than said, which the next run finds anew.

    What the user says, in the arguments or in the README, goes before what the run finds. Results in a README that was
    generated before are the last run's, so they go, unless they name a source.
    """
    said = {
        "base_model": facts.base_model.name if facts.base_model and "base_model" in facts.given else None,
        "license": facts.license,
        "language": facts.language,
        "pipeline_tag": facts.task if "task" in facts.given else None,
        "datasets": [each.name for each in facts.datasets] if "dataset" in facts.given else None,
    }
    found = {
        "base_model": facts.base_model and facts.base_model.name,
        "license": facts.base_license,
        "pipeline_tag": facts.task,
        "datasets": [each.name for each in facts.datasets] or None,
    }
    own = {key: texts(kept.data.get(key)) for key in (*said, "tags")}
    data: dict[str, Any] = {key: said[key] or own[key] or found.get(key) for key in said}
    old_tags = [tag for tag in listed(own["tags"]) if facts.settings or tag not in (TAG, METHOD)]
    found_tags = [facts.adapter] if facts.adapter else []
    found_tags += [TAG, METHOD] if facts.settings else []
    data["tags"] = _together(old_tags, facts.tags, found_tags)
    data["library_name"] = "peft" if facts.adapter else "transformers"
    results = eval_results(facts, data["pipeline_tag"])
    data["metrics"] = _together([result.metric_type for result in results if result.metric_type != "loss"]) or None
    old_results = [old for old in results_of(kept.data) if old.source_url or not kept.generated]
    shown = [*results, *(old for old in old_results if not any(map(old.is_equal_except_value, results)))]
    known = {key: listed(said.get(key) or own.get(key)) for key in data}
    known["tags"] = [*old_tags, *facts.tags]
    marks = [mark(key, item) for key in data for item in listed(data[key]) if item not in known[key]]
    values = ModelCardData(**data, eval_results=shown or None, model_name=facts.name if shown else None).to_dict()
    return merge_metadata(kept, values, {*data, *REPLACED_KEYS, *REFUSED_KEYS}), marks


def eval_results(facts: CardFacts, task: Any) -> list[EvalResult]:
    """The evaluations as the Hub's `model-index` wants them: none without a task, and no values that are not finite."""
    results: list[EvalResult] = []
    if not isinstance(task, str):
        return results
    for prefix, evaluation in facts.evaluations.items():
        data = facts.evaluated_data.get(prefix)
        for key, value in evaluation.metrics.items():
            if key.startswith(PREFIX) or not math.isfinite(value):
                continue
            kind, name = METRICS.get(key, (key, key))
            results.append(
                EvalResult(
                    task_type=task,
                    dataset_type=data.name if data else UNKNOWN,
                    dataset_name=data.name if data else UNKNOWN,
                    dataset_config=(data.config or None) if data else None,
                    dataset_revision=(data.revision or None) if data else None,
                    dataset_split=(data.split if data else "") or prefix,
                    metric_type=kind,
                    metric_name=name,
                    metric_value=value,
                )
            )
    return results


def contents(facts: CardFacts) -> dict[str, Any]:
    """What the template is filled with, but for the metadata and the user's own text."""
    shown = {prefix: _without_compactness(evaluation) for prefix, evaluation in facts.evaluations.items()}
    shown = {prefix: evaluation for prefix, evaluation in shown.items() if evaluation.metrics}
    keys = _together(*(list(evaluation.metrics) for evaluation in shown.values()))
    return {
        "name": _plain(facts.name),
        "kind": KINDS.get(facts.task or "", "A model") + (f" ({facts.adapter} adapter)" if facts.adapter else ""),
        "base": facts.base_model and _link(facts.base_model, ""),
        "data": " and ".join(_link(each, "datasets/") for each in facts.datasets),
        "aligned": bool(facts.settings),
        "trained": facts.step > 0,
        "labels": _labels(facts.labels),
        "result_sets": [_set_title(prefix, evaluation.step, facts.step) for prefix, evaluation in shown.items()],
        "result_rows": [
            [_plain(METRICS.get(key, (key, key))[1]), *(_number(each.metrics.get(key)) for each in shown.values())]
            for key in keys
        ],
        "snippet": _snippet(facts),
        "compactness_rows": _compactness_rows(facts),
        "pictures": facts.pictures,
        "progress": facts.progress,
        "settings": {name: _plain(value) for name, value in facts.settings.items()},
        "hyperparameters": {name: _plain(value) for name, value in facts.hyperparameters.items()},
        "versions": facts.versions,
    }


def _without_compactness(evaluation: Evaluation) -> Evaluation:
    kept = {name: value for name, value in evaluation.metrics.items() if not name.startswith(PREFIX)}
    return Evaluation(kept, evaluation.step)


def _link(source: HubSource, kind: str) -> str:
    return (
        f"[{source.name}](https://huggingface.co/{kind}{source.name}) (revision `{source.revision[:8]}`)"
        if source.revision
        else f"[{source.name}](https://huggingface.co/{kind}{source.name})"
    )


def _labels(names: Sequence[str]) -> str:
    more = len(names) - MOST_LABELS
    return ", ".join(map(_plain, names[:MOST_LABELS])) + (f" and {more} more" if more > 0 else "")


def _set_title(prefix: str, step: int | None, steps: int) -> str:
    return _plain(prefix) + (f" (after step {step} of {steps})" if step is not None and step != steps else "")


def _compactness_rows(facts: CardFacts) -> list[list[str]]:
    prefix = next((name for name, each in facts.evaluations.items() if f"{PREFIX}_{FIGURES[0]}" in each.metrics), None)
    if prefix is None:
        return []
    before, after = facts.start_evaluations.get(prefix, {}), facts.evaluations[prefix].metrics
    return [
        [name.replace("_", " "), *(_number(values.get(f"{PREFIX}_{name}")) for values in (before, after))]
        for name in FIGURES
    ]


def _snippet(facts: CardFacts) -> str | None:
    if facts.task != "text-classification":
        return None
    options = {"regression": ', function_to_apply="none"', "multi_label_classification": ", top_k=None"}
    call = f'print(classify("...", truncation=True{options.get(facts.problem_type or "", "")}))'
    if not facts.adapter:
        return f'from transformers import pipeline\n\nclassify = pipeline("{facts.task}", "{facts.location}")\n{call}'
    names = repr(dict(enumerate(facts.labels))).replace("<", "\\x3c")  # no comment of HTML may begin within
    labels = f"id2label={names}" if 0 < len(facts.labels) <= MOST_LABELS else f"num_labels={len(facts.labels) or 1}"
    if facts.problem_type in options:
        labels += f', problem_type="{facts.problem_type}"'
    return f"""from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer, pipeline

model = AutoPeftModelForSequenceClassification.from_pretrained("{facts.location}", {labels})
classify = pipeline("{facts.task}", model, tokenizer=AutoTokenizer.from_pretrained("{facts.location}"))
{call}"""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if math.isfinite(value) else "not finite"


def _plain(value: Any) -> str:
    """A value as it can stand in a line of a table, whatever characters it holds."""
    text = " ".join(str(value).split())
    return re.sub(r"([\\`*\[\]|<>&#!])", r"\\\1", text) if isinstance(value, str) else text


def _together(*lists: Sequence[str]) -> list[str]:
    """The items of all lists, each once, in order, also where a README has items that can't be hashed."""
    items = [item for each in lists for item in each]
    return [item for index, item in enumerate(items) if item not in items[:index]]
