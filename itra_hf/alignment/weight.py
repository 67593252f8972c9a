"""The weight of the matching loss, which follows the two losses' pulls on the features."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.utils import logging

from ..config import AlignmentArguments
from .messages import LOSS_NOT_USED

logger = logging.get_logger(__name__)

BALANCE_DECAY = 0.9  # of the running averages of the two gradient norms, a step
# Of 'rising', by examples/study: while examples are seen for the first times a hard pull harms, a small one helps.
FIRST_EPOCHS = 3
FIRST_SHARE = 0.1  # of the task loss's pull


def update_balance(balance: Tensor, squared_norms: Tensor) -> Tensor:
    """Folds one step into the running averages of the two gradient norms.

    Both averages start at 0 and decay alike, so their ratio needs no correction for the start. (The largest task norm
    of a rising weight is one of such averages, so it lies below the largest single norm.) A step without
    matching gradient (no class in both batches), with a non-finite one or without a measurement (NaN) leaves them as
    they are.

    Args:
        balance: `[2]`, the running norms of the task and of the matching loss.
        squared_norms: `[2]`, this step's squared norms.

    Returns:
        The new `[2]`.
    """
    norms = squared_norms.sqrt()
    usable = torch.isfinite(norms).all() & (norms[1] > 0)
    return torch.where(usable, BALANCE_DECAY * balance + (1 - BALANCE_DECAY) * norms, balance)


def balanced_factor(balance: Tensor) -> Tensor:
    """`|d task / d features| / |d matching / d features|` from the running norms; 0 before there is a matching one.

    Args:
        balance: `[2]`, see `update_balance`.

    Returns:
        A scalar, the factor at which both losses pull equally hard.
    """
    task_norm, matching_norm = balance
    return torch.where(matching_norm > 0, task_norm / matching_norm.clamp(min=torch.finfo(balance.dtype).tiny), 0.0)


def depends_on(loss: Tensor, tensor: Tensor) -> bool:
    """Whether `tensor` lies on the way to `loss`, by a walk through the autograd graph."""
    found, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is tensor.grad_fn:
            return True
        if node is not None and node not in found:
            found.add(node)
            waiting.extend(parent for parent, _ in node.next_functions)
    return False


class MatchingWeight:
    """The weight of the matching loss in each step of a training run.

    Args:
        matching_weight: the setting, >= 0.
        weight_mode: `"rising"`, `"balanced"` or `"constant"`.
        strict: whether a task loss that does not depend on the features is an error; else it waits for one that does.
        device: where the losses live.
        reduce: averages a tensor over processes, so that the weight is the same on every rank.

    Attributes:
        balance: `[2]`, the running gradient norms of the task and of the matching loss.
        peak: a scalar, the largest that the task loss's running norm has been.
    """

    def __init__(
        self,
        matching_weight: float,
        weight_mode: str,
        strict: bool,
        device: torch.device,
        reduce: Callable[[Tensor], Tensor],
    ) -> None:
        self.matching_weight = matching_weight
        self.weight_mode = weight_mode
        self.strict = strict
        self.reduce = reduce
        self.balance = torch.zeros(2, device=device)
        self.peak = torch.zeros((), device=device)
        self._noted: list[Tensor] = []
        self._noted_none = torch.zeros(2, device=device)
        self._step: int | None = None
        self._depends = False

    @classmethod
    def from_arguments(
        cls, args: AlignmentArguments, device: torch.device, reduce: Callable[[Tensor], Tensor]
    ) -> "MatchingWeight":
        """For a training run with these settings."""
        return cls(args.matching_weight, args.weight_mode, args.feature != "auto", device, reduce)

    def __call__(self, step: int, epoch: float) -> Tensor:
        """The weight of this step, a constant to autograd.

        But for constant mode it follows from the steps before; the first step has weight 0, and the micro-batches of
        one step the same. Times the setting, a balanced matching loss pulls on the features as hard as the task loss
        does, so it fades as the task loss does. A rising one pulls a tenth as hard, and from the fourth epoch on makes
        up for what the task loss's pull has lost since it was largest, so it leaves alone what is still being learnt.

        Args:
            step: optimizer steps done so far.
            epoch: how often the training set has been seen so far.

        Returns:
            A float32 scalar.
        """
        if self.weight_mode == "constant":
            return self.balance.new_full((), self.matching_weight)
        if step != self._step:
            self.settle()
            self._step = step
        running, matching_norm = self.balance
        wanted = running
        if self.weight_mode == "rising":
            wanted = FIRST_SHARE * running
            if epoch >= FIRST_EPOCHS:
                wanted = torch.maximum(wanted, self.peak - running)
        return self.matching_weight * balanced_factor(torch.stack([wanted, matching_norm]))

    def watch(
        self,
        total: Tensor,
        task_loss: Tensor,
        captured: Tensor,
        features: Tensor,
        gradient: Tensor | None,
        weight: Tensor,
    ) -> None:
        """Measures, in the backward pass to come, how hard each of the two losses pulls on the features.

        The gradient that arrives at the features is the task loss's plus `weight` times the matching loss's, which
        is known. So no second pass through the classifier is needed, and what a gradient scaler or gradient
        accumulation multiplies the loss with is divided out.

        Args:
            total: a scalar, `task_loss + weight * matching_loss`.
            task_loss: a scalar.
            captured: `[rows, ...]`, the features as tapped, primary rows first; in the graph of `total`.
            features: `[n, dim]`, the primary features that were made of them.
            gradient: `[n, dim]`, the matching loss's there.
            weight: a scalar without gradient.

        Raises:
            ValueError: the task loss does not depend on the features, so that the pulls can't be balanced.
        """
        if self.weight_mode == "constant" or gradient is None or not captured.requires_grad:
            return
        if not self._can_balance(task_loss, captured):
            return
        size = gradient.abs().max().clamp(min=torch.finfo(gradient.dtype).tiny)  # else float16 could underflow
        unit = (gradient / size).to(features.dtype)
        (pull,) = torch.autograd.grad(features, captured, unit, retain_graph=True)
        pull = pull[: len(features)].float() * size
        factors: list[Tensor] = []

        def on_gradient(arrived: Tensor) -> None:
            if not factors:
                logger.warning_once(LOSS_NOT_USED)
                return
            task = arrived[: len(pull)].float() / factors[-1].float() - weight * pull
            self.note(torch.stack([task.square().sum(), pull.square().sum()]))

        total.register_hook(factors.append)
        captured.register_hook(on_gradient)

    def note(self, squared_norms: Tensor) -> None:
        """Keeps a micro-batch's squared norms, `[2]` as of `balance`, until the next step, where they are averaged."""
        self._noted.append(squared_norms)

    def settle(self) -> None:
        """Folds the means of what was noted since the last call into the running ones; every process has to call it."""
        # Sums and a count, whether or not there are measurements: another process may have some.
        noted = torch.stack([self._noted_none, *self._noted]).sum(dim=0)
        totals = self.reduce(torch.cat([noted, noted.new_tensor([len(self._noted)])]))
        self.balance = update_balance(self.balance, totals[:2] / totals[2])
        self.peak = torch.maximum(self.peak, self.balance[0])
        self._noted = []

    def _can_balance(self, task_loss: Tensor, captured: Tensor) -> bool:
        self._depends = self._depends or depends_on(task_loss, captured)
        if self.strict and not self._depends:
            raise ValueError(
                "The task loss does not depend on the tapped features, so its pull on them can't be balanced with the "
                "matching loss's: choose a feature that the classifier uses, or weight_mode='constant'."
            )
        return self._depends  # as long as the head is not used, nothing pulls on its features
