"""The weight of the matching loss, which follows the task loss and the two losses' pulls on the features."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.utils import logging

from ..config import AlignmentArguments

logger = logging.get_logger(__name__)

HIDDEN = (
    "The loss that is trained on is not the one that alignment gave, so nothing is aligned: a compute_loss takes its "
    "outputs alone. Put ITRAMixin before the class that has it among the bases."
)

BALANCE_DECAY = 0.9  # of the running averages of the two gradient norms, and of the task loss, a step
START_STEPS = 10  # whose mean task loss is the first one
# Of 'fitted', chosen by examples/study: a little from the start helps short runs, much at the end long ones.
FIRST_SHARE = 0.1  # of the task loss's pull, whatever is learnt
FITTED_SHARE = 2.0  # of its largest pull, as far as the examples are learnt
FIT_POWER = 32  # of what the task loss has lost of its first value


def update_balance(balance: Tensor, squared_norms: Tensor) -> Tensor:
    """Folds one step into the running averages of the two gradient norms.

    Both averages start at 0 and decay alike, so their ratio needs no correction for the start. (The largest task norm
    of a fitted weight is one of such averages, so it lies below the largest single norm.) A step without
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


def update_losses(losses: Tensor, loss: Tensor) -> Tensor:
    """Folds one step's task loss into the first and the running one.

    Args:
        losses: `[3]`: the mean of the first steps, the running average, the steps seen.
        loss: a scalar; one that is not finite (or NaN, for a step without any) changes nothing.

    Returns:
        The new `[3]`.
    """
    first, running, steps = losses
    starting = steps < START_STEPS
    first = torch.where(starting, (first * steps + loss) / (steps + 1), first)
    running = torch.where(starting, first, BALANCE_DECAY * running + (1 - BALANCE_DECAY) * loss)
    return torch.where(torch.isfinite(loss), torch.stack([first, running, steps + 1]), losses)


def fit(losses: Tensor) -> Tensor:
    """How well the training examples are learnt: 0 at the start, 1 where the task loss is 0, and steep between.

    A loss at a tenth of its first value gives 0.03, one at a twentieth 0.19, one at a hundredth 0.72.

    Args:
        losses: `[3]`, see `update_losses`.

    Returns:
        A scalar from 0 to 1; 0 for a loss that was not positive at first.
    """
    first, running, _ = losses
    lost = (1 - running / first.clamp(min=torch.finfo(losses.dtype).tiny)).clamp(0, 1)
    return torch.where(first > 0, lost**FIT_POWER, 0.0)


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
        weight_mode: `"fitted"`, `"balanced"` or `"constant"`.
        strict: whether a task loss that does not depend on the features is an error; else it waits for one that does.
        device: where the losses live.
        reduce: averages a tensor over processes, so that the weight is the same on every rank.

    Attributes:
        balance: `[2]`, the running gradient norms of the task and of the matching loss.
        peak: a scalar, the largest that the task loss's running norm has been.
        losses: `[3]`, the task loss at first and now, see `update_losses`; for a fitted weight alone.
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
        self.losses = torch.zeros(3, device=device)
        self._noted: list[Tensor] = []
        self._noted_losses: list[Tensor] = []
        self._noted_none = torch.zeros(2, device=device)
        self._step: int | None = None
        self._depends = False

    @classmethod
    def from_arguments(
        cls, args: AlignmentArguments, device: torch.device, reduce: Callable[[Tensor], Tensor]
    ) -> "MatchingWeight":
        """For a training run with these settings."""
        return cls(args.matching_weight, args.weight_mode, args.feature != "auto", device, reduce)

    def __call__(self, step: int) -> Tensor:
        """The weight of this step, a constant to autograd.

        But for constant mode it follows from the steps before; the first step has weight 0, and the micro-batches of
        one step the same. Times the setting, a balanced matching loss pulls on the features as hard as the task loss
        does, so it fades as the task loss does; a fitted one pulls a tenth as hard, and as far as the examples are
        learnt, see `fit`, twice as hard as the task loss did at its peak.

        Args:
            step: optimizer steps done so far.

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
        if self.weight_mode == "fitted":
            wanted = FIRST_SHARE * running + FITTED_SHARE * self.peak * fit(self.losses)
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
                logger.warning_once(HIDDEN)
                return
            task = arrived[: len(pull)].float() / factors[-1].float() - weight * pull
            self.note(torch.stack([task.square().sum(), pull.square().sum()]))

        total.register_hook(factors.append)
        captured.register_hook(on_gradient)

    def note(self, squared_norms: Tensor) -> None:
        """Keeps a micro-batch's squared norms, `[2]` as of `balance`, until the next step, where they are averaged."""
        self._noted.append(squared_norms)

    def note_loss(self, task_loss: Tensor) -> None:
        """Keeps the task loss of a micro-batch until the next step, where the weight follows it."""
        if self.weight_mode == "fitted":
            self._noted_losses.append(task_loss.detach().float())

    def settle(self) -> None:
        """Folds the means of what was noted since the last call into the running ones; every process has to call it."""
        # Sums and counts, whether or not there are measurements: another process may have some.
        noted = torch.stack([self._noted_none, *self._noted]).sum(dim=0)
        loss = torch.stack([self._noted_none[0], *self._noted_losses]).sum()
        counts = noted.new_tensor([len(self._noted), len(self._noted_losses)])
        totals = self.reduce(torch.cat([noted, loss[None], counts]))
        self.balance = update_balance(self.balance, totals[:2] / totals[3])
        self.losses = update_losses(self.losses, totals[2] / totals[4])
        self.peak = torch.maximum(self.peak, self.balance[0])
        self._noted, self._noted_losses = [], []

    def _can_balance(self, task_loss: Tensor, captured: Tensor) -> bool:
        self._depends = self._depends or depends_on(task_loss, captured)
        if self.strict and not self._depends:
            raise ValueError(
                "The task loss does not depend on the tapped features, so its pull on them can't be balanced with the "
                "matching loss's: choose a feature that the classifier uses, or weight_mode='constant'."
            )
        return self._depends  # as long as the head is not used, nothing pulls on its features
