"""Values whose gradients are known already, put into an autograd graph."""

import torch
from torch import Tensor


def with_gradient(value: Tensor, features: Tensor, gradient: Tensor) -> Tensor:
    """`value`, of which autograd will say that its gradient at `features` is `gradient`; other gradients stay.

    Args:
        value: a scalar.
        features: any shape and floating dtype.
        gradient: of the shape of `features`.

    Returns:
        A scalar. It can't be differentiated twice.
    """
    result: Tensor = _WithGradient.apply(value, features, gradient)
    return result


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, value: Tensor, features: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, outer: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return outer, outer * gradient, None  # autograd casts to the features' dtype
