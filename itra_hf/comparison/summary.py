"""From the results of runs to a comparison: means, paired differences and a verdict in a sentence."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .measures import BY_NAME, MEASURES, Measure, PairedDifference, paired_difference, show_difference
from .plan import Plan, Run
from .run import RESULT
from .variants import PLAIN, TWICE

Figures = dict[str, dict[int, float]]  # by measure, then by seed
Differences = dict[tuple[str, str, str], PairedDifference]  # by variant, baseline and measure
Results = Sequence[Mapping[str, Any]]  # from `read_results`


class Size(NamedTuple):
    """The results of one size of training set.

    Attributes:
        train_samples: the size, `None` for all examples.
        results: of its runs.
        figures: by variant, the figures that its runs have.
        steps: by variant, the optimizer steps of its first run.
        differences: from the plain Trainer, and from runs of equal compute where that is fair.
        verdicts: by variant, a sentence.
    """

    train_samples: int | None
    results: Results
    figures: dict[str, Figures]
    steps: dict[str, int]
    differences: Differences
    verdicts: dict[str, str]

    @property
    def trained(self) -> int | None:
        """How many examples there were to train on: fewer than asked for where the data have no more."""
        return self.results[0]["trained"] if self.results else None

    @property
    def title(self) -> str:
        """What reports call it."""
        if self.train_samples is None:
            return "all training examples" if self.trained is None else f"all {self.trained:,} training examples"
        if self.trained is not None and self.trained < self.train_samples:
            return f"{self.trained:,} training examples ({self.train_samples:,} were asked for)"
        return f"{self.train_samples:,} training examples"


class Comparison(NamedTuple):
    """What a study found.

    Attributes:
        plan: what was to be run.
        results: of the runs that have one.
        failed: what went wrong, by run.
        metric: what the verdicts go by.
        sizes: one entry a size of training set.
    """

    plan: Plan
    results: Results
    failed: Mapping[str, str]
    metric: Measure
    sizes: list[Size]

    @property
    def measures(self) -> list[Measure]:
        """Those that some run has."""
        seen = {name for size in self.sizes for figures in size.figures.values() for name in figures}
        return [measure for measure in MEASURES if measure.name in seen]

    @property
    def missing(self) -> int:
        """How many runs of the plan have no result."""
        return len(self.plan.args.seeds) * len(self.plan.sizes) * len(self.plan.variants) - len(self.results)

    @property
    def versions(self) -> list[str]:
        """The package versions that the runs report; several where they differ."""
        return sorted({", ".join(f"{k} {v}" for k, v in result["versions"].items()) for result in self.results})


def read_results(runs: Sequence[Run], folder: Path) -> list[dict[str, Any]]:
    """The results that there are, under the variants' names in this plan, with the run's `key`."""
    results = []
    for run in runs:
        path = folder / run.key / RESULT
        if path.is_file():
            results.append(json.loads(path.read_text(encoding="utf-8")) | {"variant": run.variant, "key": run.key})
    return results


def summarize(plan: Plan, results: Results, failed: Mapping[str, str]) -> Comparison:
    """Compares every variant with the plain Trainer, and those that see two batches a step with equal compute too.

    Args:
        plan: names the variants.
        results: from `read_results`.
        failed: what went wrong, by the keys of runs.

    Raises:
        ValueError: no run has the measure that the verdicts go by.
    """
    metric = choose_metric(plan.args.metric, results)
    sizes = [
        _summarize_size(plan, size, [result for result in results if result["train_samples"] == size], metric)
        for size in plan.sizes
    ]
    return Comparison(plan, results, failed, metric, sizes)


def choose_metric(asked: str | None, results: Results) -> Measure:
    """The measure that verdicts go by: the one asked for, or accuracy, or the mean squared error.

    Raises:
        ValueError: no run has it.
    """
    names = {name for result in results for name in result["metrics"]}
    metric = asked or ("mse" if "mse" in names else "accuracy")
    if results and metric not in names:
        raise ValueError(f"metric={metric!r} was not measured; there are: {', '.join(sorted(names))}.")
    return BY_NAME[metric]


def _summarize_size(plan: Plan, train_samples: int | None, results: Results, metric: Measure) -> Size:
    figures: dict[str, Figures] = {variant.name: {} for variant in plan.variants}
    steps: dict[str, int] = {}
    for result in results:
        steps.setdefault(result["variant"], result["steps"])
        for name, value in result["metrics"].items():
            if value is not None:
                figures[result["variant"]].setdefault(name, {})[result["seed"]] = value
    plain = [name for name in figures if name in (PLAIN, *TWICE.values())]
    differences: Differences = {}
    verdicts: dict[str, str] = {}
    for variant in plan.variants[1:]:
        against = plain if variant.sees_twice(plan.common) else [PLAIN]
        for baseline, measure in itertools.product(against, MEASURES):
            own, other = (figures[name].get(measure.name, {}) for name in (variant.name, baseline))
            if own.keys() & other.keys():
                differences[variant.name, baseline, measure.name] = paired_difference(own, other, measure.better)
        if variant.name not in plain:
            found = {baseline: differences.get((variant.name, baseline, metric.name)) for baseline in against}
            verdicts[variant.name] = describe(variant.name, found, metric)
            for name in (variant.name, *against):
                made, planned = len(figures[name].get(metric.name, {})), len(plan.args.seeds)
                if made < planned:
                    verdicts[variant.name] += (
                        f" Runs are missing, failed or not finite: {name} has {made} of {planned}."
                    )
    return Size(train_samples, results, figures, steps, differences, verdicts)


def describe(variant: str, differences: Mapping[str, PairedDifference | None], metric: Measure) -> str:
    """The verdict on a variant: one plain sentence about its differences, by baseline, in what the verdict goes by."""
    words = {"better": "better than", "worse": "worse than", "no difference shown": "no difference shown to"}
    parts = []
    for baseline, found in differences.items():
        if found is None:
            continue
        difference, interval = show_difference(metric, found)
        if found.verdict == "one seed only":
            text = f"{metric.title} {difference} against {baseline} with one seed, which tells nothing about chance"
        else:
            score = f"{found.wins} wins and {found.losses} losses in {found.seeds} seeds"
            numbers = f"{metric.title} {difference}, 95 % interval {interval}, {score}"
            text = f"{words[found.verdict]} {baseline} ({numbers})"
        parts.append(text)
    return f"{variant}: {'; '.join(parts) or 'nothing to compare yet'}."


def mean(values: Mapping[int, float]) -> float:
    """The mean over seeds; NaN over none."""
    return float(np.mean(list(values.values()))) if values else math.nan
