"""One forward pass over the primary and the companion batch, seen from outside as the primary batch's alone."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from .features import FeatureTap


class PairedForward:
    """Stands in for the model inside a `compute_loss`, and runs the companion batch along.

    Called like the model, it returns what the model would return for the primary batch: outputs are cut to
    the primary rows, and the model's own loss counts them alone. So any `compute_loss` that calls the model
    it is given works unchanged. Everything else (attributes, `train()`, `module`) is the model's.

    The two batches run as one, unless the companion needs no gradient, the batches can't be concatenated, or
    the model's own loss is not the standard one: then as two passes.

    Args:
        model: the model as the Trainer wrapped it.
        companion: the companion batch, labels included.
        tap: on the model's feature.
        label_names: the model's label arguments.
        companion_gradient: whether gradients flow through the companion batch.
        own_loss_is_standard: whether the model's own loss is transformers' sequence-classification loss.

    Attributes:
        features: `[n, dim]` primary features, after a call.
        companion_features: `[m, dim]`.
    """

    def __init__(
        self,
        model: nn.Module,
        companion: Mapping[str, Any],
        tap: FeatureTap,
        label_names: Sequence[str],
        companion_gradient: bool = True,
        own_loss_is_standard: bool = True,
    ) -> None:
        self.model = model
        self.companion = companion
        self.tap = tap
        self.label_names = label_names
        self.companion_gradient = companion_gradient
        self.own_loss_is_standard = own_loss_is_standard
        self.features: Tensor | None = None
        self.companion_features: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        """Runs the model as it would run on the primary batch, and fills the attributes."""
        if args:
            inputs.update(zip(inspect.signature(_unwrap(self.model).forward).parameters, args, strict=False))
        if self.features is not None:
            return self.model(**inputs)  # a second call, as in R-Drop: the companion has run already
        labels = {name: inputs[name] for name in self.label_names if inputs.get(name) is not None}
        unlabelled = {name: value for name, value in inputs.items() if name not in labels}
        both = concatenate(unlabelled, self.companion) if self.companion_gradient else None
        if both is None or (labels and not self.own_loss_is_standard):
            return self._two_passes(inputs, labels)
        rows = batch_rows(unlabelled)
        with self.tap.recording():
            outputs = self.model(**both)
        features = self.tap.features(both)
        self.features, self.companion_features = features[:rows], features[rows:]
        outputs = cut_rows(outputs, rows, batch_rows(both))
        if not labels:
            return outputs
        return _with_loss(outputs, standard_loss(_unwrap(self.model), _logits(outputs), labels[next(iter(labels))]))

    def _two_passes(self, inputs: dict[str, Any], labels: Mapping[str, Any]) -> Any:
        # A model with a loss of its own may insist on labels; otherwise the companion runs without.
        wanted = set(inputs) if labels and not self.own_loss_is_standard else set(inputs) - set(self.label_names)
        companion = {name: value for name, value in self.companion.items() if name in wanted}
        companion |= {name: inputs[name] for name in wanted - set(companion) if not isinstance(inputs[name], Tensor)}
        with self.tap.recording(), torch.set_grad_enabled(self.companion_gradient and torch.is_grad_enabled()):
            self.model(**companion)
        self.companion_features = self.tap.features(companion)
        with self.tap.recording():
            outputs = self.model(**inputs)
        self.features = self.tap.features(inputs)
        return outputs


def batch_rows(batch: Mapping[str, Any]) -> int:
    """How many examples a batch holds: the first dimension of its first tensor.

    Raises:
        ValueError: it holds no tensor with a dimension.
    """
    for value in batch.values():
        if isinstance(value, Tensor) and value.dim() > 0:
            return len(value)
    raise ValueError(f"The batch holds no tensor with one row an example; it has: {', '.join(batch)}.")


def concatenate(primary: Mapping[str, Any], companion: Mapping[str, Any]) -> dict[str, Any] | None:
    """Both batches as one, primary rows first; values that are no tensors are the primary batch's.

    Returns:
        The joint batch, or `None` where a tensor of the primary batch has no counterpart of matching shape.
    """
    both: dict[str, Any] = {}
    for name, value in primary.items():
        if isinstance(value, Tensor):
            other = companion.get(name)
            if not isinstance(other, Tensor) or value.dim() == 0 or other.shape[1:] != value.shape[1:]:
                return None
            value = torch.cat([value, other])
        both[name] = value
    return both


def cut_rows(value: Any, rows: int, total: int) -> Any:
    """Cuts every tensor with `total` rows, however deeply nested in outputs, to its first `rows` rows."""
    if isinstance(value, Tensor):
        return value[:rows] if value.dim() > 0 and len(value) == total else value
    if isinstance(value, Mapping):
        return type(value)(**{key: cut_rows(item, rows, total) for key, item in value.items()})
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(cut_rows(item, rows, total) for item in value)
    return value


def standard_loss(model: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
    """The sequence-classification loss of transformers, of the problem type that the config names or implies."""
    return ForSequenceClassificationLoss(labels, logits, model.config)


def has_standard_loss(model: nn.Module, outputs: Any, labels: Tensor) -> bool:
    """Whether the loss that a model returned is `standard_loss` of its logits."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs[0]
    if loss is None or not hasattr(model, "config"):
        return False
    try:
        expected = standard_loss(model, outputs["logits"] if isinstance(outputs, Mapping) else outputs[1], labels)
    except (AttributeError, RuntimeError, ValueError, TypeError):
        return False  # logits and labels that the standard loss can't even take
    return bool(torch.allclose(loss.float(), expected.float(), rtol=1e-3, atol=1e-6))


def find_labels(batch: Mapping[str, Any], label_names: Sequence[str]) -> Tensor | None:
    """The first of a model's label arguments that a batch holds."""
    return next((batch[name] for name in label_names if batch.get(name) is not None), None)


@torch.no_grad()
def run_in_eval_mode(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
    """The model's outputs without dropout and without gradient; the mode it was in is restored."""
    training = model.training
    model.eval()
    try:
        return model(**inputs)
    finally:
        model.train(training)


def _logits(outputs: Any) -> Tensor:
    return outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]


def _with_loss(outputs: Any, loss: Tensor) -> Any:
    if isinstance(outputs, Mapping):
        rest = {name: value for name, value in outputs.items() if name != "loss"}
        return type(outputs)(**{"loss": loss, **rest})
    return (loss, *outputs)


def _unwrap(model: Any) -> nn.Module:
    while isinstance(getattr(model, "module", None), nn.Module):
        model = model.module
    return getattr(model, "_orig_mod", model)
