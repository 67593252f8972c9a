"""Gradients at a point that lies further along the last step."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from ...processes import holds_shards
from .ranges import NOT_NEGATIVE, Range, check_ranges


class ExtrapolatedTrainer(Trainer):
    """After *Extrapolation for Large-batch Training in Deep Learning* (Lin et al., ICML 2020), without a second pass.

    Before each optimizer step the weights go on by `distance` times their last change; the gradient is taken there;
    then they go back, and the optimizer makes its step from where they were. That the last change of the weights, which
    any optimizer makes, stands for the last gradient is a detail of ours. The first step of a run, a resumed one too,
    is a plain one. It takes the memory of two more copies of the trained weights. Where a companion runs through
    averaged weights, it is the further points that are averaged.

    Args:
        *args: of `Trainer`.
        distance: in last changes, >= 0; 0 is the plain Trainer.
        **kwargs: of `Trainer`.

    Raises:
        ValueError: a wrong distance, or weights that lie in parts on several processes.
    """

    ranges: Mapping[str, Range] = {"distance": NOT_NEGATIVE}

    def __init__(self, *args: Any, distance: float = 2.0, **kwargs: Any) -> None:
        check_ranges(self.ranges, {"distance": distance})
        super().__init__(*args, **kwargs)
        if holds_shards(self.accelerator, self.model):
            raise ValueError("ExtrapolatedTrainer moves the weights, which lie in parts on several processes.")
        self.add_callback(Extrapolation(distance))


class Extrapolation(TrainerCallback):
    """Moves the weights before the batches of an optimizer step, and back before the step."""

    def __init__(self, distance: float) -> None:
        self.distance = distance
        self.before: dict[str, torch.Tensor] = {}  # the weights at the last step
        self.here: dict[str, torch.Tensor] = {}  # and now, while the model's are elsewhere

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forgets an earlier run."""
        self.before, self.here = {}, {}

    @torch.no_grad()
    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Goes on by the last change."""
        self.here = {name: weight.clone() for name, weight in model.named_parameters() if weight.requires_grad}
        for name, weight in model.named_parameters():
            if name in self.before and name in self.here:
                weight.add_(weight - self.before[name], alpha=self.distance)

    @torch.no_grad()
    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Goes back."""
        for name, weight in model.named_parameters():
            if name in self.here:
                weight.copy_(self.here[name])
        self.before, self.here = self.here, {}

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Frees the copies."""
        self.before, self.here = {}, {}
