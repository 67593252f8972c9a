"""One forward pass over the primary and the companion batch, seen from outside as the primary batch's alone."""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from ..batches import concatenate, cut_rows, find_labels
from .averages import AveragedWeights
from .models import logits_of, unwrap, unwrap_adapter
from .tap import FeatureTap


class PairedForward:
    """The forward pass of a `compute_loss`, which runs the companion batch along with the primary one.

    The two batches run as one where `together` says so, they can be concatenated, and the model's own loss is the
    standard one or not asked for: else as two passes. A companion that runs through averaged weights has a pass of its
    own, without dropout and gradient. (Layers that mix the examples of a batch, such as batch normalisation, see both
    batches where these run as one.)

    Args:
        model: the model as the Trainer wrapped it.
        primary: the primary batch as it was collated, labels included.
        companion: the companion batch, labels included; `None` where it is part of the primary batch already.
        prepare: given the first call's arguments, returns the tap on the model's feature, and whether the model's
            own loss is transformers' sequence-classification loss.
        label_names: the model's label arguments.
        rows: how many examples the primary batch has.
        together: whether the batches may run as one; alike on all processes, which must run as many passes.
        averaged: the weights that the companion batch runs through; `None` for the model's own, with gradient.

    Attributes:
        features: `[n, dim]` primary features, after a call.
        companion_features: `[m, dim]`.
        captured: the tapped tensor that the primary features come from, primary rows first.
        changed: the model's arguments that `compute_loss` made of the primary batch. Where one is no column, the
            companion does not run.
        own_loss: whether a loss of the model's own made the companion learn in a pass of its own.
    """

    def __init__(
        self,
        model: nn.Module,
        primary: Any,
        companion: Mapping[str, Any] | None,
        prepare: Callable[[Mapping[str, Any]], tuple[FeatureTap, bool]],
        label_names: Sequence[str],
        rows: int,
        together: bool = True,
        averaged: AveragedWeights | None = None,
    ) -> None:
        self.model = model
        self.primary = dict(primary) if isinstance(primary, Mapping) else {}  # which compute_loss may change
        self.companion = companion
        self.changed: set[str] = set()
        self.prepare = prepare
        self.label_names = label_names
        self.rows = rows
        self.together = together
        self.averaged = averaged
        self.learning = torch.is_grad_enabled()
        self.own_loss = False
        self.features: Tensor | None = None
        self.companion_features: Tensor | None = None
        self.captured: Tensor | None = None

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        """Runs the model as it would run on the primary batch, and fills the attributes.

        Returns:
            The outputs for the primary batch: cut to its rows, and with the model's own loss of these alone.
        """
        named = self._named(args)
        if named is None or self.features is not None or torch.is_grad_enabled() != self.learning:
            # A second call, as in R-Drop, or one for a target without gradient.
            return self.model(*args, **inputs)
        inputs = {**named, **inputs}
        tap, own_loss_is_standard = self.prepare(inputs)
        if self.companion is None:
            return self._one_pass(tap, inputs)
        labels = find_labels(inputs, self.label_names)
        self.changed = self._made_anew(inputs)
        if self.changed - set(self.companion):  # what the companion's would be is not known
            return self._one_pass(tap, inputs)
        own_loss = labels is not None and not own_loss_is_standard
        if self.averaged is not None:
            return self._two_passes(tap, inputs, own_loss)
        unlabelled = {name: value for name, value in inputs.items() if name not in self.label_names}
        both = concatenate(unlabelled, self._companion_inputs(inputs, False), self.rows) if self.together else None
        if both is None or own_loss:
            self.own_loss = own_loss
            return self._two_passes(tap, inputs, own_loss)
        outputs, features, self.captured = _record(self.model, tap, both)
        if features is not None:
            self.features, self.companion_features = features[: self.rows], features[self.rows :]
        outputs = cut_rows(outputs, self.rows, 2 * self.rows if features is None else len(features))
        return outputs if labels is None else _with_loss(outputs, standard_loss(unwrap(self.model), outputs, labels))

    def _one_pass(self, tap: FeatureTap, inputs: dict[str, Any]) -> Any:
        outputs, self.features, self.captured = _record(self.model, tap, inputs)
        return outputs

    def _named(self, args: tuple[Any, ...]) -> dict[str, Any] | None:
        """Positional arguments by name; `None` where the model doesn't name them."""
        if not args:
            return {}
        parameters = inspect.signature(unwrap_adapter(unwrap(self.model)).forward).parameters.values()
        names = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
        return dict(zip(names, args, strict=False)) if len(args) <= len(names) else None

    def _two_passes(self, tap: FeatureTap, inputs: dict[str, Any], labelled: bool) -> Any:
        companion = self._companion_inputs(inputs, labelled)
        if self.averaged is None:
            _, self.companion_features, _ = _record(self.model, tap, companion)
        else:
            lagging = unwrap(self.model)
            with self.averaged.running(lagging):
                _, self.companion_features, _ = _record(lagging, tap, companion)
        return self._one_pass(tap, inputs)

    def _companion_inputs(self, inputs: dict[str, Any], labelled: bool) -> dict[str, Any]:
        """The companion batch as `compute_loss` calls the model with the primary one, whatever it calls a column."""
        found = {}
        for name, value in inputs.items():
            # A model with a loss of its own may insist on labels; otherwise the companion runs without.
            if labelled or name not in self.label_names:
                column = self._column_of(name, value)
                if self.companion is not None and column in self.companion:
                    found[name] = self.companion[column]
                elif column not in self.primary:  # such as weights of the classes
                    found[name] = value
        return found

    def _column_of(self, name: str, value: Any) -> str:
        """The column of the primary batch that an argument of the model is, else the argument's own name."""
        same = (column for column, each in self.primary.items() if isinstance(each, Tensor) and each is value)
        return next(same, name)

    def _made_anew(self, inputs: dict[str, Any]) -> set[str]:
        """The arguments that `compute_loss` made of the primary batch: tensors of its rows that are not as collated."""
        return {
            name
            for name, value in inputs.items()
            if isinstance(value, Tensor) and not any(value is each for each in self.primary.values())
            if name in self.primary or (value.dim() and len(value) == self.rows)
        } - set(self.label_names)


class ModelStandIn:
    """What `compute_loss` sees in the model's place: the model, but that calls go to a `PairedForward`.

    So any `compute_loss` that calls the model it is given works unchanged, and attributes, `train()`, `config` are
    the model's.

    Args:
        run: of the paired forward pass.
    """

    def __init__(self, run: PairedForward) -> None:
        self.__dict__["_itra_run"] = run  # from here on, attributes are set on the model

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The model's, to `isinstance`."""
        return type(self._itra_run.model)

    def __getattr__(self, name: str) -> Any:
        model = self.__dict__["_itra_run"].model
        return getattr(model, name) if hasattr(model, name) else getattr(unwrap(model), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._itra_run.model, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._itra_run.model, name)

    def __copy__(self) -> Any:
        return copy.copy(self._itra_run.model)

    def __deepcopy__(self, memo: Any) -> Any:
        return copy.deepcopy(self._itra_run.model, memo)

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        """The outputs for the primary batch; the companion batch runs along."""
        return self._itra_run(*args, **inputs)

    forward = __call__


def _record(
    model: Callable[..., Any], tap: FeatureTap, inputs: Mapping[str, Any]
) -> tuple[Any, Tensor | None, Tensor | None]:
    """The outputs, and the features and what was tapped, both `None` where the model ran without the tapped module."""
    with tap.recording():
        outputs = model(**inputs)
    captured = tap.captured
    features = None if captured is None else tap.features(inputs)
    tap.captured = None  # else the graph, and a model that can't be copied, would outlive the step
    return outputs, features, captured


def standard_loss(model: nn.Module, outputs: Any, labels: Tensor) -> Tensor:
    """The sequence-classification loss of transformers, of the problem type that the config names or implies."""
    logits = logits_of(outputs)
    if logits is None:
        raise ValueError("The model returns no logits.")
    return ForSequenceClassificationLoss(labels, logits, model.config)


def has_standard_loss(model: nn.Module, outputs: Any, labels: Tensor) -> bool:
    """Whether a model's own loss is `standard_loss`: it is a class of transformers, and one batch confirms it.

    Other classes may weigh or add what one batch doesn't show, so theirs is never replaced.

    Args:
        model: the model, unwrapped.
        outputs: what it returned for a batch with labels.
        labels: that batch's.
    """
    inner = unwrap_adapter(model)
    # FSDP makes a class of its own out of the model's.
    own_class = next(base for base in type(inner).__mro__ if not base.__module__.startswith("torch.distributed."))
    if not own_class.__module__.startswith("transformers."):
        return False
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs[0]
    if loss is None:
        return False
    try:
        expected = standard_loss(inner, outputs if isinstance(outputs, Mapping) else outputs[1:], labels)
    except (AttributeError, RuntimeError, ValueError, TypeError):
        return False  # logits and labels that the standard loss can't even take
    return bool(torch.allclose(loss.float(), expected.float(), rtol=1e-3, atol=1e-6, equal_nan=True))


def _with_loss(outputs: Any, loss: Tensor) -> Any:
    if isinstance(outputs, Mapping):
        rest = {name: value for name, value in outputs.items() if name != "loss"}
        return type(outputs)(**{"loss": loss, **rest})
    return (loss, *outputs)
