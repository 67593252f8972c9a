"""What a comparison measures of each run, which way is better, and how figures are printed."""

import math
from typing import Literal, NamedTuple

from .statistics import PairedDifference

DASH = "-"  # where there is no figure


class Measure(NamedTuple):
    """One figure of a run.

    Attributes:
        name: its key in the results.
        title: what reports call it.
        better: the direction that is better.
        unit: what reports show, `"points"` for shares in percent.
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    unit: Literal["points", "plain", "s", "MB"] = "plain"


MEASURES = (
    Measure("accuracy", "accuracy", "higher", "points"),
    Measure("f1_macro", "macro-F1", "higher", "points"),
    Measure("nll", "negative log-likelihood", "lower"),
    Measure("calibration_error", "calibration error", "lower", "points"),
    Measure("brier_score", "Brier score", "lower"),
    Measure("mse", "mean squared error", "lower"),
    Measure("mae", "mean absolute error", "lower"),
    Measure("r2", "R²", "higher"),
    Measure("scatter_ratio", "within/between scatter", "lower"),
    Measure("unknown_probability", "unknown classes by probability, AUROC", "higher", "points"),
    Measure("unknown_energy", "unknown classes by energy, AUROC", "higher", "points"),
    Measure("unknown_mahalanobis", "unknown classes by Mahalanobis distance, AUROC", "higher", "points"),
    Measure("unknown_neighbours", "unknown classes by neighbours, AUROC", "higher", "points"),
    Measure("seconds", "training seconds", "lower", "s"),
    Measure("peak_memory", "peak memory", "lower", "MB"),
)
BY_NAME = {measure.name: measure for measure in MEASURES}


def show(measure: Measure, value: float, signed: bool = False) -> str:
    """A value of the measure as reports print it; shares in percent, differences of them in points.

    Example:
        >>> show(BY_NAME["accuracy"], 0.9132), show(BY_NAME["accuracy"], 0.0046, signed=True)
        ('91.32 %', '+0.46')
    """
    sign = "+" if signed else ""
    if measure.unit == "points":
        return f"{100 * value:{sign}.2f}" + ("" if signed else " %")
    if measure.unit == "plain":
        return f"{value:{sign}.4f}"
    digits = 1 if measure.unit == "s" else 0
    return f"{value:{sign},.{digits}f} {measure.unit}"


def show_difference(measure: Measure, found: PairedDifference) -> tuple[str, str]:
    """A difference of the measure with its unit, and its interval: a dash with one seed."""
    difference, low, high = (show(measure, value, signed=True) for value in (found.mean, found.low, found.high))
    unit = " points" if measure.unit == "points" else ""
    return difference + unit, f"{low} to {high}" if math.isfinite(found.low) else DASH
