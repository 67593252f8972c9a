"""Pictures of training and of features, 800 pixels wide, for model cards; they need matplotlib.

Every function returns a `matplotlib.figure.Figure` of its own, without pyplot, so that it works without a display and
in threads; `figure.savefig("curves.png")` writes it. Fonts are those of matplotlib's settings: for names in scripts
that its own font lacks, set `matplotlib.rcParams["font.family"] = ["DejaVu Sans", "Noto Sans CJK SC"]`, say.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from .compactness import ROUNDING, ClassStatistics, compactness

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
except ImportError as error:
    raise ImportError('itra_hf.reports.plots needs matplotlib: pip install "itra_hf[plots]"') from error

from .drawing import MAX_NAME, TITLE_FONT, WIDTH, add_legend, decorate, dots, draw_curve, new_figure, shorten

FeatureSets = Mapping[str, tuple[np.ndarray, np.ndarray]]  # by name: features [n, dim] and class ids [n]
LabelNames = Mapping[int, str] | Sequence[str]
Method = Literal["pca", "tsne", "umap"]
METHODS = {"pca": "principal component", "tsne": "t-SNE", "umap": "UMAP"}  # what their axes are called

GREY = "#C8C8C8"
MAX_POINTS = 2000  # drawn in a panel
MAX_COLOURED, MAX_ROWS = 20, 30  # classes of a feature map, and of a scatter figure
MOST_EXACT = 1000  # examples and dimensions, up to which all principal components are computed
MIN_EMBEDDED = 5  # different points, below which t-SNE and UMAP have nothing to arrange


def learning_curves(log_history: Sequence[Mapping[str, Any]]) -> Figure:
    """Losses over the optimizer steps: task and evaluation losses, matching loss, matching weight, one panel each.

    A panel without data is left out, so a run of the plain Trainer, whose `loss` takes the task loss's place, has one.
    Values that are not finite are gaps.

    Args:
        log_history: `trainer.state.log_history`.

    Raises:
        ValueError: there is no finite loss in it.
    """
    losses = _curves(log_history, "task_loss", "task loss") or _curves(log_history, "loss", "training loss")
    for key in sorted({key for entry in log_history for key in entry}):
        if key.startswith("eval_") and key.endswith("_loss"):
            name = shorten(key[len("eval_") : -len("_loss")], MAX_NAME // 2)
            losses += _curves(log_history, key, f"evaluation loss: {name}" if name else "evaluation loss")
    matching, weight = (_curves(log_history, f"matching_{what}", f"matching {what}") for what in ("loss", "weight"))
    if not losses and not matching:
        raise ValueError(f"log_history={str(log_history)[:80]} must hold a step with a finite loss, but has none.")
    panels = [panel for panel in (losses, matching, weight) if panel]
    heights = [2.6 if panel is losses else 1.8 for panel in panels]
    figure = new_figure(sum(heights) + 0.5)
    axes = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        for place, curve in enumerate(panel):
            draw_curve(axis, place, *curve)
        decorate(axis, "", "optimizer step" if axis is axes[-1] else "", "loss" if len(panel) > 1 else panel[0][0])
        if len(panel) > 1:
            add_legend(figure, axis.lines, "outside upper center")
    axes[-1].locator_params("x", nbins=8, integer=True, min_n_ticks=1)
    axes[-1].xaxis.set_major_formatter("{x:,.0f}")
    figure.align_ylabels(axes)
    return figure


def feature_map(
    feature_sets: FeatureSets,
    label_names: LabelNames | None = None,
    method: Method = "pca",
    seed: int = 0,
    ratios: Mapping[str, float] | None = None,
) -> Figure:
    """Features in two dimensions, one panel a feature set, each projected by itself since their spaces differ.

    The 20 most frequent classes of all sets together are coloured, the others grey. Up to 2,000 random examples of a
    set are projected and drawn; the scatter ratio in the title is that of all of them, see `compactness`.

    Args:
        feature_sets: features `[n, dim]` and class ids `[n]` by name; examples with a negative id are left out.
        label_names: of the class ids; drawn as they are, `$` and `_` too.
        method: `"pca"`, `"tsne"`, or `"umap"`, which needs umap-learn.
        seed: of the examples drawn, of t-SNE and of UMAP.
        ratios: the scatter ratios to show, by the sets' names, where the features are a sample of others.

    Raises:
        ValueError: an unknown method, a seed out of range, or feature sets of other shapes or not finite.
        ImportError: UMAP without umap-learn.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} must be one of {', '.join(map(repr, METHODS))}.")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed!r} must be from 0 to 2**32 - 1.")
    sets, classes = _read(feature_sets)
    coloured = sorted(classes[:MAX_COLOURED])  # by id, so that a class keeps its colour from figure to figure
    columns = min(len(sets), 3)
    rows, height = math.ceil(len(sets) / columns), (5.0, 4.2, 3.6)[columns - 1]
    figure = new_figure(rows * height)
    gap = "\n" if columns > 2 else " "  # three panels in a row have no room for long lines
    for place, (name, (features, labels)) in enumerate(sets.items(), 1):
        ratio = ratios[name] if ratios else compactness(features, labels)["scatter_ratio"]
        title = f"{shorten(name)}:{gap}within/between{gap}scatter {ratio:.3g}"
        if len(features) > MAX_POINTS:
            title += f"\n{MAX_POINTS:,} of {len(features):,} examples"
            kept = np.sort(np.random.default_rng(seed).choice(len(features), MAX_POINTS, replace=False))
            features, labels = features[kept], labels[kept]
        points, units = project(features, method, seed)
        axis = figure.add_subplot(rows, columns, place)
        decorate(axis, title, *(f"{METHODS[method]} {i}{gap}({unit})" for i, unit in enumerate(units, 1)))
        _draw_points(axis, points, labels, coloured, 5 if columns < 3 else 3)
    handles = [Line2D([], [], **dots(i, label=name)) for i, name in enumerate(display_names(label_names, coloured))]
    if others := len(classes) - len(coloured):
        label = f"{others:,} other class{'es' if others > 1 else ''}"
        handles.append(Line2D([], [], **dots(0, color=GREY, label=label)))
    figure.set_size_inches(WIDTH, rows * height + add_legend(figure, handles, "outside lower center"))
    return figure


def class_scatter(feature_sets: FeatureSets, label_names: LabelNames | None = None) -> Figure:
    """Per class the spread within it and its distance from the others, as shares of the feature set's total scatter.

    Left the mean squared distance of a class's features to the class's mean, right the squared distance of that mean to
    the mean of all features, both over the mean squared distance of all features to the mean of all, so that sets of
    different scales compare. Weighted by the classes' sizes, the two add up to 1. The most frequent class is on top;
    above 30 classes only the 30 most frequent are drawn.

    Args:
        feature_sets: as for `feature_map`.
        label_names: as for `feature_map`.

    Raises:
        ValueError: feature sets of other shapes or not finite.
    """
    sets, classes = _read(feature_sets)
    shown, counts = classes[:MAX_ROWS], []
    figure = new_figure(1.5 + max(1.2, len(shown) * max(0.22, 0.1 * len(sets))))
    axes = figure.subplots(1, 2, sharey=True)
    for place, (name, (features, labels)) in enumerate(sets.items()):
        *shares, count = scatter_shares(features, labels, classes)[:, : len(shown)]
        # The sets lie one above the other in a class's row, so that none hides another.
        heights = np.arange(len(shown)) + 0.6 * ((place + 0.5) / len(sets) - 0.5)
        label = shorten(name) + ("" if np.isfinite(shares).any() else " (no scatter)")
        for axis, share in zip(axes, shares, strict=True):
            axis.plot(share, heights, **dots(place, label=label, clip_on=False))
        counts.append(count)
    sizes = zip(display_names(label_names, shown), np.min(counts, axis=0), np.max(counts, axis=0), strict=True)
    rows = [f"{name} ({a:,.0f})" if a == b else f"{name} ({a:,.0f} to {b:,.0f})" for name, a, b in sizes]
    axes[0].set_yticks(range(len(rows)), rows, parse_math=False)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    unit = "(relative to the total scatter)"
    decorate(axes[0], "within the class", f"mean squared distance\nto the class's mean\n{unit}", "class (examples)")
    decorate(axes[1], "between the classes", f"squared distance of its\nmean to the overall mean\n{unit}")
    for axis in axes:
        axis.set_xlim(left=0)
        axis.locator_params("x", nbins=5)
    if len(shown) < len(classes):
        figure.suptitle(f"the {MAX_ROWS} most frequent of {len(classes):,} classes", fontsize=TITLE_FONT)
    add_legend(figure, axes[0].lines, "outside lower center")
    return figure


def scatter_shares(features: np.ndarray, labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """`[3, classes]`: scatter within and between over the total scatter, NaN where there is none, and examples."""
    statistics = ClassStatistics()
    statistics.add(features, np.argsort(classes)[np.searchsorted(np.sort(classes), labels)])
    within, between = statistics.scatter_by_class()
    total = statistics.counts @ np.nan_to_num(within + between) / len(labels)
    total = total if total > (ROUNDING * np.abs(features).max()) ** 2 else math.nan
    shares = np.vstack([np.full((2, len(classes)), math.nan), np.zeros(len(classes))])
    shares[:, : len(within)] = within / total, between / total, statistics.counts
    return shares


def project(features: np.ndarray, method: str, seed: int) -> tuple[np.ndarray, list[str]]:
    """Features on a plane, `[n, 2]`, by PCA where too few of them differ for `method`; and the units of the axes."""
    points, shares = np.zeros((len(features), 2)), np.zeros(2)
    if np.ptp(features, axis=0).max() > ROUNDING * np.abs(features).max():
        solver = "arpack" if min(features.shape) > MOST_EXACT else "full"  # which takes minutes for wide features
        pca = PCA(min(2, *features.shape), svd_solver=solver, random_state=seed).fit(features)
        points[:, : pca.n_components_] = pca.transform(features)
        shares[: pca.n_components_] = pca.explained_variance_ratio_
    if method == "pca":
        return points, [f"{100 * share:.0f} % of the variance" for share in shares]
    if method == "umap":
        try:
            from umap import UMAP
        except ImportError as error:
            raise ImportError("method='umap' needs umap-learn: pip install umap-learn") from error
    if len(np.unique(features, axis=0)) >= MIN_EMBEDDED:
        others, noise = len(points) - 1, np.random.default_rng(seed).normal(scale=1e-4, size=points.shape)
        start = (points / points[:, 0].std() + noise).astype(np.float32)  # UMAP divides by the spread in each direction
        if method == "tsne":
            model = TSNE(perplexity=min(30.0, others / 3), init=1e-4 * start, random_state=seed)
        else:
            model = UMAP(n_neighbors=min(15, others), init=10 * start, random_state=seed, n_jobs=1)
        points = model.fit_transform(features.astype(np.float32))
    return points, ["no unit", "no unit"]


def display_names(label_names: LabelNames | None, classes: Sequence[int]) -> list[str]:
    """What figures call each of `classes`: its name, shortened, or `class 7` where it has none."""
    known = label_names if isinstance(label_names, Mapping) else dict(enumerate(label_names or ()))
    names = [" ".join(str(known.get(label, "")).split()) or f"class {label}" for label in classes]
    short = [shorten(name) for name in names]
    # Names that begin alike, as paths do, are told apart by their ends.
    return short if len(set(short)) == len(set(names)) else [shorten(name, MAX_NAME // 2) for name in names]


def _read(feature_sets: FeatureSets) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], list[int]]:
    """The sets, checked and without examples of a negative id, and the ids of all, the most frequent first."""
    if not feature_sets:
        raise ValueError(f"feature_sets={feature_sets!r} must hold one feature set or more.")
    sets = {}
    for name, (features, labels) in feature_sets.items():
        points, ids = np.asarray(features, dtype=np.float64), np.asarray(labels)
        fits = points.ndim == 2 and ids.shape == points.shape[:1] and np.issubdtype(ids.dtype, np.integer)
        points, ids = sets[str(name)] = (points[ids >= 0], ids[ids >= 0]) if fits else (points, ids)
        if not fits or not points.size or not np.isfinite(points).all():
            raise ValueError(
                f"feature_sets[{name!r}] must be finite features [n, dim] and integer class ids [n], some of them >= 0;"
                f" it has features {list(points.shape)}, {np.count_nonzero(~np.isfinite(points))} of their values not "
                f"finite, and class ids {list(ids.shape)} of dtype {ids.dtype}."
            )
    classes, counts = np.unique(np.concatenate([ids for _, ids in sets.values()]), return_counts=True)
    return sets, classes[np.argsort(-counts, kind="stable")].tolist()


def _curves(log_history: Sequence[Mapping[str, Any]], key: str, name: str) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """One curve, its name, steps `[n]` and values `[n]` with NaN for gaps, or none where no value is finite."""
    entries = sorted((entry for entry in log_history if key in entry and "step" in entry), key=lambda e: e["step"])
    values = np.array([float(e[key]) if isinstance(e[key], Real) else math.nan for e in entries])
    values[~np.isfinite(values)] = math.nan
    return [] if np.isnan(values).all() else [(name, np.array([entry["step"] for entry in entries]), values)]


def _draw_points(axis: Axes, points: np.ndarray, labels: np.ndarray, coloured: Sequence[int], ticks: int) -> None:
    style = {"markersize": 4.0 if len(points) > 300 else 5.5, "alpha": 0.7}
    axis.plot(*points[~np.isin(labels, coloured)].T, **dots(0, color=GREY, **style))
    # Rare classes come last, so that the many don't bury the few.
    for place in sorted(range(len(coloured)), key=lambda place: -np.count_nonzero(labels == coloured[place])):
        axis.plot(*points[labels == coloured[place]].T, **dots(place, **style))
    axis.set_aspect("equal", adjustable="datalim")
    axis.locator_params(nbins=ticks)
    axis.xaxis.set_major_formatter("{x:.3g}")  # longer numbers would run into each other
    axis.yaxis.set_major_formatter("{x:.3g}")
