"""What a model is wrapped in, what it returns, and how to run it without a trace."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel, is_compiled_module
from torch import Tensor, nn

from ..randomness import untouched_randomness


def unwrap(model: Any) -> nn.Module:
    """The model inside the wrappers of distributed training and compilation."""
    if not (hasattr(model, "module") or hasattr(model, "_orig_mod")):  # what any wrapper has
        return model  # at once, for accelerate goes through all modules
    return extract_model_from_parallel(model, keep_torch_compile=False)


def unwrap_adapter(model: Any) -> Any:
    """The model inside peft's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def logits_of(outputs: Any) -> Tensor | None:
    """The logits among a model's outputs: by their name, else the first tensor that is no loss; `None` without any."""
    named = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if named is not None:
        return named if isinstance(named, Tensor) else None
    if isinstance(outputs, Mapping):
        values = [value for name, value in outputs.items() if name != "loss"]
    else:
        values = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    return next((value for value in values if isinstance(value, Tensor) and value.dim() > 0), None)


def run_in_eval_mode(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
    """The model's outputs without dropout and gradient; modes, buffers and random numbers stay as they were."""
    with untouched_randomness(), kept_buffers(model), eval_mode(model), torch.no_grad():
        return model(**inputs)


@contextmanager
def kept_buffers(model: nn.Module, names: set[str] | None = None) -> Iterator[set[str]]:
    """Puts the buffers back, for some models count or remember in them what they have seen, in eval mode too.

    Args:
        model: of the buffers.
        names: of those to keep, for copies of all may be large; `None` for all.

    Yields:
        A set, which has the names of the buffers that were changed at the end.
    """
    kept = [
        (f"{path}.{name}", module, name, buffer, buffer._version, buffer.clone())
        for path, module in model.named_modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and (names is None or f"{path}.{name}" in names)
    ]
    changed: set[str] = set()
    try:
        yield changed
    finally:
        with torch.no_grad():
            for full_name, module, name, buffer, version, value in kept:
                if module._buffers[name] is not buffer or buffer._version != version:
                    changed.add(full_name)
                    buffer.copy_(value)
                    module._buffers[name] = buffer


def forget_compiled(model: nn.Module) -> None:
    """Has a compiled model compiled anew at its next call: code that is there already knows no hook that came later."""
    if any(is_compiled_module(module) for module in model.modules()):
        torch._dynamo.reset()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Takes dropout off; each module gets back the mode that it was in, for some may be frozen in eval mode."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def has_finite_weights(model: nn.Module) -> bool:
    """Whether all weights are finite; of sharded ones those of this process, for a collective would wait for others."""
    weights = (getattr(weight, "_local_tensor", weight) for weight in model.parameters())
    return all(bool(torch.isfinite(weight).all()) for weight in weights if weight.is_floating_point())
