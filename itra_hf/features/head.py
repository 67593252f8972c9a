"""Finds the module whose input is the feature: by its name, or as the linear layer whose output is the logits."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .models import unwrap_adapter
from .pooling import POOLINGS, pool
from .tap import FeatureTap

Run = Callable[[], tuple[Tensor | None, Mapping[str, Any]]]  # runs the model once; its logits, if any, and inputs


def build_tap(model: nn.Module, feature: str, run: Run) -> FeatureTap:
    """Finds the module that `feature` names and taps it, after trial passes that check the choice.

    Args:
        model: the model, unwrapped.
        feature: `auto`, `cls`, `mean`, `last` or a module's name.
        run: makes a trial pass, in eval mode and without gradient; returns its logits and inputs.

    Returns:
        The tap, on the model.

    Raises:
        ValueError: there is no such module, it has no usable input, or (`auto`) no linear layer's output
            is the logits; the message says which settings work for this model.
    """
    pad_token_id = getattr(getattr(model, "config", None), "pad_token_id", None)
    try:
        return _build_tap(model, feature, run, pad_token_id)
    except ValueError as error:
        others = [each for each in ("auto", *POOLINGS) if each != feature and _works(model, each, run, pad_token_id)]
        raise ValueError(f"{error} {_advice(others)}") from error


def _advice(settings: list[str]) -> str:
    named = "the name of the module whose input to align, if that has one row an example"
    if not settings:
        return (
            "Neither 'auto' nor pooled hidden states give one feature an example here, so this head can't be aligned "
            f"as it is: ITRAConfig(matching_weight=0) trains it without alignment; feature may also be {named}."
        )
    work = " or ".join(map(repr, settings))
    return (
        f"What works for this model: feature={work}, or {named}; ITRAConfig(matching_weight=0) trains without "
        "alignment."
    )


def _works(model: nn.Module, feature: str, run: Run, pad_token_id: int | None) -> bool:
    try:
        _build_tap(model, feature, run, pad_token_id).remove()
    except Exception:  # whatever it is, it doesn't work
        return False
    return True


def _build_tap(model: nn.Module, feature: str, run: Run, pad_token_id: int | None) -> FeatureTap:
    if feature == "auto":
        return FeatureTap(find_head(model, run, pad_token_id), "input", pad_token_id)
    if feature in POOLINGS:
        tap = FeatureTap(_backbone(model, feature), feature)
    else:
        modules = dict(model.named_modules())
        if feature not in modules or feature == "":
            raise ValueError(
                f"feature={feature!r} is neither 'auto', 'cls', 'mean', 'last' nor the name of a module of "
                f"{type(model).__name__}; its outer modules are "
                f"{', '.join(name for name, _ in model.named_children())}."
            )
        tap = FeatureTap(modules[feature], "input", pad_token_id)
    # One feature a token is fine where the features get pooled, or where the model scores every token itself.
    per_token = feature in POOLINGS or _holds_head(tap.module, model, run, pad_token_id)
    try:
        with tap.recording():
            logits, inputs = run()
        _check_shape(tap, inputs, _rows(inputs) if logits is None else len(logits), feature, per_token)
    except Exception:
        tap.remove()
        raise
    return tap


def find_head(model: nn.Module, run: Run, pad_token_id: int | None = None) -> nn.Module:
    """The last linear layer that ran: the one whose output is the logits.

    Adapters wrap a linear layer in another; the outermost, which finishes last, is the one taken.

    Args:
        model: the model, unwrapped.
        run: runs the model once, see `build_tap`.
        pad_token_id: see `pool`.

    Returns:
        The module whose input is the feature.

    Raises:
        ValueError: no linear layer's output is the logits.
    """
    linears = [module for module in model.modules() if isinstance(getattr(module, "out_features", None), int)]
    labels = getattr(getattr(model, "config", None), "num_labels", None)
    # The outputs of all linear layers together may be far more than what training keeps.
    likely = [module for module in linears if module.out_features == labels]
    for modules in (likely, linears) if likely else (linears,):
        finished, logits, inputs = _linear_outputs(modules, run)
        for module, output in reversed(finished):
            scores = pool(output, inputs, "input", pad_token_id) if output.dim() in (2, 3) else None
            if scores is not None and logits is not None and _are_logits(scores, logits):
                return module
    if logits is None:
        raise ValueError(f"{type(model).__name__} returns no logits, so there is no 'auto' feature.")
    if not torch.isfinite(logits).all():
        raise ValueError(
            f"{type(model).__name__} gives logits that are not finite for the first batch: look for bad values in the "
            "training data or in the weights."
        )
    raise ValueError(
        f"{type(model).__name__} has no linear layer whose output is its logits {list(logits.shape)}, so there is no "
        "'auto' feature."
    )


def _linear_outputs(
    modules: list[nn.Module], run: Run
) -> tuple[list[tuple[nn.Module, Tensor]], Tensor | None, Mapping[str, Any]]:
    finished: list[tuple[nn.Module, Tensor]] = []

    def on_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            finished.append((module, output))

    handles = [module.register_forward_hook(on_output) for module in modules]
    try:
        logits, inputs = run()
    finally:
        for handle in handles:
            handle.remove()
    return finished, logits, inputs


def _are_logits(scores: Tensor, logits: Tensor) -> bool:
    """Whether the model returns these scores: as they are, without a column of one, or as (log) probabilities."""
    if len(scores) != len(logits) or scores.numel() != logits.numel():
        return False
    scores, logits = scores.reshape(logits.shape), logits.float()
    tolerance = 1e-3 * float(logits.abs().max()) + 1e-6
    candidates = (scores, scores.softmax(-1), scores.log_softmax(-1), scores.sigmoid())
    return any(float((each.float() - logits).abs().max()) <= tolerance for each in candidates)


def _rows(inputs: Mapping[str, Any]) -> int:
    return next((len(value) for value in inputs.values() if isinstance(value, Tensor) and value.dim() > 0), 0)


def _backbone(model: nn.Module, feature: str) -> nn.Module:
    inner = unwrap_adapter(model)
    backbone = getattr(inner, "base_model", inner)
    if backbone is inner or not isinstance(backbone, nn.Module):
        raise ValueError(
            f"feature={feature!r} pools the hidden states of a backbone, which {type(inner).__name__} does not name."
        )
    return backbone


def _holds_head(module: nn.Module, model: nn.Module, run: Run, pad_token_id: int | None) -> bool:
    try:
        head = find_head(model, run, pad_token_id)
    except ValueError:
        return False
    return any(inner is head for inner in module.modules())


def _check_shape(tap: FeatureTap, inputs: Mapping[str, Any], rows: int, feature: str, per_token: bool) -> None:
    captured = tap.captured
    if not isinstance(captured, Tensor):
        raise ValueError(f"feature={feature!r}: the model ran without that module, or gave it no tensor.")
    if not (captured.dim() == 2 or (captured.dim() == 3 and per_token)) or len(captured) != rows:
        raise ValueError(
            f"feature={feature!r} gives a tensor of shape {list(captured.shape)} for {rows} examples, not one "
            "feature an example."
        )
    tap.features(inputs)
