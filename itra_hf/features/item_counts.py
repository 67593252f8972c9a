"""Whether a model's own loss takes the number of items in all batches of an optimizer step.

The Trainer believes it of every model whose `forward` has `**kwargs`, and then leaves the division by the accumulation
steps to the loss. Most classification heads take any keyword and divide by nothing but their own batch.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import reduce
from itertools import chain
from typing import Any

from torch import nn
from transformers import Trainer
from transformers.loss.loss_utils import LOSS_MAPPING, ForSequenceClassificationLoss

from .models import unwrap, unwrap_adapter

PACKAGE = __name__.partition(".")[0] + "."  # whose mixins pass the count on
ITEM_COUNT = "num_items_in_batch"
Method = tuple[type, str]


def takes_item_count(model: nn.Module) -> bool:
    """Whether the loss that `model` computes is normalised by `num_items_in_batch`.

    A model that says so itself (`accepts_loss_kwargs`) is believed. Of any other the source of `forward` tells: whether
    it names the count, or hands its keywords on to a loss, by itself or through what it calls on itself. Where a class
    outside of transformers hands them on to something else, the Trainer's belief stands. The sequence-classification
    loss of transformers takes the count for single labels alone, so it counts as one that does not.

    Args:
        model: unwrapped, but for an adapter.

    Returns:
        `True` also where there is no source to read, as the Trainer believes.
    """
    model = unwrap_adapter(model)
    declared = getattr(model, "accepts_loss_kwargs", None)
    if declared is not None:
        return bool(declared)
    default = LOSS_MAPPING.get(getattr(model, "loss_type", None) or "")
    if getattr(model, "_loss_function", default) is ForSequenceClassificationLoss:
        return False
    return _reaches_loss(type(model), "forward", model, set())


def _reaches_loss(owner: type, name: str, module: Any, seen: set[Method]) -> bool:
    """Whether the method that `owner` or a base of it defines hands its keywords on to a loss."""
    owner = next((base for base in owner.__mro__ if name in vars(base)), object)
    if owner is object or owner is nn.Module or (owner, name) in seen:
        return False
    seen.add((owner, name))
    try:
        method = inspect.unwrap(vars(owner)[name])
        source = textwrap.dedent(inspect.getsource(method))
        keywords = inspect.getfullargspec(method).varkw
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError):
        return True
    if ITEM_COUNT in source:
        return True
    return any(_leads_to_loss(called, owner, module, seen) for called in _calls_with(tree, keywords))


def _calls_with(tree: ast.AST, keywords: str | None) -> Iterator[str]:
    """What is called with `**keywords`, alone or among others, as it is written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            handed = [ast.walk(keyword.value) for keyword in node.keywords if keyword.arg is None]
            if any(isinstance(each, ast.Name) and each.id == keywords for each in chain.from_iterable(handed)):
                yield ast.unparse(node.func)


def _leads_to_loss(called: str, owner: type, module: Any, seen: set[Method]) -> bool:
    target, _, name = called.rpartition(".")
    if any(part in name.lower() for part in ("loss", "criterion", "entropy")):
        return True
    if target.startswith("super("):
        mro = type(module).__mro__
        later = next((each for each in mro[mro.index(owner) + 1 :] if name in vars(each)), object)
        return _reaches_loss(later, name, module, seen)
    place, _, path = called.partition(".")
    inner = reduce(lambda each, part: getattr(each, part, None), path.split("."), module) if place == "self" else None
    if isinstance(inner, nn.Module):
        return _reaches_loss(type(inner), "forward", inner, seen)
    if target == "self" and callable(inner):
        return _reaches_loss(type(module), name, module, seen)
    return not owner.__module__.startswith("transformers.")


def have_losses_divided(trainer: Any) -> None:
    """Has a Trainer divide its loss by the accumulation steps, where no loss divides by the number of items.

    That is a `compute_loss` of a user's own, or the model's loss.

    Args:
        trainer: any Trainer, as it was just built.
    """
    scaled = getattr(trainer, "loss_is_scaled_for_ga", None) is True  # it divides by itself
    if trainer.model_accepts_loss_kwargs and not scaled:
        divided = computes_with_item_count(type(trainer)) or takes_item_count(unwrap(trainer.model))
        trainer.model_accepts_loss_kwargs = divided


def computes_with_item_count(trainer: type[Trainer]) -> bool:
    """Whether a `compute_loss` of a user's own, at or above this class, divides by the count itself.

    Handing it on to another `compute_loss` is not using it.
    """
    own = [vars(each)["compute_loss"] for each in trainer.__mro__ if "compute_loss" in vars(each)]
    return any(_uses_count(each) for each in own if not each.__module__.startswith(("transformers.", PACKAGE)))


def _uses_count(function: Any) -> bool:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError):
        return True
    handed_on = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("compute_loss")
        for inner in ast.walk(node)
    }
    named = [node for node in ast.walk(tree) if getattr(node, "id", getattr(node, "value", None)) == ITEM_COUNT]
    return any(id(node) not in handed_on for node in named)
