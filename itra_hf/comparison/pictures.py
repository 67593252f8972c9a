"""Pictures of a comparison, as matplotlib figures: differences, learning curves, feature maps."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..reports import drawing, plots
from .assessment import FEATURES
from .measures import Measure, mean
from .summary import Comparison, Size
from .variants import PLAIN

ROW, MARGIN = 0.34, 1.3  # inches
TITLE_WIDTH = 44  # characters of a line over a panel
LOSSES = {"training loss": ("loss", "task_loss"), "evaluation loss": ("eval_loss",)}  # their keys in logs


def differences(size: Size, measures: Sequence[Measure]) -> Figure | None:
    """The paired differences to the plain Trainer, a panel a measure: seeds as ticks, the mean with its interval.

    `None` where there are no differences.
    """
    pairs = {(variant, name): found for (variant, base, name), found in size.differences.items() if base == PLAIN}
    variants = list(dict.fromkeys(variant for variant, _ in pairs))
    measures = [each for each in measures if any(each.name == name for _, name in pairs)]
    if not measures:
        return None
    columns = min(2, len(measures))
    rows = math.ceil(len(measures) / columns)
    figure = drawing.new_figure(rows * (MARGIN + ROW * len(variants)))
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for axis, measure in zip(axes, measures, strict=False):
        scale = 100 if measure.unit == "points" else 1
        for height, variant in enumerate(variants):
            if (found := pairs.get((variant, measure.name))) is None:
                continue
            each = scale * np.array(list(found.each.values()))
            style: dict[str, Any] = {"color": drawing.COLOURS[(height + 1) % len(drawing.COLOURS)]}
            axis.plot(each, np.full(len(each), height), "|", **style, markersize=9, alpha=0.7)
            half = np.nan_to_num(scale * (found.high - found.low) / 2)
            axis.errorbar(scale * found.mean, height, xerr=half, fmt="o", **style, markersize=6, elinewidth=2)
        axis.axvline(0, color="black", linewidth=0.8)
        unit = {"points": " (points)", "plain": ""}.get(measure.unit, f" ({measure.unit})")
        drawing.decorate(
            axis, fill(measure.title, TITLE_WIDTH), f"difference to {PLAIN}{unit}\n{measure.better} is better"
        )
        axis.set_yticks(range(len(variants)), [drawing.shorten(name) for name in variants], parse_math=False)
        axis.set_ylim(len(variants) - 0.5, -0.5)
        axis.locator_params("x", nbins=6)
    for axis in axes[len(measures) :]:
        axis.set_visible(False)
    return figure


def size_curves(comparison: Comparison) -> Figure | None:
    """The verdicts' measure over the size of the training set, a line a variant; `None` for a single size."""
    measure, ticks = comparison.metric, [size.trained for size in comparison.sizes if size.trained is not None]
    if len(comparison.sizes) < 2 or len(ticks) < len(comparison.sizes):
        return None
    scale = 100 if measure.unit == "points" else 1
    figure = drawing.new_figure(3.4)
    axis = figure.subplots()
    for place, name in enumerate(comparison.sizes[0].figures):
        means = np.array([mean(size.figures[name].get(measure.name, {})) for size in comparison.sizes])
        drawing.draw_curve(axis, place, drawing.shorten(name), np.array(ticks), scale * means)
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    drawing.decorate(axis, "", "training examples", measure.title + (" (%)" if scale == 100 else ""))
    drawing.add_legend(figure, axis.lines, "outside upper center")
    return figure


def learning_curves(size: Size) -> Figure | None:
    """Losses over the optimizer steps, means over seeds: training (the task loss alone), and evaluation if any.

    `None` where no run has logged a loss.
    """
    logs = {name: [each["log"] for each in size.results if each["variant"] == name] for name in size.figures}
    panels = {}
    for title, keys in LOSSES.items():
        curves = {name: _mean_curve(own, keys) for name, own in logs.items()}
        if any(map(len, curves.values())):
            panels[title] = curves
    if not panels:
        return None
    figure = drawing.new_figure(2.7 * len(panels) + 0.5)
    axes = figure.subplots(len(panels), squeeze=False, sharex=True)[:, 0]
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for place, (name, curve) in enumerate(curves.items()):
            if len(curve):
                drawing.draw_curve(axis, place, drawing.shorten(name), curve.index.to_numpy(), curve.to_numpy())
        drawing.decorate(axis, "", "optimizer step", title)
    drawing.add_legend(figure, axes[0].lines, "outside upper center")
    return figure


def _mean_curve(logs: Iterable[Sequence[Mapping[str, Any]]], keys: Sequence[str]) -> pd.Series:
    """Means over seeds by step, where all seeds have a value: of the last of the keys that an entry has."""
    curves = [{entry["step"]: entry[key] for entry in log for key in keys if key in entry} for log in logs]
    return pd.DataFrame(curves).dropna(axis=1).mean().sort_index()


def feature_maps(size: Size, folder: Path) -> Figure | None:
    """The tested examples' features, a panel a variant, of the first seed that all of them have; `None` without."""
    paths = {(each["variant"], each["seed"]): folder / each["key"] / FEATURES for each in size.results}
    paths = {place: path for place, path in paths.items() if path.is_file()}
    names = [name for name in size.figures if any(name == each for each, _ in paths)]
    seeds = [seed for _, seed in paths if all((name, seed) in paths for name in names)]
    sets, ratios, labels = {}, {}, []
    for name in names if seeds else ():
        with np.load(paths[name, min(seeds)]) as arrays:
            features, ids, labels = arrays["features"].astype(np.float32), arrays["labels"], arrays["names"].tolist()
        if np.isfinite(features).all():
            sets[name] = (features, ids)
            ratios[name] = size.figures[name].get("scatter_ratio", {}).get(min(seeds), math.inf)
    return plots.feature_map(sets, labels, ratios=ratios) if sets else None
