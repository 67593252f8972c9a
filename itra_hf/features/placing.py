"""Puts the feature tap on whichever model is being trained, and learns there what its own loss is."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..batches import find_labels
from .forward import has_standard_loss
from .head import build_tap
from .models import forget_compiled, logits_of, run_in_eval_mode, unwrap
from .tap import FeatureTap


class ModelTap:
    """The tap on a model, placed anew whenever the model is another one: adapters and `model_init` replace modules.

    Args:
        label_names: the model's label arguments.

    Attributes:
        own_loss_is_standard: whether the model's own loss is transformers' sequence-classification loss.
    """

    def __init__(self, label_names: list[str]) -> None:
        self.label_names = label_names
        self.own_loss_is_standard = True
        self._tap: FeatureTap | None = None
        self._model: nn.Module | None = None
        self._knows_loss = False

    def place(
        self, feature: str, model: Any, wrapped: nn.Module, agree: Callable[[bool], bool], inputs: Mapping[str, Any]
    ) -> tuple[FeatureTap, bool]:
        """The tap on `model`, and whether the model's own loss is the standard one.

        Args:
            feature: see `build_tap`.
            model: as the Trainer knows it.
            wrapped: as it is called, for the trial pass on a model that has no tap yet.
            agree: whether something holds on every process, for they must run the same number of passes.
            inputs: of the trial pass.

        Raises:
            ValueError: see `build_tap`.
        """
        # A batch without labels, of an evaluation set say, could not tell about the loss.
        can_learn_loss = not self._knows_loss and find_labels(inputs, self.label_names) is not None
        if self._tap is None or self._model is not model or can_learn_loss:
            self.remove()
            self._tap = build_tap(unwrap(model), feature, partial(self._probe, wrapped, inputs))
            forget_compiled(wrapped)
            self._model = model
            self.own_loss_is_standard = agree(self.own_loss_is_standard)
        return self._tap, self.own_loss_is_standard

    def remove(self) -> None:
        """Takes the tap off."""
        if self._tap is not None:
            self._tap.remove()
        self._tap, self._model, self._knows_loss = None, None, False

    def _probe(self, wrapped: nn.Module, inputs: Mapping[str, Any]) -> tuple[Tensor | None, Mapping[str, Any]]:
        forget_compiled(wrapped)
        outputs = run_in_eval_mode(wrapped, inputs)
        labels = find_labels(inputs, self.label_names)
        logits = logits_of(outputs)
        if labels is not None:
            self._knows_loss = True
            self.own_loss_is_standard = has_standard_loss(unwrap(wrapped), outputs, labels)
        return logits, inputs
