"""The features of whole data sets, for measurements and pictures."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .head import build_tap
from .models import forget_compiled, logits_of, run_in_eval_mode


@torch.no_grad()
def extract_features(
    model: nn.Module, batches: Iterable[Mapping[str, Any]], feature: str = "auto", label_name: str = "labels"
) -> tuple[np.ndarray, np.ndarray]:
    """The features and labels of a whole data set, in eval mode.

    Args:
        model: any classifier, trained with alignment or not.
        batches: a data loader, such as `trainer.get_eval_dataloader()`.
        feature: see `build_tap`.
        label_name: the batches' labels.

    Returns:
        `[n, dim]` float32 features and the `n` labels.

    Raises:
        ValueError: see `build_tap`.
    """
    training, device = model.training, next(model.parameters()).device
    features, labels, tap = [], [], None
    model.eval()
    try:
        for batch in batches:
            labels.append(batch[label_name].cpu().numpy())
            inputs = {key: value for key, value in batch.items() if key != label_name}
            inputs = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in inputs.items()}

            def run(inputs: Mapping[str, Any] = inputs) -> tuple[Tensor | None, Mapping[str, Any]]:
                return logits_of(model(**inputs)), inputs

            tap = tap or build_tap(model, feature, run)
            with tap.recording():
                run()
            features.append(tap.features(inputs).float().cpu().numpy())
    finally:
        model.train(training)
        if tap is not None:
            tap.remove()
    return np.concatenate(features), np.concatenate(labels)


@contextmanager
def collected_features(
    model: nn.Module, inputs: Mapping[str, Any], feature: str = "auto"
) -> Iterator[list[np.ndarray]]:
    """Collects the features of every pass that a model makes meanwhile.

    Args:
        model: any classifier, unwrapped.
        inputs: of a trial pass, on the model's device.
        feature: see `build_tap`.

    Yields:
        A list that gets `[batch, dim]` float32 features for each pass.

    Raises:
        FloatingPointError: the trial pass gives logits that are not finite.
        ValueError: see `build_tap`.
    """
    found: list[np.ndarray] = []

    def run() -> tuple[Tensor | None, Mapping[str, Any]]:
        logits = logits_of(run_in_eval_mode(model, inputs))
        if logits is not None and not torch.isfinite(logits).all():
            raise FloatingPointError("the model's logits are not finite")
        return logits, inputs

    forget_compiled(model)
    tap = build_tap(model, feature, run)

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        found.append(tap.features(kwargs).detach().float().cpu().numpy())

    hook = model.register_forward_hook(keep, with_kwargs=True)
    try:
        with tap.recording():
            yield found
    finally:
        hook.remove()
        tap.remove()
