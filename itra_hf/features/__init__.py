"""What is aligned: finding a model's features, recording them, and running both batches."""

from .extract import extract_features

__all__ = ["extract_features"]
