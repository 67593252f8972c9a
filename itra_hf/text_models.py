"""What every command does with a text classifier and its tokenizer before texts are turned into tokens."""

import os
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

logger = logging.get_logger(__name__)

POSITION_TABLES = ("position_embeddings", "position_embedding", "positions_embed", "embed_positions", "wpe", "pos_emb")


def expand_paths(args: Any, *names: str) -> None:
    """Puts the home folder for `~` at the start of fields that may hold a path; YAML files have no shell to do it."""
    for name in names:
        value = getattr(args, name)
        if isinstance(value, str):
            setattr(args, name, os.path.expanduser(value))


def ensure_padding(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Gives a tokenizer without padding token its end-of-sequence token for it, as decoders are fine-tuned.

    Raises:
        ValueError: it has neither.
    """
    if tokenizer.pad_token is not None:
        return
    if tokenizer.eos_token is None:
        raise ValueError(
            f"The tokenizer of {name} has neither pad_token nor eos_token, so texts can't be padded to one length. Set "
            "pad_token in its tokenizer_config.json, or name another tokenizer with tokenizer_name."
        )
    tokenizer.pad_token = tokenizer.eos_token


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
