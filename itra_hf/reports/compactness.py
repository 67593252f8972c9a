"""How tightly features gather around their classes' means: statistics that add up batch by batch, in float64."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

MAX_SAMPLES = 2000  # features kept for the figures that sums can't give, and for pictures
CHUNK = 10_000_000  # distances held at one time
ROUNDING = 1e-12  # of the features' size; what lies nearer together counts as one point


class ClassStatistics:
    """Counts, means and scatter of each class, and a sample of the features; memory of order classes * dim.

    Class ids index the arrays, so a class that has not been seen has count 0. The order of the examples decides
    which of them are sampled; how they were split into batches does not.

    Args:
        max_samples: how many features to keep: all of them while there are no more, else as many of each class
            as of any other, but at least two.

    Attributes:
        counts: `[classes]`.
        means: `[classes, dim]`.
        scatters: `[classes]`, the sums of squared distances from the class's mean.
    """

    def __init__(self, max_samples: int = MAX_SAMPLES) -> None:
        self.max_samples = max_samples
        self.counts = np.zeros(0)
        self.means = np.zeros((0, 0))
        self.scatters = np.zeros(0)
        self._kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # features, labels and priorities, by batch
        self._random = np.random.default_rng(0)

    def add(self, features: Sequence | np.ndarray, labels: Sequence | np.ndarray) -> None:
        """Adds a batch.

        Args:
            features: `[n, dim]`.
            labels: `[n]` class ids; examples with a negative id, which the usual losses ignore, are left out.

        Raises:
            ValueError: labels that are not one class id an example.
        """
        points, ids = np.asarray(features, dtype=np.float64), np.asarray(labels)
        fits = (points.ndim == 2 or not points.size) and ids.shape == points.shape[:1]
        if not (fits and np.issubdtype(ids.dtype, np.integer)):
            raise ValueError(
                f"Compactness needs features [n, dim] and one class id an example; the features have shape "
                f"{list(points.shape)}, the labels have shape {list(ids.shape)} and dtype {ids.dtype}."
            )
        points, ids = points[ids >= 0], ids[ids >= 0]
        if not len(ids):
            return
        self._grow(int(ids.max()) + 1, points.shape[1])
        self._merge(points, ids)
        self._kept.append((points, ids, self._random.random(len(ids))))
        left_by_thinning = max(self.max_samples, 2 * int(np.count_nonzero(self.counts)))
        if sum(len(kept) for _, kept, _ in self._kept) > 2 * left_by_thinning:
            self._thin()

    def sample(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The features kept, `[m, dim]`, their class ids, `[m]`, and how many examples each stands for, `[m]`."""
        if self.counts.sum() > self.max_samples:
            self._thin()
        features, labels, _ = self._join()
        kept = np.bincount(labels, minlength=len(self.counts))
        return features, labels, (self.counts / np.maximum(kept, 1))[labels]

    def scatter_by_class(self) -> tuple[np.ndarray, np.ndarray]:
        """For each class the mean squared distance of its features from its mean, and that mean's from the overall one.

        Returns:
            Two arrays `[classes]`; NaN for a class without examples.
        """
        with np.errstate(invalid="ignore"):
            within = self.scatters / self.counts
            between = ((self.means - self.counts @ self.means / self.counts.sum()) ** 2).sum(axis=1)
        return within, np.where(self.counts > 0, between, np.nan)

    def compactness(self) -> dict[str, float]:
        """The figures that `compactness` describes; all NaN without an example or with features that are not finite."""
        total, seen = self.counts.sum(), self.counts > 0
        if not total or not np.isfinite(self.scatters).all():
            return dict.fromkeys(FIGURES, math.nan)
        within_each, between_each = self.scatter_by_class()
        within = float(self.counts[seen] @ within_each[seen] / total)
        size = math.sqrt(within + float((self.means**2).sum(axis=1).max()))
        between = float(self.counts[seen] @ between_each[seen] / total)
        features, labels, weights = self.sample()
        figures = (
            within,
            between,
            within / between if between > (ROUNDING * size) ** 2 else math.inf,
            _nearest_mean_accuracy(features, np.cumsum(seen)[labels] - 1, weights, self.means[seen]),
            _effective_rank(features, weights),
            _neural_collapse_distance(self.means[seen], ROUNDING * size),
        )
        return dict(zip(FIGURES, figures, strict=True))

    def _grow(self, classes: int, dim: int) -> None:
        if self.means.shape[1] != dim:
            if len(self.counts):
                raise ValueError(f"Features of {dim} dimensions came after features of {self.means.shape[1]}.")
            self.means = np.zeros((0, dim))
        more = max(classes - len(self.counts), 0)
        self.counts = np.pad(self.counts, (0, more))
        self.scatters = np.pad(self.scatters, (0, more))
        self.means = np.pad(self.means, ((0, more), (0, 0)))

    def _merge(self, points: np.ndarray, ids: np.ndarray) -> None:
        # Sums of squares would cancel where the features lie far from 0, so scatters are merged around the means.
        classes, inverse, new = np.unique(ids, return_inverse=True, return_counts=True)
        sums = np.zeros((len(classes), points.shape[1]))
        np.add.at(sums, inverse, points)
        means = sums / new[:, None]
        scatters = np.bincount(inverse, ((points - means[inverse]) ** 2).sum(axis=1))
        old = self.counts[classes]
        shift = means - self.means[classes]
        self.scatters[classes] += scatters + (shift**2).sum(axis=1) * old * new / (old + new)
        self.means[classes] += shift * (new / (old + new))[:, None]
        self.counts[classes] += new

    def _thin(self) -> None:
        """Keeps the examples of lowest priority of each class, so that what is kept never depends on the batches."""
        each = max(2, self.max_samples // int(np.count_nonzero(self.counts)))
        features, labels, priorities = self._join()
        kept = (pd.Series(priorities).groupby(labels).rank() <= each).to_numpy()
        self._kept = [(features[kept], labels[kept], priorities[kept])]

    def _join(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not self._kept:
            return np.zeros((0, self.means.shape[1])), np.zeros(0, dtype=np.int64), np.zeros(0)
        if len(self._kept) > 1:
            features, labels, priorities = zip(*self._kept, strict=True)
            self._kept = [(np.concatenate(features), np.concatenate(labels), np.concatenate(priorities))]
        return self._kept[0]


FIGURES = (
    "within_class_scatter",
    "between_class_scatter",
    "scatter_ratio",
    "class_separation",
    "effective_rank",
    "neural_collapse_distance",
)


def compactness(features: Sequence | np.ndarray, labels: Sequence | np.ndarray) -> dict[str, float]:
    """How tightly a data set's features gather around their classes' means.

    With class means `m_c` and the mean `m` of all `n` features:

    - `within_class_scatter`, `sum_i |h_i - m_c(i)|^2 / n`: 0 and up, lower is more compact.
    - `between_class_scatter`, `sum_i |m_c(i) - m|^2 / n`: 0 and up, higher is farther apart.
    - `scatter_ratio`, the first over the second: 0 and up, lower is better, infinite where the means coincide.
      The only one of the three that does not change with the features' scale.
    - `class_separation`, the share of features whose nearest class mean is their own class's: 0 to 1, higher is
      better. A class of one example always counts as right.
    - `effective_rank`, `exp(-sum_j p_j log p_j)` with `p_j` the singular values of the centred features over their
      sum (Roy and Vetterli, EUSIPCO 2007): 1 to dim, 0 where all features are one point. How many directions the
      features use; about classes - 1 where each class is a point.
    - `neural_collapse_distance`, `|G / |G| - E / |E||` with `G` the Gram matrix of the centred class means, `E` that
      of the regular simplex and Frobenius norms (the second property in Papyan, Han and Donoho, PNAS 2020): 0
      (equally far from each other) to sqrt(2), lower is nearer to collapse; NaN with one class.

    Above 2,000 features, `class_separation` and `effective_rank` are estimates from a sample, weighted by the
    classes' sizes.

    Args:
        features: `[n, dim]`.
        labels: `[n]` class ids or names; examples with a negative id, which the usual losses ignore, are left out.

    Returns:
        The figures by name.

    Example:
        >>> from itra_hf.reports.compactness import compactness
        >>> figures = compactness([[0.0, 1.0], [0.0, 3.0], [4.0, 2.0], [4.0, 2.0]], [0, 0, 1, 1])
        >>> figures["within_class_scatter"], figures["between_class_scatter"], figures["class_separation"]
        (0.5, 4.0, 1.0)
    """
    ids = np.asarray(labels)
    if not np.issubdtype(ids.dtype, np.integer):
        ids = np.unique(ids, return_inverse=True)[1]
    elif ids.size:  # ids may be far apart, and memory goes by the largest
        ids = np.unique(ids.clip(-1), return_inverse=True)[1] - int(ids.min() < 0)
    statistics = ClassStatistics()
    statistics.add(features, ids)
    return statistics.compactness()


def _nearest_mean_accuracy(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, means: np.ndarray) -> float:
    """The weighted share of features that lie nearer to their own class's mean than to any other row of `means`."""
    centre = means.mean(axis=0)
    centred, points = means - centre, features - centre
    chunks = np.array_split(points, math.ceil(len(points) * len(centred) / CHUNK))
    # |h|^2 is the same for all means, so it can be left out.
    nearest = [((centred**2).sum(axis=1) - 2 * rows @ centred.T).argmin(axis=1) for rows in chunks]
    return float(weights @ (np.concatenate(nearest) == labels) / weights.sum())


def _effective_rank(features: np.ndarray, weights: np.ndarray) -> float:
    """The exponential of the entropy of the centred features' singular values, 0 if there is no spread."""
    centred = (features - weights @ features / weights.sum()) * np.sqrt(weights / weights.sum())[:, None]
    gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0, None))
    if singular.max() <= ROUNDING * np.abs(features).max():
        return 0.0
    shares = singular[singular > 0] / singular.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _neural_collapse_distance(means: np.ndarray, rounding: float) -> float:
    """How far the class means `[classes, dim]` are from a regular simplex; NaN if `rounding` is all that parts them."""
    classes = len(means)
    centred = means - means.mean(axis=0)
    wide = classes <= means.shape[1]
    gram = centred @ centred.T if wide else centred.T @ centred  # of the same norm and trace
    norm = np.linalg.norm(gram)
    if classes < 2 or norm <= rounding**2:
        return math.nan
    if wide:
        return float(np.linalg.norm(gram / norm - (np.eye(classes) - 1 / classes) / math.sqrt(classes - 1)))
    # The same expanded: the rows of G add up to 0, so <G, E> is its trace.
    cosine = float(np.trace(gram) / (norm * math.sqrt(classes - 1)))
    return math.sqrt(2 - 2 * min(cosine, 1.0))  # rounding may take it beyond 1
