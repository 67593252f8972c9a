"""What a model card says of a training run: the facts and pictures, as far as its Trainer's objects know."""

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from huggingface_hub import HfApi, is_offline_mode
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.file_download import repo_folder_name
from transformers.modelcard import TASK_MAPPING, extract_hyperparameters_from_trainer
from transformers.utils import logging

from ..config import AlignmentArguments
from ..config_checks import can_act
from ..features.averages import decay_in
from ..features.models import unwrap, unwrap_adapter
from ..reports.compactness import ClassStatistics
from ..reports.evaluation import PREFIX

logger = logging.get_logger(__name__)

KINDS = {
    "text-classification": "A text classifier",
    "image-classification": "An image classifier",
    "audio-classification": "An audio classifier",
}
LIBRARIES = ("itra_hf", "transformers", "torch", "datasets", "tokenizers", "accelerate")
OPEN = ("auto", None)  # settings that a run decides
REPORTS = ("eval_compactness", "gradient_noise_steps")  # settings that change nothing in training
SPEED = re.compile(r"_(runtime|samples_per_second|steps_per_second|model_preparation_time|jit_compilation_time)$")

HUB_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
HUB_DATA = re.compile(r"^hf://datasets/([^@]+)@([0-9a-f]{40})/")
PATIENCE = 5.0  # seconds for a question to the Hub that a card can do without


class HubSource(NamedTuple):
    """A model or data set on the Hub; what is not known of it is empty."""

    name: str  # such as `distilbert/distilbert-base-uncased`
    revision: str = ""  # the commit
    config: str = ""  # of a data set
    split: str = ""  # of a data set


UNKNOWN = HubSource("unknown")  # what model-index has for data that are not on the Hub


class Evaluation(NamedTuple):
    """One pass over an evaluation set."""

    metrics: dict[str, float]  # by name, without the prefix
    step: int | None  # the optimizer steps done by then
    data: HubSource = UNKNOWN  # the set, if it came from the Hub

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
    bare = unwrap_adapter(model)
    config, peft_config = getattr(bare, "config", None), getattr(model, "active_peft_config", None)
    names, problem_type = getattr(config, "id2label", None) or {}, getattr(config, "problem_type", None)
    labels = [] if problem_type == "regression" else [str(names[index]) for index in sorted(names)]
    folder = os.path.basename(os.path.abspath(args.output_dir))
    repo = trainer.hub_model_id or args.hub_model_id
    base, data = base_model_of(model), dataset_of(trainer.train_dataset)
    if said["base_model"]:
        base = _source(said["base_model"], base)
    found = evaluations([*state.log_history, *trainer._itra_predictions], _best_step(args, state))
    other = _source(said["datasets"][0], data) if said["datasets"] else UNKNOWN  # of sets of unknown origin
    sets = trainer._itra_evaluated_sets
    found = {prefix: each._replace(data=dataset_of(sets.get(prefix)) or other) for prefix, each in found.items()}
    return CardFacts(
        name=name or (repo or folder).split("/")[-1],
        task=said["pipeline_tag"] or _task_of(bare),
        problem_type=problem_type,
        labels=labels,
        location=repo or (folder if os.path.isabs(args.output_dir) else args.output_dir),
        adapter=str(getattr(peft_config.peft_type, "value", peft_config.peft_type)).lower() if peft_config else None,
        base_model=base,
        datasets=[_source(each, data) for each in said["datasets"]] or ([data] if data else []),
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
        versions={library: version(library) for library in (*LIBRARIES, *(["peft"] if peft_config else []))},
    )


def base_model_of(model: Any) -> HubSource | None:
    """The Hub model that this one was loaded from; `None` for a local folder or one built from a config.

    A config's name alone may be a path that is gone, or that of a config without weights, so weights in the Hub's
    cache have to confirm it; the commit is told only where the cache holds those of one alone.
    """
    name = getattr(getattr(unwrap_adapter(model), "config", None), "_name_or_path", None)
    if not name or os.path.exists(name) or not HUB_NAME.match(name):
        return None
    snapshots = Path(HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"), "snapshots")
    commits = {path.parent.name for kind in ("safetensors", "bin") for path in snapshots.glob(f"*/*.{kind}")}
    return HubSource(name, commits.pop() if len(commits) == 1 else "") if commits else None


def dataset_of(data: Any) -> HubSource | None:
    """The Hub data set that a split was loaded from, whatever was mapped or filtered since; `None` otherwise."""
    if not isinstance(data, (datasets.Dataset, datasets.IterableDataset)):
        return None
    found = {match.groups() for path in data.info.download_checksums or {} if (match := HUB_DATA.match(str(path)))}
    if len(found) != 1:
        return None
    (name, revision), config = found.pop(), data.info.config_name
    return HubSource(name, revision, "" if config in (None, "default") else config, str(data.split or ""))


def license_of(model_name: str, token: str | None) -> str | None:
    """The licence of a model on the Hub; `None` where it names none, or the Hub can't be asked."""
    if is_offline_mode():
        return None
    try:
        tags = HfApi(token=token).model_info(model_name, timeout=PATIENCE).tags or []
    except Exception as error:  # whatever the reason, the card is worth more than its licence line
        logger.warning(f"The licence of {model_name} is not in the card, for the Hub did not tell it: {error}")
        return None
    return next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), None)


def _source(name: str, found: HubSource | None) -> HubSource:
    """What the user named, with what else is known of it."""
    return found if found and found.name == name else HubSource(name)


def _task_of(model: Any) -> str | None:
    tasks: Mapping[str, Any] = TASK_MAPPING
    return next((task for task in KINDS if type(model).__name__ in tasks[task].values()), None)


def _best_step(args: Any, state: Any) -> int | None:
    """The optimizer steps behind the weights, where those of the best checkpoint were loaded at the end."""
    return state.best_global_step if args.load_best_model_at_end else None


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
    done = f"{state.global_step} of {_planned(state)} optimizer steps, {state.epoch or 0:.4g} epochs"
    if best := _best_step(args, state):
        done += f"; the weights are those after step {best}"
    return f"{done}."


def _planned(state: Any) -> int:
    """The steps that a run was planned for; one that resumed with a shorter plan has the steps of a longer one."""
    return max(state.max_steps, state.global_step)


def _settings(trainer: Any) -> dict[str, Any]:
    args = trainer.alignment_args
    if not hasattr(trainer, "_itra_aligner") or args.matching_weight == 0 or not trainer.state.global_step:
        return {}
    told = {"companion": trainer._itra_companion, "alignment": trainer._itra_aligner.matching_loss.alignment}
    names = [field.name for field in dataclasses.fields(AlignmentArguments) if field.name not in REPORTS]
    settings = {name: getattr(args, name) for name in names}
    settings = {name: value for name, value in settings.items() if can_act(name, {**settings, **told})}
    state = trainer.state
    told["companion_decay"] = f"{decay_in(None, state.global_step - 1, _planned(state)):.4g}"  # in the last step
    return settings | {name: f"{value} (auto)" for name, value in told.items() if settings.get(name, 0) in OPEN}


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
        sets = {"before training": evaluated.before.get(prefix, ClassStatistics()), "this model": latest}
        ratios = {name: each.compactness()["scatter_ratio"] for name, each in sets.items()}
        samples = {name: sets[name].sample()[:2] for name, ratio in ratios.items() if not math.isnan(ratio)}
        if "this model" in samples and prefix in found and found[prefix].step == evaluated.steps[prefix]:
            figures["feature_map"] = plots.feature_map(samples, labels, ratios=ratios)
            break
    folder = Path(trainer.args.output_dir, "figures")
    for name, figure in figures.items():
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png")
    return {name: f"figures/{name}.png" for name in figures}
