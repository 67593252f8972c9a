"""What a comparison measures of each run, and how two variants differ in it over seeds: intervals and verdicts."""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

Direction = Literal["higher", "lower"]  # that is better
Verdict = Literal["better", "worse", "no difference shown", "one seed only"]

LEVEL = 0.95
DASH = "-"  # where there is no figure


class Measure(NamedTuple):
    """One figure of a run: its key in the results, what reports call it, which way is better, and its unit.

    The unit `"points"` is for shares, which reports show in percent.
    """

    name: str
    title: str
    better: Direction
    unit: Literal["points", "plain", "s", "MB"] = "plain"


MEASURES = (
    Measure("accuracy", "accuracy", "higher", "points"),
    Measure("f1_macro", "macro-F1", "higher", "points"),
    Measure("nll", "negative log-likelihood", "lower"),
    Measure("calibration_error", "calibration error", "lower", "points"),
    Measure("nll_scaled", "negative log-likelihood, temperature fitted", "lower"),
    Measure("calibration_error_scaled", "calibration error, temperature fitted", "lower", "points"),
    Measure("brier_score", "Brier score", "lower"),
    Measure("mse", "mean squared error", "lower"),
    Measure("mae", "mean absolute error", "lower"),
    Measure("r2", "R²", "higher"),
    Measure("scatter_ratio", "within/between scatter", "lower"),
    Measure("selective_accuracy", "accuracy on the surest 80 %", "higher", "points"),
    Measure("error_auroc", "right from wrong answers, AUROC", "higher", "points"),
    Measure("unknown_probability", "unknown classes by probability, AUROC", "higher", "points"),
    Measure("unknown_energy", "unknown classes by energy, AUROC", "higher", "points"),
    Measure("unknown_mahalanobis", "unknown classes by Mahalanobis distance, AUROC", "higher", "points"),
    Measure("unknown_neighbours", "unknown classes by neighbours, AUROC", "higher", "points"),
    Measure("new_classes_1", "left-out classes from 1 example each, accuracy", "higher", "points"),
    Measure("new_classes_5", "left-out classes from 5 examples each, accuracy", "higher", "points"),
    Measure("new_classes_1_propagated", "the same from 1 example, embeddings propagated", "higher", "points"),
    Measure("new_classes_5_propagated", "the same from 5 examples, embeddings propagated", "higher", "points"),
    Measure("seconds", "training seconds", "lower", "s"),
    Measure("peak_memory", "peak memory", "lower", "MB"),
)
BY_NAME = {measure.name: measure for measure in MEASURES}


def show(measure: Measure, value: float, signed: bool = False) -> str:
    """A value of the measure as reports print it; shares in percent, differences of them in points, NaN as a dash.

    Example:
        >>> show(BY_NAME["accuracy"], 0.9132), show(BY_NAME["accuracy"], 0.0046, signed=True)
        ('91.32 %', '+0.46')
    """
    sign = "+" if signed else ""
    if math.isnan(value):
        return DASH
    if measure.unit == "points":
        return f"{100 * value:{sign}.2f}" + ("" if signed else " %")
    if measure.unit == "plain":
        return f"{value:{sign}.4f}"
    return f"{value:{sign},.{1 if measure.unit == 's' else 0}f} {measure.unit}"


class PairedDifference(NamedTuple):
    """How one variant differs from another over the seeds that both have."""

    seeds: int
    mean: float  # of variant minus baseline
    low: float  # the lower end of the 95 % interval of the mean; NaN with one seed
    high: float
    wins: int  # seeds in which the variant is better
    losses: int  # and worse; the rest are ties
    verdict: Verdict  # "better" or "worse" where the interval lies on that side of 0
    each: dict[int, float]  # the difference of each seed


def paired_difference(
    variant: Mapping[int, float], baseline: Mapping[int, float], better: Direction
) -> PairedDifference:
    """Compares finite figures of two variants seed by seed; seeds that only one of them has are left out.

    The interval is Student's t: a percentile bootstrap of five values would cover the truth in about 84 % of studies.

    Raises:
        ValueError: they share no seed.

    Example:
        >>> difference = paired_difference({1: 0.92, 2: 0.93, 3: 0.95}, {1: 0.90, 2: 0.91, 3: 0.92}, "higher")
        >>> round(difference.mean, 4), difference.wins, difference.verdict
        (0.0233, 3, 'better')
    """
    each = {seed: variant[seed] - baseline[seed] for seed in sorted(variant) if seed in baseline}
    if not each:
        raise ValueError(f"The variants share no seed: {sorted(variant)} and {sorted(baseline)}.")
    values = np.array(list(each.values()))
    gains = values if better == "higher" else -values
    middle, half = float(values.mean()), math.nan
    # The same gain in a few seeds, as of one test example, has no interval; only its signs tell, as in a sign test.
    by_chance = values.any() and np.allclose(values, values[0]) and 0.5 ** (len(values) - 1) > 1 - LEVEL
    if not by_chance and len(values) > 1:  # stats.t.interval is NaN where all values agree
        half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    low, high = middle - half, middle + half
    verdict: Verdict = "better" if gains.mean() > 0 else "worse"
    if len(values) < 2:
        verdict = "one seed only"
    elif low <= 0 <= high or by_chance:
        verdict = "no difference shown"
    wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
    return PairedDifference(len(values), middle, low, high, wins, losses, verdict, each)


def mean(values: Mapping[int, float]) -> float:
    """The mean over seeds; NaN over none."""
    return float(np.mean(list(values.values()))) if values else math.nan


def show_difference(measure: Measure, found: PairedDifference) -> tuple[str, str]:
    """A difference of the measure with its unit, and its interval: a dash where there is none."""
    difference, low, high = (show(measure, value, signed=True) for value in (found.mean, found.low, found.high))
    unit = " points" if measure.unit == "points" else ""
    return difference + unit, f"{low} to {high}" if math.isfinite(found.low) else DASH


def show_half(measure: Measure, found: PairedDifference) -> str:
    """A difference of the measure, with half of its interval if it has one."""
    half = "" if math.isnan(found.low) else f" ±{show(measure, (found.high - found.low) / 2, signed=True)[1:]}"
    return show(measure, found.mean, signed=True) + half


def describe(measure: Measure, found: PairedDifference, baseline: str) -> str:
    """What a difference to a baseline tells, as a part of a sentence about the variant."""
    difference, interval = show_difference(measure, found)
    if found.verdict == "one seed only":
        return f"{measure.title} {difference} against {baseline} with one seed, which tells nothing about chance"
    words = f"{found.verdict} {'to' if found.verdict == 'no difference shown' else 'than'} {baseline}"
    score = f"{found.wins} wins and {found.losses} losses in {found.seeds} seeds"
    spread = f"95 % interval {interval}" if interval != DASH else "the same in every seed, of which there are too few"
    return f"{words} ({measure.title} {difference}, {spread}, {score})"
