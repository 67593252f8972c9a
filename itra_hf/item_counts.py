"""Whether a model's own loss takes the number of items in all batches of an optimizer step.

The Trainer believes it of every model whose `forward` has `**kwargs`, and then leaves the division by the accumulation
steps to the loss. Most classification heads take any keyword and divide by nothing but their own batch.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers.loss.loss_utils import LOSS_MAPPING, ForSequenceClassificationLoss

from .models import unwrap_adapter

ITEM_COUNT = "num_items_in_batch"
Method = tuple[type, str]


def takes_item_count(model: nn.Module) -> bool:
    """Whether the loss that `model` computes is normalised by `num_items_in_batch`.

    A model that says so itself (`accepts_loss_kwargs`) is believed. Of any other the source of `forward` tells: whether
    it names the count, or hands its keywords on to a loss, by itself or through what it calls on itself. The
    sequence-classification loss of transformers takes it for single labels alone, so it counts as one that does not.

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
    """What is called with `**keywords`, as it is written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and any(
            keyword.arg is None and isinstance(keyword.value, ast.Name) and keyword.value.id == keywords
            for keyword in node.keywords
        ):
            yield ast.unparse(node.func)


def _leads_to_loss(called: str, owner: type, module: Any, seen: set[Method]) -> bool:
    target, _, name = called.rpartition(".")
    if "loss" in name.lower() or "criterion" in name.lower():
        return True
    if target.startswith("super("):
        later = type(module).__mro__[type(module).__mro__.index(owner) + 1 :]
        return bool(later) and _reaches_loss(_joined(later, name), name, module, seen)
    if target != "self":
        return False
    inner = getattr(module, name, None)
    if isinstance(inner, nn.Module):
        return _reaches_loss(type(inner), "forward", inner, seen)
    return callable(inner) and _reaches_loss(type(module), name, module, seen)


def _joined(classes: tuple[type, ...], name: str) -> type:
    """The first of the classes that defines a method of that name."""
    return next((each for each in classes if name in vars(each)), object)
