"""The primary batch as its own companion: two halves."""

import torch
from torch import Tensor

from ..batches import FeatureBatch, is_class_ids
from ..losses.matching import MatchingLoss
from ..losses.mmd import Match


class Halves:
    """The source of companions `"split"`: the two halves of the primary batch compare with each other."""

    def match(self, matching_loss: MatchingLoss, batch: FeatureBatch) -> Match:
        """Matches the halves.

        Args:
            matching_loss: of features and labels.
            batch: without companion features.

        Returns:
            The value, with the gradient at all rows of the batch.
        """
        halves = split_halves(len(batch.features), batch.labels, batch.features.device)
        (x, labels), (y, other) = (
            (batch.features[rows], None if batch.labels is None else batch.labels[rows]) for rows in halves
        )
        match = matching_loss.match(x, labels, y, other, companion_learns=True)
        gradient = torch.cat([match.gradient, match.companion_gradient])[torch.cat(halves).argsort()]
        return Match(match.value, gradient, match.companion_gradient[:0])


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
