"""The weight of the matching loss: a ramp over training, and a balance with the task loss."""

from collections.abc import Callable

import torch
from torch import Tensor

BALANCE_DECAY = 0.9  # of the running averages of the two gradient norms, a step


def ramp(step: int, total_steps: int, warmup_ratio: float) -> float:
    """The factor of the weight at a step: linear from 0 to 1 over the first part of training.

    Args:
        step: optimizer steps done so far.
        total_steps: optimizer steps in all.
        warmup_ratio: the part of `total_steps` that the ramp takes, 0 to 1.

    Returns:
        A number from 0 to 1; 1 from the start where `warmup_ratio` is 0.
    """
    warmup_steps = warmup_ratio * total_steps
    return min(1.0, step / warmup_steps) if warmup_steps > 0 else 1.0


def gradient_norms(task_loss: Tensor, matching_loss: Tensor, captured: Tensor, primary_rows: int) -> Tensor:
    """How hard each of the two losses pulls on the features of the primary batch.

    Two partial backward passes, from each loss down to the features and no further; the graph stays for
    the real one.

    Args:
        task_loss: a scalar.
        matching_loss: a scalar.
        captured: `[rows, ...]`, the features as tapped, primary rows first.
        primary_rows: how many rows the primary batch has.

    Returns:
        `[2]` float32: the squared gradient norms of the task and of the matching loss.

    Raises:
        ValueError: one of the losses does not depend on the features.
    """
    squares = []
    for loss in (task_loss, matching_loss):
        (gradient,) = torch.autograd.grad(loss, captured, retain_graph=True, allow_unused=True)
        if gradient is None:
            raise ValueError(
                "The task loss or the matching loss does not depend on the tapped features, so their pulls can't be "
                "balanced: choose a feature that the classifier uses, or weight_mode='constant'."
            )
        squares.append(gradient[:primary_rows].float().square().sum())
    return torch.stack(squares)


def update_balance(balance: Tensor, squared_norms: Tensor) -> Tensor:
    """Folds one step into the running averages of the two gradient norms.

    Both averages start at 0 and decay alike, so their ratio needs no correction for the start. A step without
    matching gradient (no class in both batches) or with a non-finite one leaves them as they are.

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


class MatchingWeight:
    """The weight of the matching loss in each step of a training run.

    Args:
        matching_weight: the setting, >= 0.
        weight_mode: `"balanced"` or `"constant"`.
        warmup_ratio: see `ramp`.
        device: where the losses live.
        reduce: averages a tensor over processes, so that the weight is the same on every rank.

    Attributes:
        balance: `[2]`, the running gradient norms of the task and of the matching loss.
    """

    def __init__(
        self,
        matching_weight: float,
        weight_mode: str,
        warmup_ratio: float,
        device: torch.device,
        reduce: Callable[[Tensor], Tensor],
    ) -> None:
        self.matching_weight = matching_weight
        self.weight_mode = weight_mode
        self.warmup_ratio = warmup_ratio
        self.reduce = reduce
        self.balance = torch.zeros(2, device=device)

    def __call__(
        self, task_loss: Tensor, matching_loss: Tensor, captured: Tensor, primary_rows: int, step: int, total_steps: int
    ) -> Tensor:
        """The weight of this step, a constant to autograd.

        Args:
            task_loss: a scalar.
            matching_loss: a scalar.
            captured: see `gradient_norms`; features that need no gradient (frozen backbone) get weight 0.
            primary_rows: see `gradient_norms`.
            step: see `ramp`.
            total_steps: see `ramp`.

        Returns:
            A float32 scalar.
        """
        strength = self.matching_weight * ramp(step, total_steps, self.warmup_ratio)
        if not captured.requires_grad:
            return self.balance.new_zeros(())
        if self.weight_mode == "constant":
            return self.balance.new_tensor(strength)
        norms = gradient_norms(task_loss, matching_loss, captured, primary_rows)
        self.balance = update_balance(self.balance, self.reduce(norms))
        return strength * balanced_factor(self.balance)
