"""The primary batch as its own companion: two halves."""

import torch
from torch import Tensor

from .kernels import is_class_ids


def split_halves(rows: int, labels: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """The rows of a batch in two halves of equal size, give or take one, each class in halves likewise.

    With class ids, the rows of a class go to the two halves in turns, so that conditional alignment finds every class
    of at least two examples in both. Otherwise all rows take turns.

    Args:
        rows: how many the batch has.
        labels: `[rows, ...]`, or `None`.
        device: of the result.

    Returns:
        The rows of the first and of the second half, which together are all rows.
    """
    if labels is not None and is_class_ids(labels):
        order = labels.sort(stable=True).indices
    else:
        order = torch.arange(rows, device=device)
    return order[::2], order[1::2]
