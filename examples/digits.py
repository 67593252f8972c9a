"""scikit-learn's handwritten digits, 8 x 8 images that come with the package, split by seed."""

import torch
from datasets import Dataset
from sklearn.datasets import load_digits


def read_digits(size: int, seed: int, classes: int = 10) -> tuple[Dataset, Dataset]:
    """`size` random images of the first `classes` digits to train on, and all their others to test on.

    Each has `pixel_values`, `[1, 8, 8]` from -1 to 1, and its digit, `labels`.
    """
    images, digits = load_digits(return_X_y=True)
    rows = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed)).numpy()
    rows = rows[digits[rows] < classes]
    pixels = (images / 8 - 1).astype("float32").reshape(-1, 1, 8, 8)
    parts = (rows[:size], rows[size:])
    sets = [Dataset.from_dict({"pixel_values": pixels[part], "labels": digits[part]}) for part in parts]
    train, test = (each.with_format("torch") for each in sets)
    return train, test
