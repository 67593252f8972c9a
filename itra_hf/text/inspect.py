"""The job behind `itra-hf inspect`: how compact the features of any fine-tuned classifier are, and their picture."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from accelerate import PartialState
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, PreTrainedTokenizerBase
from transformers.utils import logging

from ..config import setting
from ..features.extract import extract_features
from ..reports.compactness import compactness
from .data import DataArguments, Task, encode_labels, infer_task, load_splits, subset, tokenize
from .data_arguments import expand_paths
from .labels import INTEGER
from .models import ModelSource, check_model_folder, fitting_length, load_tokenizer

logger = logging.get_logger(__name__)

RESULTS_NAME = "compactness.json"
ADAPTER_CONFIG = "adapter_config.json"


@dataclass
class InspectionArguments(ModelSource):
    """Which fine-tuned classifier to inspect, and how."""

    output_dir: str = setting("Where the table and the pictures go.", "inspection")
    feature: str = setting("As in training: 'auto', 'cls', 'mean', 'last' or a module's name.", "auto")
    projection: Literal["pca", "tsne", "umap"] = setting(
        "How the map is drawn: 'pca', 'tsne', or 'umap' if umap-learn is installed.", "pca"
    )
    batch_size: int = setting("Texts that run at one time, >= 1.", 32)
    seed: int = setting("Of random subsets and of the projection.", 42)
    use_cpu: bool = setting("Stay on the CPU where there is an accelerator.", False)

    def __post_init__(self) -> None:
        """Checks the fields, and completes paths."""
        expand_paths(self, "model_name_or_path", "output_dir", "cache_dir")
        check_model_folder(self)
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size!r} must be at least 1.")


def inspect_model(args: InspectionArguments, data_args: DataArguments) -> pd.DataFrame:
    """Measures and draws the features of each split that is given; writes `compactness.json` and the pictures.

    Args:
        args: which model.
        data_args: which data, read as for training. Their labels are looked up in the model's own label names.

    Returns:
        The figures of `compactness`, a column a split.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: data that have no class labels, or labels that the model does not know.
    """
    splits = load_splits(data_args, args.cache_dir, args.token)
    task = infer_task(data_args, splits["train"])
    if task.problem_type != "single_label_classification":
        raise ValueError(f"Compactness needs one class a text; these data are {task.problem_type}.")
    model, tokenizer, names = _load(args, task)
    longest = fitting_length(data_args.max_seq_length, model, tokenizer)
    features: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, data in splits.items():
        # Labels first, so that messages count the file's rows
        data = subset(encode_labels(data, name, task, data_args), data_args.most_samples[name], args.seed)
        if "labels" not in data.column_names:
            logger.warning(f"The {name} data have no labels, so they are left out.")
            continue
        data = tokenize(data, tokenizer, task, longest, data_args.preprocessing_num_workers)
        loader = DataLoader(data, args.batch_size, collate_fn=DataCollatorWithPadding(tokenizer))
        features[name] = extract_features(model, loader, args.feature)
    figures = {name: compactness(*pair) for name, pair in features.items()}
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    finite = {
        name: {key: value if math.isfinite(value) else None for key, value in each.items()}
        for name, each in figures.items()
    }
    Path(args.output_dir, RESULTS_NAME).write_text(json.dumps(finite, indent=2) + "\n", encoding="utf-8")
    _draw(args, features, names)
    return pd.DataFrame(figures)


def _load(args: InspectionArguments, task: Task) -> tuple[Any, PreTrainedTokenizerBase, list[str]]:
    """The model, its tokenizer and its label names; `task` gets the names by which the data call its classes."""
    name = args.model_name_or_path
    tokenizer = load_tokenizer(name, args)
    names = task.label_names
    if os.path.isfile(os.path.join(name, ADAPTER_CONFIG)):
        try:
            from peft import AutoPeftModelForSequenceClassification
        except ImportError as error:
            raise ValueError(f"{name} is an adapter; to load it, pip install peft.") from error
        model = AutoPeftModelForSequenceClassification.from_pretrained(name, num_labels=len(names), **args.loading)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(name, **args.loading)
        names = _match_labels(task, model.config.id2label, name)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model.to(PartialState(cpu=args.use_cpu).device), tokenizer, names


def _match_labels(task: Task, id2label: dict[int, str], model_name: str) -> list[str]:
    """Makes `task` call the classes as the data do, in the model's order; returns the names to show.

    The data may name them as the model does, or by its class ids, if its names aren't integers; a model without names
    takes those of the data.

    Raises:
        ValueError: the model has another number of classes, and no names to go by.
    """
    known, found = [id2label[index] for index in sorted(id2label)], task.label_names
    if known == [f"LABEL_{index}" for index in range(len(known))] and not set(found) <= set(known):
        if len(known) != len(found):
            raise ValueError(
                f"{model_name} has {len(known)} classes without names, and the data have {len(found)}: "
                f"{', '.join(found)}."
            )
        return found
    # Where the model's names are numbers themselves, other numbers are unknown labels, not ids.
    by_id = not set(found) <= set(known) and all(map(str.isdecimal, found)) and not all(map(INTEGER.fullmatch, known))
    task.label_names = [str(index) for index in range(len(known))] if by_id else known
    return known


def _draw(args: InspectionArguments, features: dict[str, tuple[np.ndarray, np.ndarray]], names: list[str]) -> None:
    try:
        from ..reports import plots
    except ImportError as error:
        logger.warning(f"No pictures were drawn: {error}")
        return
    plots.feature_map(features, names, args.projection, args.seed).savefig(Path(args.output_dir, "feature_map.png"))
    plots.class_scatter(features, names).savefig(Path(args.output_dir, "class_scatter.png"))
