"""Mathematics in loops over pairs, classes and rows, which the fast versions have to agree with."""

import math
import operator
import statistics

import torch

ALIGNMENTS = ["conditional", "joint", "marginal"]
KERNELS = ["gaussian", "laplacian", "inverse_multiquadric"]
ESTIMATORS = ["biased", "unbiased"]
WEIGHTINGS = ["size", "alike"]


def batch(rows, classes=3, dim=5, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, dim, generator=generator, dtype=torch.float64) * scale
    return features, torch.randint(0, classes, (rows,), generator=generator)


def distance(a, b):
    return sum((p - q) ** 2 for p, q in zip(a.tolist(), b.tolist(), strict=True))


def length_scale(rows, rule):
    values = [distance(rows[i], rows[j]) for i in range(len(rows)) for j in range(i)]
    if rule == "mean":
        return statistics.fmean(values)
    return statistics.median(values) if rule == "median" else rule


def kernel(d2, name, scale):
    if name == "gaussian":
        return math.exp(-d2 / (2 * scale))
    return math.exp(-math.sqrt(d2 / scale)) if name == "laplacian" else (1 + d2 / (2 * scale)) ** -0.5


def brute_force(x, labels, y, other_labels, alignment, name, bandwidth, estimator, weighting="size"):
    scale = length_scale([*x, *y], bandwidth)
    targets = [*labels, *other_labels]
    by_id = labels.dim() == 1 and not labels.is_floating_point()
    label_scale = None if by_id else length_scale([t.reshape(-1).double() for t in targets], "mean")

    def pair(a, b, label_a, label_b):
        value = kernel(distance(a, b), name, scale)
        if alignment != "joint":
            return value
        if by_id:
            return value if label_a == label_b else 0.0
        return value * kernel(
            distance(label_a.reshape(-1).double(), label_b.reshape(-1).double()), "gaussian", label_scale
        )

    def mmd(left, right):
        def mean(first, second, skip_same):
            values = [
                pair(a, b, la, lb)
                for i, (a, la) in enumerate(first)
                for j, (b, lb) in enumerate(second)
                if not (skip_same and i == j)
            ]
            return statistics.fmean(values)

        skip = estimator == "unbiased"
        return mean(left, left, skip) + mean(right, right, skip) - 2 * mean(left, right, False)

    left, right = list(zip(x, labels, strict=True)), list(zip(y, other_labels, strict=True))
    if alignment != "conditional":
        return mmd(left, right)
    terms, sizes, needed = [], [], 2 if estimator == "unbiased" else 1
    for label in {int(value) for value in targets}:
        mine, theirs = ([(f, t) for f, t in side if int(t) == label] for side in (left, right))
        if min(len(mine), len(theirs)) >= needed:
            terms.append(mmd(mine, theirs))
            sizes.append(1 / (1 / len(mine) + 1 / len(theirs)) if weighting == "size" else 1.0)
    return sum(map(operator.mul, terms, sizes)) / sum(sizes) if terms else 0.0
