"""Mathematics in loops over pairs, classes and rows, which the fast versions have to agree with."""

import math
import operator
import statistics

import numpy as np
import torch

from itra_hf.reports.compactness import FIGURES

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


# ---- Slow re-implementations; labels are `[n]` class ids or `[n, labels]` of 0 and 1 ----


def slow_accuracy(guess, truth):
    return sum(np.array_equal(a, b) for a, b in zip(guess, truth, strict=True)) / len(truth)


def slow_f1(guess, truth, average):
    if np.ndim(truth) == 1:
        classes = sorted(set(truth) | set(guess))
        pairs = [([g == c for g in guess], [t == c for t in truth]) for c in classes]
    else:
        pairs = list(zip(np.transpose(guess) == 1, np.transpose(truth) == 1, strict=True))
    counts = [[sum(x and y for x, y in zip(g, t, strict=True)), sum(g), sum(t)] for g, t in pairs]
    if average == "micro":
        counts = [[sum(column) for column in zip(*counts, strict=True)]]
    scores = [2 * both / (guessed + there) if guessed + there else 0.0 for both, guessed, there in counts]
    weights = [there if average == "weighted" else 1 for _, _, there in counts]
    return sum(s * w for s, w in zip(scores, weights, strict=True)) / sum(weights) if sum(weights) else 0.0


def slow_matthews(guess, truth):
    """Gorodkin's R_K: the covariance of the one-hot vectors over the root of the two variances."""
    if np.ndim(truth) == 2:
        return np.mean([slow_matthews(g, t) for g, t in zip(np.transpose(guess), np.transpose(truth), strict=True)])
    classes, n = sorted(set(truth) | set(guess)), len(truth)

    def covariance(left, right):
        means = [(sum(x == c for x in left) / n, sum(y == c for y in right) / n) for c in classes]
        return sum(x == y for x, y in zip(left, right, strict=True)) / n - sum(p * q for p, q in means)

    spread = covariance(guess, guess) * covariance(truth, truth)
    return covariance(guess, truth) / math.sqrt(spread) if spread > 1e-15 else 0.0


def slow_calibration(scores, truth, bins):
    if np.ndim(truth) == 2:
        each = zip(np.ravel(scores), np.ravel(truth), strict=True)
        pairs = [(p, t == 1) if p > 0.5 else (1 - p, t == 0) for p, t in each]
    else:
        pairs = [(max(row), int(np.argmax(row)) == t) for row, t in zip(scores, truth, strict=True)]
    total = 0.0
    for b in range(bins):
        inside = [(p, hit) for p, hit in pairs if b / bins < p <= (b + 1) / bins or (b == 0 and p == 0)]
        if inside:
            accuracy, confidence = (sum(entry[i] for entry in inside) / len(inside) for i in (1, 0))
            total += len(inside) / len(pairs) * abs(accuracy - confidence)
    return total


def slow_brier(scores, truth):
    if np.ndim(truth) == 2:
        return np.mean([(p - t) ** 2 for p, t in zip(np.ravel(scores), np.ravel(truth), strict=True)])
    errors = [sum((p - (k == t)) ** 2 for k, p in enumerate(row)) for row, t in zip(scores, truth, strict=True)]
    return sum(errors) / len(errors)


def slow_regression(guess, truth):
    errors, centre = np.subtract(guess, truth), sum(truth) / len(truth)
    squares = sum(e * e for e in errors)
    r2 = 1 - squares / sum((t - centre) ** 2 for t in truth)
    return {"mse": squares / len(truth), "mae": sum(abs(e) for e in errors) / len(truth), "r2": r2}


def square(vector):
    return sum(float(entry) ** 2 for entry in vector)


def slow_collapse(means):
    """The distance of two Gram matrices, each divided by its norm."""
    k, centre = len(means), sum(means) / len(means)
    gram = np.array([[sum((a - centre) * (b - centre)) for b in means] for a in means])
    simplex = np.array([[(i == j) - 1 / k for j in range(k)] for i in range(k)])
    gram, simplex = (matrix / math.sqrt(square(matrix.flatten())) for matrix in (gram, simplex))
    return math.sqrt(square((gram - simplex).flatten()))


def slow_rank(features):
    singular = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)
    shares = singular / singular.sum()
    return math.exp(-sum(share * math.log(share) for share in shares if share > 0))


def slow_compactness(features, labels):
    """All figures by loops; at least two classes whose means differ."""
    pairs = [(np.asarray(h, dtype=np.float64), int(c)) for h, c in zip(features, labels, strict=True) if c >= 0]
    points = np.array([h for h, _ in pairs])
    means = {c: np.mean([h for h, own in pairs if own == c], axis=0) for c in sorted({c for _, c in pairs})}
    overall = sum(h for h, _ in pairs) / len(pairs)
    within = sum(square(h - means[c]) for h, c in pairs) / len(pairs)
    between = sum(square(means[c] - overall) for _, c in pairs) / len(pairs)
    right = sum(min(means, key=lambda other: square(h - means[other])) == c for h, c in pairs)
    shares = within, between, within / between, right / len(pairs)
    return dict(zip(FIGURES, (*shares, slow_rank(points), slow_collapse(list(means.values()))), strict=True))
