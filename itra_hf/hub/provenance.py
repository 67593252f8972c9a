"""Where a model and its data come from and how it did, as far as the objects of a training run know."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from huggingface_hub import HfApi, is_offline_mode
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.file_download import repo_folder_name
from transformers.utils import logging

from ..features.models import unwrap_adapter

logger = logging.get_logger(__name__)

HUB_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
WEIGHTS = ("*.safetensors", "*.bin")
PATIENCE = 5.0  # seconds for a question to the Hub that a card can do without
HUB_DATA = re.compile(r"^hf://datasets/([^@]+)@([0-9a-f]{40})/")
SPEED = re.compile(r"_(runtime|samples_per_second|steps_per_second|model_preparation_time|jit_compilation_time)$")


class HubSource(NamedTuple):
    """A model or data set on the Hub.

    Attributes:
        name: such as `distilbert/distilbert-base-uncased`.
        revision: the commit; empty if it is not known.
        config: of a data set; empty if it is not known.
        split: of a data set; empty if it is not known.
    """

    name: str
    revision: str = ""
    config: str = ""
    split: str = ""


class Evaluation(NamedTuple):
    """The metrics of one pass over an evaluation set.

    Attributes:
        metrics: by name, without the prefix.
        step: the optimizer steps done by then.
    """

    metrics: dict[str, float]
    step: int | None


def base_model_of(model: Any) -> HubSource | None:
    """The Hub model that this one was loaded from; `None` for a local folder or one built from a config.

    A config's name alone may be a path that is gone, or that of a config without weights, so weights in the Hub's
    cache have to confirm it; the commit is told only where the cache holds those of one alone.
    """
    config = getattr(unwrap_adapter(model), "config", None)
    name = getattr(config, "_name_or_path", None)
    if not name or os.path.exists(name) or not HUB_NAME.match(name):
        return None
    snapshots = Path(HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"), "snapshots")
    commits = {path.parent.name for pattern in WEIGHTS for path in snapshots.glob(f"*/{pattern}")}
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


def evaluations(log_history: Sequence[Mapping[str, Any]], best_step: int | None) -> dict[str, Evaluation]:
    """The metrics of the model as it is now, for each evaluation set.

    That is the last pass after training; else, if the best checkpoint was loaded at the end, the pass at its step;
    else the last pass.

    Args:
        log_history: the Trainer's.
        best_step: of the checkpoint that was loaded at the end of training, if one was.

    Returns:
        By the metrics' prefix, such as `eval`.
    """
    ends = [index for index, entry in enumerate(log_history) if "train_runtime" in entry]
    found: dict[str, Evaluation] = {}
    for index, entry in enumerate(log_history):
        prefix = _prefix(entry)
        in_training = not ends or index < ends[-1]
        if prefix is None or (ends and in_training and best_step is not None and entry.get("step") != best_step):
            continue
        found[prefix] = Evaluation(_metrics(entry, prefix), entry.get("step"))
    return found


def evaluation_of(metrics: Mapping[str, Any], step: int) -> dict[str, Evaluation]:
    """The metrics that `predict` returned after some steps, by their prefix."""
    prefix = _prefix(metrics)
    return {} if prefix is None else {prefix: Evaluation(_metrics(metrics, prefix), step)}


def _prefix(entry: Mapping[str, Any]) -> str | None:
    names = [key.removesuffix("_runtime") for key in entry if key.endswith("_runtime") and key != "train_runtime"]
    return next((name for name in names if f"{name}_samples_per_second" in entry), None)


def _metrics(entry: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {
        key.removeprefix(f"{prefix}_"): float(value)
        for key, value in entry.items()
        if key.startswith(f"{prefix}_") and not SPEED.search(key) and isinstance(value, (int, float))
    }
