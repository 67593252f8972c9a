"""Where a model and its data come from, as far as the objects of a training run know."""

import os
import re
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
HUB_DATA = re.compile(r"^hf://datasets/([^@]+)@([0-9a-f]{40})/")
PATIENCE = 5.0  # seconds for a question to the Hub that a card can do without


class HubSource(NamedTuple):
    """A model or data set on the Hub; what is not known of it is empty."""

    name: str  # such as `distilbert/distilbert-base-uncased`
    revision: str = ""  # the commit
    config: str = ""  # of a data set
    split: str = ""  # of a data set


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
