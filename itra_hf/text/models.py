"""Text classifiers and their tokenizers: which one, loaded how, and how long its texts may be."""

import os
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from ..config import setting
from .data import Task
from .data_arguments import expand_paths
from .labels import quoted

logger = logging.get_logger(__name__)

POSITION_TABLES = ("position_embeddings", "position_embedding", "positions_embed", "embed_positions", "wpe", "pos_emb")


@dataclass
class ModelSource:
    """Where a model comes from."""

    model_name_or_path: str = field(metadata={"help": "A model on the Hub, or a folder."})
    cache_dir: str | None = setting("Where downloads are kept.")
    model_revision: str = setting("The branch, tag or commit on the Hub.", "main")
    token: str | None = setting("The Hub token; default: the one you logged in with.")
    trust_remote_code: bool = setting("Run code that comes with the model.", False)

    @property
    def loading(self) -> dict[str, Any]:
        """Keyword arguments of `from_pretrained`."""
        return {
            "cache_dir": self.cache_dir,
            "revision": self.model_revision,
            "token": self.token,
            "trust_remote_code": self.trust_remote_code,
        }


def check_model_folder(args: ModelSource) -> None:
    """Checks that a model's name is no path to nowhere, which the Hub would take for a wrong name.

    Raises:
        ValueError: it is.
    """
    name = args.model_name_or_path
    if (os.path.isabs(name) or name.startswith(("./", "../")) or name.count("/") > 1) and not os.path.exists(name):
        raise ValueError(f"model_name_or_path={name!r}: there is no such folder.")


@dataclass
class ModelArguments(ModelSource):
    """Which model to fine-tune, named as in the text-classification example of transformers."""

    tokenizer_name: str | None = setting("Its tokenizer, if it is another's.")
    ignore_mismatched_sizes: bool = setting("Replace a head that was trained for other labels.", False)
    language: str | None = setting("For the model card: the texts' language, like en.")
    license: str | None = setting(
        "For the model card: the model's licence, like apache-2.0; default: the base model's."
    )

    def __post_init__(self) -> None:
        """Completes paths, and checks the model's."""
        expand_paths(self, "model_name_or_path", "tokenizer_name", "cache_dir")
        check_model_folder(self)


def load_model(args: ModelArguments, task: Task) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads the classifier, with a head for the task's labels, and its tokenizer; see `load_tokenizer`.

    Raises:
        ValueError: the model has a head for another number of labels, which is not to be replaced.
    """
    tokenizer = load_tokenizer(args.tokenizer_name or args.model_name_or_path, args)
    saved = AutoConfig.from_pretrained(args.model_name_or_path, **args.loading)
    config = AutoConfig.from_pretrained(
        args.model_name_or_path,
        num_labels=len(task.label_names),
        id2label=dict(enumerate(task.label_names)),
        label2id={name: index for index, name in enumerate(task.label_names)},
        problem_type=task.problem_type,
        **args.loading,
    )
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id
    name, names = args.model_name_or_path, quoted(task.label_names)
    settings = {"config": config, "ignore_mismatched_sizes": args.ignore_mismatched_sizes, **args.loading}
    try:
        model = AutoModelForSequenceClassification.from_pretrained(name, **settings)
    except RuntimeError as error:
        if saved.num_labels == config.num_labels or "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError(
            f"{name} has a head for {saved.num_labels} labels, and the data have {config.num_labels}: {names}. "
            "Set ignore_mismatched_sizes=True to train a new one."
        ) from error
    before = list(saved.id2label.values())
    unnamed = [f"LABEL_{index}" for index in range(len(before))]
    if len(before) == len(task.label_names) and before not in (task.label_names, unnamed):
        logger.warning(f"{name} was trained for {quoted(before)}; its head goes on for {names}, in this order.")
    return model, tokenizer


def load_tokenizer(name: str, source: ModelSource) -> PreTrainedTokenizerBase:
    """Loads a tokenizer; one without padding token gets its end-of-sequence token for it, as decoders are fine-tuned.

    Raises:
        ValueError: it has neither.
    """
    tokenizer = AutoTokenizer.from_pretrained(name, **source.loading)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                f"The tokenizer of {name} has neither pad_token nor eos_token, so texts can't be padded to one length. "
                "Set pad_token in its tokenizer_config.json, or name another tokenizer with tokenizer_name."
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def fitting_length(asked: int, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> int:
    """`max_seq_length`, or what model and tokenizer take where that is less, which is said."""
    limits = {f"the positions of {type(model).__name__}": most_positions(model)}
    limits[f"the model_max_length of {type(tokenizer).__name__}"] = tokenizer.model_max_length
    for name, limit in limits.items():
        if limit is not None and limit < asked:
            logger.warning(f"max_seq_length={asked} is more than {name}: texts are cut to {limit} tokens.")
            asked = limit
    return asked


def most_positions(model: nn.Module) -> int | None:
    """How many tokens a model's table of positions has room for; `None` without one (relative, rotary positions)."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in POSITION_TABLES:
            # RoBERTa counts positions from beyond the padding's, BART from an offset of its own.
            first = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - first
    for name, buffer in model.named_buffers():
        if name.rpartition(".")[2] in POSITION_TABLES and buffer.dim() == 2:
            return len(buffer)
    return None
