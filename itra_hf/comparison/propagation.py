"""Features smoothed over a graph of similar examples, for classes that are told by a few examples."""

import numpy as np
from scipy.linalg import solve
from scipy.spatial.distance import cdist

ALPHA = 0.5  # how far the smoothing reaches, 0 to below 1


def propagate(features: np.ndarray) -> np.ndarray:
    """After *Embedding Propagation: Smoother Manifold for Few-Shot Classification* (Rodríguez et al., ECCV 2020).

    Examples are joined by `exp(-d)` of their squared distance `d` in units of its standard deviation over pairs. With
    this matrix `S`, scaled on both sides by the roots of its row sums, the features become
    `(I - 0.5 S)^-1 features`. All examples are looked at together, the tested ones too.

    Args:
        features: `[n, dim]`; the matrix takes the memory of `n * n` float64 numbers.

    Returns:
        `[n, dim]` float64.

    Example:
        >>> propagate(np.array([[0.0], [1.0], [10.0]])).round(1).ravel().tolist()
        [2.7, 3.7, 10.8]
    """
    rows = np.asarray(features, dtype=np.float64)
    distances = cdist(rows, rows, "sqeuclidean")
    others = ~np.eye(len(rows), dtype=bool)
    spread = distances[others].std() if len(rows) > 1 else 0.0
    joined = np.where(others, np.exp(-distances / (spread or 1.0)), 0.0)
    scale = 1 / np.sqrt(np.maximum(joined.sum(axis=1), np.finfo(np.float64).tiny))
    return solve(np.eye(len(rows)) - ALPHA * scale[:, None] * joined * scale, rows, assume_a="pos")
