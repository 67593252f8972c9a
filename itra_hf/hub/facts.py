"""From a Trainer to the facts and pictures of its model card."""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from transformers.modelcard import TASK_MAPPING, extract_hyperparameters_from_trainer

from ..config import AlignmentArguments
from ..config_checks import can_act
from ..features.models import unwrap, unwrap_adapter
from ..reports.evaluation import PREFIX, EvaluatedFeatures
from .card import KINDS, CardFacts
from .provenance import Evaluation, HubSource, base_model_of, dataset_of, evaluations, license_of
from .readme import listed

PICTURES = "figures"
LIBRARIES = {
    "Transformers": "transformers",
    "PyTorch": "torch",
    "Datasets": "datasets",
    "Tokenizers": "tokenizers",
    "Accelerate": "accelerate",
}
REPORTS = ("eval_compactness", "gradient_noise_steps")  # settings that change nothing in training


def collect_facts(
    trainer: Any,
    predictions: Mapping[str, Evaluation],
    evaluated_data: Mapping[str, HubSource | None],
    given: Mapping[str, Any],
) -> CardFacts:
    """Everything in a card but the pictures.

    Args:
        trainer: after training, or in its midst.
        predictions: the metrics of `predict`, by prefix.
        evaluated_data: the Hub data sets of the evaluations, by prefix.
        given: what the user says: `language`, `license`, `tags`, `name`, `base_model`, `task`, `dataset`.
    """
    args, state, model = trainer.args, trainer.state, unwrap(trainer.model)
    config = getattr(unwrap_adapter(model), "config", None)
    base, data = _sources(trainer, model, given)
    said_data = data[0] if given["dataset"] else None
    best = state.best_global_step if args.load_best_model_at_end else None
    found = {**evaluations(state.log_history, best), **predictions}
    names = getattr(config, "id2label", None) or {}
    problem_type = getattr(config, "problem_type", None)
    peft_config = getattr(model, "active_peft_config", None)
    libraries = LIBRARIES | ({"PEFT": "peft"} if peft_config else {})
    versions = {"itra_hf": version("itra_hf")} | {name: version(library) for name, library in libraries.items()}
    folder = os.path.basename(os.path.abspath(args.output_dir))
    repo = trainer.hub_model_id or args.hub_model_id
    return CardFacts(
        name=given["name"] or (repo.split("/")[-1] if repo else folder),
        task=_one(given["task"]) or _task_of(unwrap_adapter(model)),
        problem_type=problem_type,
        labels=[] if problem_type == "regression" else [str(names[index]) for index in sorted(names)],
        location=repo or (folder if os.path.isabs(args.output_dir) else args.output_dir),
        adapter=str(getattr(peft_config.peft_type, "value", peft_config.peft_type)).lower() if peft_config else None,
        base_model=base,
        datasets=data,
        license=given["license"],
        base_license=license_of(base.name, args.hub_token) if base and not given["license"] else None,
        language=given["language"],
        tags=[*listed(given["tags"]), *(getattr(model, "model_tags", None) or []), "generated_from_trainer"],
        evaluations=found,
        evaluated_data={prefix: evaluated_data.get(prefix) or said_data for prefix in found},
        start_evaluations=_start_evaluations(state.log_history),
        step=state.global_step,
        progress=_progress(trainer),
        settings=_settings(trainer),
        hyperparameters=_hyperparameters(trainer),
        versions=versions,
        given=frozenset(name for name, value in given.items() if value),
    )


def _sources(trainer: Any, model: Any, given: Mapping[str, Any]) -> tuple[HubSource | None, list[HubSource]]:
    """The base model and the data sets: those given, with what else is known of them, or those found."""
    base, data = base_model_of(model), dataset_of(trainer.train_dataset)
    if given["base_model"] and (base is None or base.name != given["base_model"]):
        base = HubSource(given["base_model"])
    if not given["dataset"]:
        return base, [] if data is None else [data]
    return base, [data if data and data.name == name else HubSource(name) for name in listed(given["dataset"])]


def draw_pictures(
    folder: str,
    log_history: Sequence[Mapping[str, Any]],
    evaluated: EvaluatedFeatures,
    facts: CardFacts,
    warn: Callable[[str], None],
) -> dict[str, str]:
    """Draws the learning curves, and the features before and after training where evaluation took them.

    Args:
        folder: where the card will lie.
        log_history: the Trainer's.
        evaluated: by evaluation set; the first one with labels is drawn, if its pass is the one in the card.
        facts: of the card.
        warn: told where matplotlib is missing.

    Returns:
        The paths in `folder`, by the names that the card's template knows.
    """
    try:
        from ..reports import plots
    except ImportError as error:
        warn(f"The model card has no pictures: {error}")
        return {}
    figures = {}
    if any(math.isfinite(entry.get("loss", math.nan)) for entry in log_history):
        figures["learning_curves"] = plots.learning_curves(log_history)
    for prefix, latest in evaluated.latest.items():
        if prefix not in facts.evaluations or facts.evaluations[prefix].step != evaluated.steps[prefix]:
            continue
        found = {"before training": evaluated.before.get(prefix), "this model": latest}
        sets = {name: each for name, each in found.items() if each is not None and each.counts.sum()}
        samples = {name: each.sample()[:2] for name, each in sets.items()}
        if "this model" in sets and all(np.isfinite(points).all() for points, _ in samples.values()):
            ratios = {name: each.compactness()["scatter_ratio"] for name, each in sets.items()}
            figures["feature_map"] = plots.feature_map(samples, facts.labels, ratios=ratios)
            break
    if figures:
        Path(folder, PICTURES).mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(Path(folder, PICTURES, f"{name}.png"))
    return {name: f"{PICTURES}/{name}.png" for name in figures}


def _task_of(model: Any) -> str | None:
    name = type(model).__name__
    tasks: Mapping[str, Any] = TASK_MAPPING
    return next((task for task in KINDS if name in tasks[task].values()), None)


def _start_evaluations(log_history: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The compactness that was measured before the first step, by the metrics' prefix."""
    found: dict[str, dict[str, float]] = {}
    for entry in log_history:
        for key, value in entry.items():
            prefix, is_compactness, name = key.partition(f"_{PREFIX}_")
            if is_compactness and entry.get("step") == 0:
                found.setdefault(prefix, {})[f"{PREFIX}_{name}"] = value
    return found


def _progress(trainer: Any) -> str:
    state = trainer.state
    if not state.global_step:
        return "It has not been trained in this run."
    done = f"{state.global_step} of {state.max_steps} optimizer steps, {state.epoch or 0:.4g} epochs"
    if trainer.args.load_best_model_at_end and state.best_global_step:
        done += f"; the weights are those after step {state.best_global_step}"
    return f"{done}."


def _settings(trainer: Any) -> dict[str, Any]:
    args = trainer.alignment_args
    if not hasattr(trainer, "_itra_aligner") or args.matching_weight == 0 or not trainer.state.global_step:
        return {}
    names = [field.name for field in dataclasses.fields(AlignmentArguments) if field.name not in REPORTS]
    settings = {name: getattr(args, name) for name in names}
    decided = settings | {"companion": trainer._itra_companion}
    settings = {name: value for name, value in settings.items() if can_act(name, decided)}
    if args.companion == "auto":
        settings["companion"] = f"{trainer._itra_companion} (auto)"
    if args.alignment == "auto":
        settings["alignment"] = f"{trainer._itra_aligner.matching_loss.alignment} (auto)"
    return settings


def _hyperparameters(trainer: Any) -> dict[str, Any]:
    args = trainer.args
    found = extract_hyperparameters_from_trainer(trainer)
    optimizer = str(getattr(args.optim, "value", args.optim))
    found["optimizer"] = f"{optimizer}, {args.optim_args}" if args.optim_args else optimizer
    found["weight_decay"] = args.weight_decay
    if args.bf16 or args.fp16:
        found["mixed_precision_training"] = "bf16" if args.bf16 else "fp16"
    return found


def _one(value: str | Sequence[str] | None) -> Any:
    return value if value is None or isinstance(value, str) else value[0]
