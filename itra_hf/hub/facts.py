"""What a model card says of a training run: the facts and pictures, from its Trainer."""

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers.modelcard import TASK_MAPPING, extract_hyperparameters_from_trainer

from ..config import AlignmentArguments
from ..config_checks import can_act
from ..features.models import unwrap, unwrap_adapter
from ..reports.evaluation import PREFIX
from .provenance import HubSource, base_model_of, dataset_of, license_of

KINDS = {
    "text-classification": "A text classifier",
    "image-classification": "An image classifier",
    "audio-classification": "An audio classifier",
}
LIBRARIES = ("itra_hf", "transformers", "torch", "datasets", "tokenizers", "accelerate")
REPORTS = ("eval_compactness", "gradient_noise_steps")  # settings that change nothing in training
SPEED = re.compile(r"_(runtime|samples_per_second|steps_per_second|model_preparation_time|jit_compilation_time)$")


class Evaluation(NamedTuple):
    """One pass over an evaluation set."""

    metrics: dict[str, float]  # by name, without the prefix
    step: int | None  # the optimizer steps done by then
    data: HubSource | None = None  # the set, if it came from the Hub

    @property
    def results(self) -> dict[str, float]:
        """The metrics but for compactness, which a card shows apart."""
        return {name: value for name, value in self.metrics.items() if not name.startswith(PREFIX)}


@dataclasses.dataclass
class CardFacts:
    """What a card says."""

    name: str  # the heading
    task: str | None  # the Hub's, such as `text-classification`
    problem_type: str | None  # as in the model's config
    labels: list[str]  # their names by id; none for regression
    location: str  # from where users load the model: a repository, or a folder
    adapter: str | None  # the kind of peft adapter, in lower case
    base_model: HubSource | None  # what was fine-tuned
    datasets: list[HubSource]  # what it was fine-tuned on
    base_license: str | None
    said: dict[str, Any]  # metadata from the user: `base_model`, `datasets`, `language`, `license`, `pipeline_tag`
    tags: list[str]  # the user's and the model's
    evaluations: dict[str, Evaluation]  # by prefix, such as `eval`
    compactness: dict[str, tuple[float | None, float]]  # before training and now
    step: int  # the optimizer steps done
    progress: str  # a sentence on how far training went
    settings: dict[str, Any]  # the method's; none without alignment
    hyperparameters: dict[str, Any]
    pictures: dict[str, str]  # paths in the repository, by the names that the template knows
    versions: dict[str, str]  # of the libraries


def collect_facts(trainer: Any, said: dict[str, Any], name: str | None, tags: list[str]) -> CardFacts:
    """Everything in a card; the pictures are drawn into `output_dir`.

    Args:
        trainer: a `ReportingMixin`, after training or in its midst.
        said: as in `CardFacts`.
        name: the heading; default: the repository's or folder's name.
        tags: the user's.
    """
    args, state, model = trainer.args, trainer.state, unwrap(trainer.model)
    config = getattr(unwrap_adapter(model), "config", None)
    names, problem_type = getattr(config, "id2label", None) or {}, getattr(config, "problem_type", None)
    labels = [] if problem_type == "regression" else [str(names[index]) for index in sorted(names)]
    peft_config = getattr(model, "active_peft_config", None)
    libraries = (*LIBRARIES, "peft") if peft_config else LIBRARIES
    folder = os.path.basename(os.path.abspath(args.output_dir))
    repo = trainer.hub_model_id or args.hub_model_id
    base, data = _sources(trainer, model, said)
    best = state.best_global_step if args.load_best_model_at_end else None
    found = evaluations([*state.log_history, *trainer._itra_predictions], best)
    other = data[0] if said["datasets"] else None  # what sets of unknown origin are taken for
    found = {key: each._replace(data=trainer._itra_evaluated_data.get(key) or other) for key, each in found.items()}
    return CardFacts(
        name=name or (repo.split("/")[-1] if repo else folder),
        task=said["pipeline_tag"] or _task_of(unwrap_adapter(model)),
        problem_type=problem_type,
        labels=labels,
        location=repo or (folder if os.path.isabs(args.output_dir) else args.output_dir),
        adapter=str(getattr(peft_config.peft_type, "value", peft_config.peft_type)).lower() if peft_config else None,
        base_model=base,
        datasets=data,
        base_license=license_of(base.name, args.hub_token) if base and not said["license"] else None,
        said=said,
        tags=[*tags, *(getattr(model, "model_tags", None) or []), "generated_from_trainer"],
        evaluations=found,
        compactness=_compactness(found, state.log_history),
        step=state.global_step,
        progress=_progress(args, state),
        settings=_settings(trainer),
        hyperparameters=_hyperparameters(trainer),
        pictures=_draw_pictures(trainer, found, labels),
        versions={library: version(library) for library in libraries},
    )


def _sources(trainer: Any, model: Any, said: Mapping[str, Any]) -> tuple[HubSource | None, list[HubSource]]:
    """The base model and the data sets: those the user said, with what else is known of them, or those found."""
    base, data = base_model_of(model), dataset_of(trainer.train_dataset)
    if said["base_model"] and (base is None or base.name != said["base_model"]):
        base = HubSource(said["base_model"])
    found = [] if data is None else [data]
    return base, [data if data and data.name == name else HubSource(name) for name in said["datasets"]] or found


def _task_of(model: Any) -> str | None:
    tasks: Mapping[str, Any] = TASK_MAPPING
    return next((task for task in KINDS if type(model).__name__ in tasks[task].values()), None)


def evaluations(log_history: Sequence[Mapping[str, Any]], best_step: int | None) -> dict[str, Evaluation]:
    """The metrics of the model as it is now, for each evaluation set.

    That is the last pass after training; else, if the best checkpoint was loaded at the end, the pass at its step;
    else the last pass.

    Args:
        log_history: the Trainer's, and what `predict` returned after it.
        best_step: of the checkpoint that was loaded at the end of training, if one was.

    Returns:
        By the metrics' prefix, such as `eval`.
    """
    end = max((index for index, entry in enumerate(log_history) if "train_runtime" in entry), default=-1)
    found: dict[str, Evaluation] = {}
    for index, entry in enumerate(log_history):
        names = [key.removesuffix("_runtime") for key in entry if key.endswith("_runtime") and key != "train_runtime"]
        prefix = next((name for name in names if f"{name}_samples_per_second" in entry), None)
        if prefix is None or (index < end and best_step is not None and entry.get("step") != best_step):
            continue
        metrics = {
            key.removeprefix(f"{prefix}_"): float(value)
            for key, value in entry.items()
            if key.startswith(f"{prefix}_") and not SPEED.search(key) and isinstance(value, (int, float))
        }
        found[prefix] = Evaluation(metrics, entry.get("step"))
    return found


def _compactness(found: Mapping[str, Evaluation], log_history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of the first evaluation set that has them, as logged before the first step and as they are now."""
    start = {key: value for entry in log_history if entry.get("step") == 0 for key, value in entry.items()}
    for prefix, each in found.items():
        if names := [name for name in each.metrics if name.startswith(PREFIX)]:
            return {name[len(PREFIX) + 1 :]: (start.get(f"{prefix}_{name}"), each.metrics[name]) for name in names}
    return {}


def _progress(args: Any, state: Any) -> str:
    if not state.global_step:
        return "It has not been trained in this run."
    done = f"{state.global_step} of {state.max_steps} optimizer steps, {state.epoch or 0:.4g} epochs"
    if args.load_best_model_at_end and state.best_global_step:
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


def _draw_pictures(trainer: Any, found: Mapping[str, Evaluation], labels: Sequence[str]) -> dict[str, str]:
    """Draws the learning curves, and the features before and after training where evaluation took them.

    Of several evaluation sets the first one with labels is drawn whose last pass is the one in the card.
    """
    try:
        from ..reports import plots
    except ImportError as error:
        trainer._itra_warn_once(f"The model card has no pictures: {error}")
        return {}
    figures = {}
    if any(math.isfinite(entry.get("loss", math.nan)) for entry in trainer.state.log_history):
        figures["learning_curves"] = plots.learning_curves(trainer.state.log_history)
    evaluated = trainer._itra_evaluated
    for prefix, latest in evaluated.latest.items():
        if prefix not in found or found[prefix].step != evaluated.steps[prefix]:
            continue
        sets = {"before training": evaluated.before.get(prefix), "this model": latest}
        sets = {name: each for name, each in sets.items() if each is not None and each.counts.sum()}
        samples = {name: each.sample()[:2] for name, each in sets.items()}
        if "this model" in sets and all(np.isfinite(points).all() for points, _ in samples.values()):
            ratios = {name: each.compactness()["scatter_ratio"] for name, each in sets.items()}
            figures["feature_map"] = plots.feature_map(samples, labels, ratios=ratios)
            break
    paths = {name: f"figures/{name}.png" for name in figures}
    for name, figure in figures.items():
        path = Path(trainer.args.output_dir, paths[name])
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    return paths
