"""From one hidden state a token to one feature an example."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

POOLINGS = ("cls", "mean", "last")


def pool(captured: Tensor, inputs: Mapping[str, Any], pooling: str, pad_token_id: int | None = None) -> Tensor:
    """Turns a tapped tensor into one feature an example.

    Args:
        captured: `[batch, dim]`, returned as it is, or `[batch, tokens, dim]`.
        inputs: what the model was called with.
        pooling: `"input"` picks the token that a model with one score a token takes as the sequence's, the right-most
            non-padding one, whichever side the padding is on; `"cls"` the first token, `"last"` the
            last attended one, `"mean"` the mean over the attended ones.
        pad_token_id: for `"input"`, the model config's; without it, and without `input_ids`, the last token is taken.

    Returns:
        `[batch, dim]`.

    Raises:
        ValueError: the attention mask doesn't fit the hidden states.
    """
    if captured.dim() == 2:
        return captured
    rows = torch.arange(len(captured), device=captured.device)
    if pooling == "input":
        input_ids = inputs.get("input_ids")
        if input_ids is None or pad_token_id is None or input_ids.shape != captured.shape[:2]:
            return captured[:, -1]
        return captured[rows, _last_true(input_ids != pad_token_id)]
    if pooling == "cls":
        return captured[:, 0]
    mask = inputs.get("attention_mask")
    if mask is None:
        mask = torch.ones(captured.shape[:2], device=captured.device, dtype=torch.long)
    if mask.shape != captured.shape[:2]:
        raise ValueError(
            f"feature={pooling!r} needs one attention-mask entry a hidden state, got a mask of shape "
            f"{list(mask.shape)} for hidden states of shape {list(captured.shape)}."
        )
    if pooling == "last":
        return captured[rows, _last_true(mask.bool())]
    weights = mask.to(captured.dtype)[:, :, None]
    return (captured * weights).sum(1) / weights.sum(1).clamp(min=1)


def _last_true(mask: Tensor) -> Tensor:
    positions = torch.arange(mask.shape[1], device=mask.device, dtype=torch.int32)
    return (positions * mask).argmax(dim=1)
