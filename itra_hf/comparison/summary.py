"""From the results of runs to a comparison: means, paired differences and a verdict in a sentence."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .measures import BY_NAME, MEASURES, Measure, PairedDifference, describe, paired_difference
from .plan import Plan, Run
from .run import RESULT
from .variants import BASELINES, Variant

Figures = dict[str, dict[int, float]]  # by measure, then by seed
Results = Sequence[Mapping[str, Any]]  # from `read_results`


@dataclass(frozen=True)
class Size:
    """The results of one size of training set."""

    plan: Plan
    metric: Measure  # what the verdicts go by
    train_samples: int | None  # the size that was asked for; `None` for all examples
    results: Results

    @property
    def trained(self) -> int | None:
        """How many examples there were to train on: fewer than asked for where the data have no more."""
        return self.results[0]["trained"] if self.results else None

    @property
    def title(self) -> str:
        """What reports call it."""
        asked, trained = self.train_samples, self.trained
        if asked is None:
            counts = sorted({result["trained"] for result in self.results})  # which classes are left out may differ
            told = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1]))) if counts else ""
            return f"all {told} training examples" if told else "all training examples"
        if trained is None or trained >= asked:
            return f"{asked:,} training examples"
        kept_out = trained == asked - round(self.plan.args.temperature_share * asked)
        why = "with those for the temperature" if kept_out else "were asked for"
        return f"{trained:,} training examples ({asked:,} {why})"

    @property
    def steps(self) -> dict[str, int]:
        """By variant, the optimizer steps of its first run."""
        return {result["variant"]: result["steps"] for result in reversed(self.results)}

    @cached_property
    def figures(self) -> dict[str, Figures]:
        """By variant, the figures that its runs have; those that are not finite are left out."""
        found: dict[str, Figures] = {variant.name: {} for variant in self.plan.variants}
        for result in self.results:
            for name, value in result["metrics"].items():
                if value is not None:
                    found[result["variant"]].setdefault(name, {})[result["seed"]] = value
        return found

    @cached_property
    def differences(self) -> dict[tuple[str, str, str], PairedDifference]:
        """Those of every variant to the plain runs that it compares with, by variant, baseline and measure."""
        found = {}
        for variant in self.plan.variants[1:]:
            for baseline, measure in itertools.product(self.plan.baselines(variant), MEASURES):
                own, other = (self.figures[name].get(measure.name, {}) for name in (variant.name, baseline))
                if own.keys() & other.keys():
                    found[variant.name, baseline, measure.name] = paired_difference(own, other, measure.better)
        return found

    @property
    def verdicts(self) -> dict[str, str]:
        """A sentence a variant on the differences in what the verdict goes by, and on the runs that it lacks."""
        return {each.name: self._verdict(each) for each in self.plan.variants if each.name not in BASELINES}

    def _verdict(self, variant: Variant) -> str:
        baselines, planned = self.plan.baselines(variant), len(self.plan.args.seeds)
        found = {each: self.differences.get((variant.name, each, self.metric.name)) for each in baselines}
        parts = [describe(self.metric, each, baseline) for baseline, each in found.items() if each is not None]
        text = f"{variant.name}: {'; '.join(parts) or 'nothing to compare yet'}."
        for name in (variant.name, *baselines):
            if (made := len(self.figures[name].get(self.metric.name, {}))) < planned:
                text += f" Runs are missing, failed or not finite: {name} has {made} of {planned}."
        return text


@dataclass(frozen=True)
class Comparison:
    """What a study found."""

    plan: Plan
    results: Results  # of the runs that have one, which is one or more
    failed: Mapping[str, str]  # what went wrong, by the keys of runs

    @cached_property
    def metric(self) -> Measure:
        """What the verdicts go by.

        It is what was asked for, if some run has it, or accuracy (on long tails macro-F1), or the mean squared error.
        """
        names, asked = {name for result in self.results for name in result["metrics"]}, self.plan.args.metric
        usual = "f1_macro" if self.plan.args.rivals == "longtail" else "accuracy"
        return BY_NAME[asked if asked is not None and asked in names else "mse" if "mse" in names else usual]

    @cached_property
    def sizes(self) -> list[Size]:
        """One entry a size of training set."""
        parts = {size: [each for each in self.results if each["train_samples"] == size] for size in self.plan.sizes}
        return [Size(self.plan, self.metric, size, results) for size, results in parts.items()]

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


def read_results(runs: Iterable[Run], folder: Path) -> list[dict[str, Any]]:
    """The results that there are, under the variants' names in this plan, with the run's `key`."""
    found = [(run, path) for run in runs if (path := folder / run.key / RESULT).is_file()]
    return [
        json.loads(path.read_text("utf-8")) | {"variant": run.variant, "key": path.parent.name} for run, path in found
    ]
