"""A running average of the weights, and the companion batch's run through it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..config import AlignmentArguments
from ..config_checks import PAIRED_COMPANIONS, Companion
from ..processes import holds_shards
from .models import eval_mode, kept_buffers

LAG = 0.25  # of a run's steps: how far back an average looks whose decay is left open


def decay_in(decay: float | None, step: int, steps: int) -> float:
    """The decay of the average at a step: as it is set, or the one that looks back a quarter of the run.

    It never looks back beyond the start, so a run that stops long before its planned end has an average of what it did.

    Args:
        decay: `companion_decay`.
        step: optimizer steps done so far.
        steps: of the whole run, as planned.
    """
    lag = min(LAG * steps, step)
    return lag / (lag + 1) if decay is None else decay


class AveragedWeights:
    """An exponential running average of a model's trainable weights.

    With a decay `d` it looks back `d / (1 - d)` optimizer steps, on average. Weights that don't learn are the model's
    own, so adapters cost no more than themselves.

    Args:
        decay: what stays of the average at a step, from 0 to below 1; `None`: see `decay_in`.

    Attributes:
        weights: by name, in float32 at least, on the weights' devices; empty before the first `follow`.
    """

    def __init__(self, decay: float | None) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {}
        self._step: int | None = None
        self._buffers: set[str] | None = None  # those that a run changes, once one has shown it

    @torch.no_grad()
    def follow(self, model: nn.Module, step: int, steps: int) -> None:
        """Takes the weights in, once an optimizer step.

        Those that it does not know in this shape start their average, and those that no longer learn leave it.

        Args:
            model: unwrapped.
            step: optimizer steps done so far.
            steps: of the whole run, as planned.
        """
        if step == self._step:
            return
        self._step = step
        today = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}
        known = {
            name: self.weights[name].to(weight.device)
            for name, weight in today.items()
            if name in self.weights and self.weights[name].shape == weight.shape
        }
        if known:
            current = [today[name].to(weight.dtype) for name, weight in known.items()]
            get_ema_multi_avg_fn(decay_in(self.decay, step, steps))(list(known.values()), current, step)
        new = {
            name: weight.to(torch.promote_types(weight.dtype, torch.float32), copy=True)
            for name, weight in today.items()
            if name not in known
        }
        self.weights = known | new

    @contextmanager
    def running(self, model: nn.Module) -> Iterator[None]:
        """Has the model run with averaged weights, without dropout and gradient.

        The model's buffers are left as they were, also those that some models change in eval mode.

        Args:
            model: unwrapped.
        """
        names: dict[int, str] = {}  # of the weights, by the first of the places that hold them: some are tied
        places = [
            (module, own, weight, names.setdefault(id(weight), f"{path}.{own}" if path else own))
            for path, module in model.named_modules()
            for own, weight in module._parameters.items()
            if weight is not None
        ]
        places = [each for each in places if each[3] in self.weights]
        with kept_buffers(model, self._buffers) as changed, eval_mode(model), torch.no_grad():
            # As torch.func.functional_call does, which takes twice as long: on a GPU small steps wait for Python.
            try:
                for module, own, weight, name in places:
                    module._parameters[own] = self.weights[name].to(weight.dtype)
                yield
            finally:
                for module, own, weight, _ in places:
                    module._parameters[own] = weight
        if self._buffers is None:
            self._buffers = changed

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by name, for a checkpoint."""
        return {name: weight.contiguous() for name, weight in self.weights.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores `state_dict()`."""
        self.weights = dict(state)


def average_for(
    args: AlignmentArguments, companion: Companion, accelerator: Accelerator, model: Any
) -> AveragedWeights | None:
    """The running average of the weights that a run needs; `None` where it needs none.

    Raises:
        ValueError: the processes hold parts of the weights.
    """
    if args.matching_weight == 0 or companion not in PAIRED_COMPANIONS or args.companion_decay == 0:
        return None
    if holds_shards(accelerator, model):
        raise ValueError(
            f"companion={companion!r} with companion_decay={args.companion_decay!r} averages the weights, which it "
            "can't where processes hold parts of them (FSDP, ZeRO-3, tensor parallelism). Use companion='memory', or "
            "companion_decay=0."
        )
    return AveragedWeights(args.companion_decay)
