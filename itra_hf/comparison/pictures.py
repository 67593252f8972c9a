"""Pictures of a comparison, as matplotlib figures: differences, learning curves, feature maps."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..reports import drawing, plots
from .assessment import FEATURES
from .measures import Measure
from .summary import Comparison, Size, mean
from .variants import PLAIN

ROW, MARGIN = 0.34, 1.3  # inches


def differences(size: Size, measures: Sequence[Measure]) -> Figure | None:
    """The paired differences to the plain Trainer, one panel a measure: seeds as dots, the mean with its interval.

    Args:
        size: has the differences.
        measures: the panels.

    Returns:
        A figure, or `None` where there are no differences.
    """
    pairs = [variant for variant, baseline in size.differences if baseline == PLAIN]
    measures = [each for each in measures if any(each.name in size.differences[name, PLAIN] for name in pairs)]
    if not pairs or not measures:
        return None
    columns = min(2, len(measures))
    rows = math.ceil(len(measures) / columns)
    figure = drawing.new_figure(rows * (MARGIN + ROW * len(pairs)))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    for axis, measure in zip(grid, measures, strict=False):
        scale = 100 if measure.unit == "points" else 1
        for height, name in enumerate(pairs):
            found = size.differences[name, PLAIN].get(measure.name)
            if found is None:
                continue
            each = scale * np.array(list(found.each.values()))
            colour = drawing.COLOURS[(height + 1) % len(drawing.COLOURS)]
            axis.plot(each, np.full(len(each), height), "|", color=colour, markersize=9, alpha=0.7)
            if math.isfinite(found.low):
                axis.plot([scale * found.low, scale * found.high], [height, height], color=colour, linewidth=2)
            axis.plot(scale * found.mean, height, "o", color=colour, markersize=6)
        axis.axvline(0, color="black", linewidth=0.8)
        unit = {"points": " (points)", "plain": ""}.get(measure.unit, f" ({measure.unit})")
        drawing.decorate(axis, measure.title, f"difference to {PLAIN}{unit}\n{measure.better} is better")
        axis.set_yticks(range(len(pairs)), [drawing.shorten(name) for name in pairs], parse_math=False)
        axis.set_ylim(len(pairs) - 0.5, -0.5)
        axis.locator_params("x", nbins=6)
    for axis in figure.axes[len(measures) :]:  # those left over
        axis.set_visible(False)
    return figure


def size_curves(comparison: Comparison) -> Figure | None:
    """The verdicts' measure over the size of the training set, a line a variant; `None` for a single size."""
    sizes = [size for size in comparison.sizes if size.train_samples is not None]
    if len(sizes) < 2:
        return None
    measure = comparison.metric
    scale = 100 if measure.unit == "points" else 1
    figure = drawing.new_figure(3.4)
    axis = figure.subplots()
    for place, name in enumerate(sizes[0].figures):
        found = [(size.train_samples, mean(size.figures[name].get(measure.name, {}))) for size in sizes]
        xs, ys = zip(*found, strict=True)
        drawing.draw_curve(axis, place, drawing.shorten(name), np.array(xs), scale * np.array(ys))
    axis.set_xscale("log")
    ticks = [size.train_samples or 0 for size in sizes]
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    drawing.decorate(axis, "", "training examples", measure.title + (" (%)" if scale == 100 else ""))
    drawing.add_legend(figure, axis.lines, "outside upper center")
    return figure


def learning_curves(results: Sequence[Mapping[str, Any]], size: Size) -> Figure | None:
    """Losses over the optimizer steps, means over seeds: training (the task loss alone), and evaluation if any.

    Args:
        results: from `read_results`.
        size: whose runs to draw.

    Returns:
        A figure, or `None` where no run has logged a loss.
    """
    own = [result for result in results if result["train_samples"] == size.train_samples]
    panels = []
    for title, keys in (("training loss", ("task_loss", "loss")), ("evaluation loss", ("eval_loss",))):
        curves = {name: _mean_curve([r for r in own if r["variant"] == name], keys) for name in size.figures}
        panels.append((title, {name: curve for name, curve in curves.items() if len(curve[0])}))
    panels = [(title, curves) for title, curves in panels if curves]
    if not panels:
        return None
    figure = drawing.new_figure(2.7 * len(panels) + 0.5)
    names = list(size.figures)
    for axis, (title, curves) in zip(
        figure.subplots(len(panels), squeeze=False, sharex=True)[:, 0], panels, strict=True
    ):
        for name, (steps, values) in curves.items():
            drawing.draw_curve(axis, names.index(name), drawing.shorten(name), steps, values)
        drawing.decorate(axis, "", "optimizer step", title)
    drawing.add_legend(figure, figure.axes[0].lines, "outside upper center")
    return figure


def feature_maps(results: Sequence[Mapping[str, Any]], size: Size, folder: Path) -> Figure | None:
    """The tested examples' features, a panel a variant, of the first seed that all of them have; `None` without.

    Args:
        results: from `read_results`.
        size: whose runs to draw.
        folder: has the runs.
    """
    own = [result for result in results if result["train_samples"] == size.train_samples]
    saved = {(r["variant"], r["seed"]): folder / r["key"] / FEATURES for r in own}
    saved = {run: path for run, path in saved.items() if path.is_file()}
    names = [name for name in size.figures if any(name == variant for variant, _ in saved)]
    seeds = [seed for seed in sorted({seed for _, seed in saved}) if all((name, seed) in saved for name in names)]
    if not seeds:
        return None
    sets, ratios, labels = {}, {}, []
    for name in names:
        with np.load(saved[name, seeds[0]]) as arrays:
            features, ids, labels = arrays["features"].astype(np.float32), arrays["labels"], arrays["names"].tolist()
        if not np.isfinite(features).all():
            continue
        sets[name] = (features, ids)
        ratios[name] = size.figures[name].get("scatter_ratio", {}).get(seeds[0], math.inf)
    return plots.feature_map(sets, labels, ratios=ratios) if sets else None


def _mean_curve(results: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and means over seeds, where all seeds have a value."""
    found: dict[int, list[float]] = {}
    for result in results:
        for entry in result["log"]:
            value = next((entry[key] for key in keys if key in entry), None)
            if value is not None and "step" in entry:
                found.setdefault(entry["step"], []).append(value)
    steps = sorted(step for step, values in found.items() if len(values) == len(results))
    return np.array(steps), np.array([np.mean(found[step]) for step in steps])
