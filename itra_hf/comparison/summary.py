"""From the results of runs to a comparison: means, paired differences and a verdict in a sentence."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .measures import BY_NAME, MEASURES, Measure, show
from .plan import ComparisonArguments, Plan, Run
from .run import RESULT
from .statistics import PairedDifference, paired_difference
from .variants import PLAIN, TWICE

Figures = dict[str, dict[int, float]]  # by measure, then by seed


class Size(NamedTuple):
    """The results of one size of training set.

    Attributes:
        train_samples: the size, `None` for all examples.
        trained: how many examples there were to train on: fewer than asked for where the data have no more.
        figures: by variant, the figures that its runs have.
        differences: by variant and baseline, the paired differences by measure.
        verdicts: by variant, a sentence.
        steps: by variant, the optimizer steps of its first run.
    """

    train_samples: int | None
    trained: int | None
    figures: dict[str, Figures]
    differences: dict[tuple[str, str], dict[str, PairedDifference]]
    verdicts: dict[str, str]
    steps: dict[str, int]

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
        sizes: one entry a size of training set.
        metric: what the verdicts go by.
        tested: how many examples the runs were tested on.
        tested_on: of which split: the validation split where no test split has labels.
        failed: what went wrong, by run.
        missing: how many runs of the plan have no result.
        versions: the package versions that the runs report; several where they differ.
        spoiled: what was done to the training data, in words; empty for nothing.
        unknown_classes: how many classes were left out of training.
        unknown_tested: the least number of their examples that a run was tested on.
    """

    sizes: list[Size]
    metric: Measure
    tested: int | None
    tested_on: str
    failed: dict[str, str]
    missing: int
    versions: list[str]
    spoiled: str
    unknown_classes: int = 0
    unknown_tested: int = 0

    @property
    def measures(self) -> list[Measure]:
        """Those that some run has."""
        seen = {name for size in self.sizes for figures in size.figures.values() for name in figures}
        return [measure for measure in MEASURES if measure.name in seen]


def read_results(runs: Sequence[Run], folder: Path) -> list[dict[str, Any]]:
    """The results that there are, under the variants' names in this plan, with the run's `key`."""
    results = []
    for run in runs:
        path = folder / run.key / RESULT
        if path.is_file():
            results.append(json.loads(path.read_text(encoding="utf-8")) | {"variant": run.variant, "key": run.key})
    return results


def summarize(plan: Plan, results: Sequence[Mapping[str, Any]], failed: Mapping[str, str]) -> Comparison:
    """Compares every variant with the plain Trainer, and those that see two batches a step with equal compute too.

    Args:
        plan: names the variants.
        results: from `read_results`.
        failed: from `run_missing`.

    Raises:
        ValueError: no run has the measure that the verdicts go by.
    """
    metric = choose_metric(plan.args.metric, results)
    sizes = [
        summarize_size(plan, [result for result in results if result["train_samples"] == size], size, metric)
        for size in plan.sizes
    ]
    versions = sorted({", ".join(f"{k} {v}" for k, v in result["versions"].items()) for result in results})
    missing = sum(1 for _ in plan.runs()) - len(results)
    first: Mapping[str, Any] = results[0] if results else {"tested": None, "tested_on": "test"}
    spoiled, unknown = describe_spoiling(plan.args), plan.args.unknown_classes
    tested = first["tested"], first["tested_on"]
    least = min((result.get("unknown", 0) for result in results), default=0)
    return Comparison(sizes, metric, *tested, dict(failed), missing, versions, spoiled, unknown, least)


def describe_spoiling(args: ComparisonArguments) -> str:
    """What a comparison does to its training data, in words."""
    parts = []
    if args.class_imbalance > 1:
        parts.append(f"classes thinned to sizes that fall to 1 in {args.class_imbalance:g}")
    if args.label_noise:
        parts.append(f"{args.label_noise:.0%} of the labels replaced by wrong ones")
    return ", ".join(parts)


def choose_metric(asked: str | None, results: Sequence[Mapping[str, Any]]) -> Measure:
    """The measure that verdicts go by: the one asked for, or accuracy, or the mean squared error.

    Raises:
        ValueError: no run has it.
    """
    names = {name for result in results for name in result["metrics"]}
    metric = asked or ("mse" if "mse" in names else "accuracy")
    if results and metric not in names:
        raise ValueError(f"metric={metric!r} was not measured; there are: {', '.join(sorted(names))}.")
    return BY_NAME[metric]


def summarize_size(plan: Plan, results: Sequence[Mapping[str, Any]], size: int | None, metric: Measure) -> Size:
    """The comparison of the runs with one size of training set."""
    figures: dict[str, Figures] = {variant.name: {} for variant in plan.variants}
    for result in results:
        for name, value in result["metrics"].items():
            if value is not None:
                figures[result["variant"]].setdefault(name, {})[result["seed"]] = value
    baselines = [variant.name for variant in plan.variants if variant.name in (PLAIN, *TWICE.values())]
    differences, verdicts = {}, {}
    for variant in plan.variants:
        if variant.name == PLAIN:
            continue
        against = baselines[:1] if variant.name in baselines or not variant.sees_twice(plan.common) else baselines
        for baseline in against:
            found = compare(figures[variant.name], figures[baseline])
            if found:
                differences[variant.name, baseline] = found
        if variant.name not in baselines:
            own = {base: differences[variant.name, base] for base in against if (variant.name, base) in differences}
            verdict = describe(variant.name, own, metric)
            planned = len(plan.args.seeds)
            for name in (variant.name, *against):
                made = len(figures[name].get(metric.name, {}))
                if made < planned:
                    verdict += f" Runs are missing, failed or not finite: {name} has {made} of {planned}."
            verdicts[variant.name] = verdict
    steps: dict[str, int] = {}
    for result in results:
        steps.setdefault(result["variant"], result["steps"])
    trained = results[0]["trained"] if results else None
    return Size(size, trained, figures, differences, verdicts, steps)


def compare(variant: Figures, baseline: Figures) -> dict[str, PairedDifference]:
    """The paired differences of the measures for which two variants share a seed."""
    return {
        measure.name: paired_difference(variant[measure.name], baseline[measure.name], measure.better)
        for measure in MEASURES
        if set(variant.get(measure.name, {})) & set(baseline.get(measure.name, {}))
    }


def describe(variant: str, differences: Mapping[str, Mapping[str, PairedDifference]], metric: Measure) -> str:
    """The verdict on a variant: one plain sentence about one measure, against each baseline.

    Args:
        variant: its name.
        differences: by baseline, from `compare`.
        metric: what the verdict goes by.
    """
    parts = [
        _against(baseline, found[metric.name], metric)
        for baseline, found in differences.items()
        if metric.name in found
    ]
    if not parts:
        return f"{variant}: nothing to compare yet."
    return f"{variant}: {'; '.join(parts)}."


def _against(baseline: str, found: PairedDifference, metric: Measure) -> str:
    difference = f"{metric.title} {show(metric, found.mean, signed=True)}"
    if metric.unit == "points":
        difference += " points"
    if found.verdict == "one seed only":
        return f"{difference} against {baseline} with one seed, which tells nothing about chance"
    interval = f"95 % interval {show(metric, found.low, True)} to {show(metric, found.high, True)}"
    score = f"{found.wins} wins and {found.losses} losses in {found.seeds} seeds"
    words = {"better": "better than", "worse": "worse than", "no difference shown": "no difference shown to"}
    return f"{words[found.verdict]} {baseline} ({difference}, {interval}, {score})"


def mean(values: Mapping[int, float]) -> float:
    """The mean over seeds; NaN over none."""
    return float(np.mean(list(values.values()))) if values else math.nan


def as_plain_values(comparison: Comparison) -> dict[str, Any]:
    """For JSON: figures by size, variant, measure and seed, with the differences and verdicts."""
    sizes = []
    for size in comparison.sizes:
        differences = [
            {"variant": variant, "baseline": baseline, "measure": name, **_finite(found._asdict())}
            for (variant, baseline), measures in size.differences.items()
            for name, found in measures.items()
        ]
        sizes.append(
            {
                "train_samples": size.train_samples,
                "trained": size.trained,
                "figures": size.figures,
                "differences": differences,
                "verdicts": size.verdicts,
            }
        )
    return {
        "metric": comparison.metric.name,
        "tested": comparison.tested,
        "tested_on": comparison.tested_on,
        "steps": comparison.sizes[0].steps,
        "versions": comparison.versions,
        "failed": comparison.failed,
        "missing": comparison.missing,
        "sizes": sizes,
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
