"""Kernels of single pairs and the squared MMD in loops over pairs, for the tests of random features."""

import math
import operator
import statistics

import torch

KERNELS = ["gaussian", "inverse_multiquadric"]
MULTIPLIERS = (0.5, 1.0, 4.0)
BANDWIDTH = torch.tensor(3.0, dtype=torch.float64)


def batch(rows, dim=4, seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    return features, torch.randint(0, classes, (rows,), generator=generator)


def random_kernel(frequencies, bandwidth=BANDWIDTH):
    columns = frequencies.double() / bandwidth.sqrt()
    return lambda a, b: torch.cos((a - b) @ columns).mean().item()


def exact_kernel(name, bandwidth=BANDWIDTH, multipliers=(1.0,)):
    def one(d2, scale):
        if name == "gaussian":
            return math.exp(-d2 / (2 * scale))
        return 1 / math.sqrt(1 + d2 / (2 * scale))

    return lambda a, b: statistics.fmean(one((a - b).square().sum().item(), bandwidth.item() * f) for f in multipliers)


def mean_squared_distance(rows):
    return statistics.fmean((rows[i] - rows[j]).square().sum().item() for i in range(len(rows)) for j in range(i))


def loops(pair, left, right, alignment, estimator, weighting="size"):
    """The squared MMD of lists of (features, label), with a kernel of two such pairs."""

    def mmd(one, two):
        if estimator == "unbiased" and min(len(one), len(two)) < 2:
            return 0.0

        def mean(first, second, skip):
            return statistics.fmean(
                pair(a, b) for i, a in enumerate(first) for j, b in enumerate(second) if not (skip and i == j)
            )

        skip = estimator == "unbiased"
        return mean(one, one, skip) + mean(two, two, skip) - 2 * mean(one, two, False)

    if alignment != "conditional":
        return mmd(left, right)
    terms, sizes, needed = [], [], 2 if estimator == "unbiased" else 1
    for label in {int(t) for _, t in [*left, *right]} - {-100}:
        one, two = ([row for row in side if int(row[1]) == label] for side in (left, right))
        if min(len(one), len(two)) >= needed:
            terms.append(mmd(one, two))
            sizes.append(1 / (1 / len(one) + 1 / len(two)) if weighting == "size" else 1.0)
    return sum(map(operator.mul, terms, sizes)) / sum(sizes) if terms else 0.0
