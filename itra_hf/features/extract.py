"""The features of whole data sets, for measurements and pictures."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..batches import drop_column, find_labels
from .head import build_tap
from .models import eval_mode, forget_compiled, logits_of, run_in_eval_mode


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
    device = next(model.parameters()).device
    moved = (
        {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        for batch in batches
    )
    found = [(rows.cpu(), labels.cpu()) for _, rows, labels in tapped_batches(model, moved, [label_name], feature)]
    features, labels = (torch.cat(each).numpy() for each in zip(*found, strict=True))
    return features, labels


def tapped_batches(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    label_names: Sequence[str],
    feature: str = "auto",
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
    """Runs a model in eval mode over batches, without their labels.

    Args:
        model: any classifier, unwrapped.
        batches: on the model's device.
        label_names: its label arguments.
        feature: see `build_tap`.
        context: what each pass runs in, such as autocast.

    Yields:
        The tapped module, `[batch, dim]` float32 features, and labels.

    Raises:
        ValueError: a batch without labels, or see `build_tap`.
    """
    tap = None
    try:
        for batch in batches:
            labels = drop_column(find_labels(batch, label_names))
            if labels is None:
                raise ValueError(f"Features are taken with labels, but a batch has only {', '.join(batch)}.")
            inputs = {name: value for name, value in batch.items() if name not in label_names}

            def run(inputs: Mapping[str, Any] = inputs) -> tuple[Tensor | None, Mapping[str, Any]]:
                return logits_of(model(**inputs)), inputs

            with eval_mode(model), context():
                tap = tap or build_tap(model, feature, run)
                with tap.recording():
                    run()
            yield tap.module, tap.features(inputs).float(), labels
    finally:
        if tap is not None:
            tap.remove()


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
