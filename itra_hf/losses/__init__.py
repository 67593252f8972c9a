"""How far two batches of features are apart: tensors in, tensors out."""

from .matching import MatchingLoss

__all__ = ["MatchingLoss"]
