"""Pictures: what is in them, and that all of it is readable."""

import importlib
import io
import math
import re
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread

import itra_hf
from itra_hf.reports import plots
from itra_hf.reports.compactness import compactness
from itra_hf.reports.plots import class_scatter, feature_map, learning_curves

LONG = "comp.sys.ibm.pc.hardware and everything that goes with it"
HARD_NAMES = ["_hidden", r"$\frac{$", "a_b^c $5", "Überraschung — βγ"]


def blobs(n, classes, dim=6, spread=1.0, seed=0):
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), random.integers(0, classes, n - classes)])
    means = 4 * np.random.default_rng(1).normal(size=(classes, dim))
    return means[labels] + spread * random.normal(size=(n, dim)), labels


def imbalanced(classes, extra=1):
    """Class 0 has `extra` examples, class 1 one more, and so on."""
    labels = np.repeat(np.arange(classes), np.arange(classes) + extra)
    return np.random.default_rng(0).normal(size=(len(labels), 3)) + labels[:, None], labels


def history(steps, itra=True, evals=("eval_loss",)):
    lines = []
    for step in range(1, steps + 1):
        line = {"loss": 2 + 1 / step, "learning_rate": 1e-4, "epoch": step / 9, "step": 10 * step}
        if itra:
            line |= {"task_loss": 1 + 1 / step, "matching_loss": 0.3 / step, "matching_weight": 1e-3 * step}
        lines.append(line)
        if step % 2 == 0:
            lines += [{key: 1.5 + 1 / step, "eval_accuracy": 0.5, "step": 10 * step} for key in evals]
    return [*lines, {"train_runtime": 1.0, "train_loss": 1.7, "step": 10 * steps}]


def pixels(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    return imread(buffer)


def texts(figure):
    """Every text of a figure that was drawn, with its box in pixels."""
    found = [*figure.legends[0].get_texts()] if figure.legends else []
    found += [figure._suptitle] if figure._suptitle else []
    for axis in figure.axes:
        found += [axis.title, axis.xaxis.label, axis.yaxis.label, axis.xaxis.get_offset_text()]
        found += [axis.yaxis.get_offset_text()]
        for one, (low, high) in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, sorted(axis.get_ylim()))):
            found += [tick.label1 for tick in one.get_major_ticks() if low <= tick.get_loc() <= high]
    return [(text, text.get_window_extent()) for text in found if text.get_visible() and text.get_text()]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def drawn(axis):
    """The points in a panel of a feature map, by colour and marker."""
    return {(to_hex(line.get_color()), line.get_marker()): line.get_xydata() for line in axis.lines if len(line._x)}


FIGURES = {
    "curves": lambda: learning_curves(history(60)),
    "plain curves": lambda: learning_curves(history(60, itra=False)),
    "one log line": lambda: learning_curves(history(1)),
    "small weights": lambda: learning_curves([{**line, "matching_weight": 1e-7} for line in history(3)]),
    "many eval sets": lambda: learning_curves(history(9, evals=[f"eval_{i}_{LONG}_loss" for i in range(9)])),
    "2 classes": lambda: feature_map({"test": blobs(50, 2)}),
    "8 classes": lambda: feature_map({"plain": blobs(2100, 8), "ITRA": blobs(2100, 8)}, ["crude"] * 8),
    "20 long names": lambda: feature_map(
        {"before training": blobs(300, 20), "after training": blobs(300, 20)}, [f"{i} {LONG}" for i in range(20)]
    ),
    "52 classes": lambda: feature_map({"a": blobs(300, 52), "b": blobs(300, 52)}),
    "3 sets": lambda: feature_map({"before training": blobs(99, 4), "b": blobs(2100, 4), "c": blobs(99, 4)}),
    "5 sets": lambda: feature_map({f"the set {i}": blobs(20, 4) for i in range(5)}),
    "tiny features": lambda: feature_map({str(i): (1e-4 * blobs(20, 4)[0], blobs(20, 4)[1]) for i in range(3)}),
    "large features": lambda: feature_map({str(i): (1e5 * blobs(20, 4)[0], blobs(20, 4)[1]) for i in range(3)}),
    "one point": lambda: feature_map({str(i): (np.ones((1, 2)), [0]) for i in range(3)}),
    "scatter of 1": lambda: class_scatter({"test": blobs(50, 1)}),
    "scatter of 20": lambda: class_scatter(
        {"a": blobs(300, 20), "b": blobs(40, 20)}, [f"{i} {LONG}" for i in range(20)]
    ),
    "scatter of 52": lambda: class_scatter({c: blobs(3000, 52, seed=ord(c)) for c in "abcd"}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_800_pixels_wide_with_nothing_clipped_or_overlapping(name):
    figure = FIGURES[name]()
    assert pixels(figure).shape[1] == 800
    height = figure.get_figheight() * 100
    found = texts(figure)
    for text, box in found:
        assert text.get_fontsize() >= 9, text
        assert min(box.x0, box.y0, 800 - box.x1, height - box.y1) >= 0, text
    for (one, box), (other, other_box) in combinations(found, 2):
        assert not box.overlaps(other_box), (one, other)
    for each in figure.legends:
        assert not any(each.get_window_extent().overlaps(axis.get_window_extent()) for axis in figure.axes)


# ---- Curves ----


def test_curves_have_a_panel_for_each_kind_of_figure():
    figure = learning_curves(history(6))
    assert [axis.get_ylabel() for axis in figure.axes] == ["loss", "matching loss", "matching weight"]
    assert [axis.get_xlabel() for axis in figure.axes] == ["", "", "optimizer step"]
    assert legend(figure) == ["task loss", "evaluation loss"]
    task, evaluation = figure.axes[0].lines
    np.testing.assert_allclose(task.get_xydata(), [(10 * s, 1 + 1 / s) for s in range(1, 7)])
    np.testing.assert_allclose(evaluation.get_xydata(), [(10 * s, 1.5 + 1 / s) for s in (2, 4, 6)])
    np.testing.assert_allclose(figure.axes[2].lines[0].get_ydata(), 1e-3 * np.arange(1, 7))
    assert figure.axes[0].get_shared_x_axes().joined(*figure.axes[::2])


def test_curves_of_the_plain_trainer_are_its_loss():
    figure = learning_curves(history(3, itra=False, evals=()))
    assert [axis.get_ylabel() for axis in figure.axes] == ["training loss"]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [3, 2.5, 2 + 1 / 3])
    assert not figure.legends


def test_curves_without_matching_weight_or_without_training():
    lines = [{key: value for key, value in line.items() if key != "matching_weight"} for line in history(4)]
    assert [axis.get_ylabel() for axis in learning_curves(lines).axes] == ["loss", "matching loss"]
    assert [axis.get_ylabel() for axis in learning_curves([{"eval_loss": 1.0, "step": 0}]).axes] == ["evaluation loss"]


def test_curves_of_several_evaluation_sets_have_a_name_each():
    figure = learning_curves(history(4, evals=["eval_mnli_loss", "eval_$x$_loss", "eval_accuracy"]))
    assert legend(figure) == ["task loss", "evaluation loss: $x$", "evaluation loss: mnli"]
    for look in ("color", "marker", "linestyle"):
        assert len({getattr(line, f"get_{look}")() for line in figure.axes[0].lines}) == 3
    names = legend(learning_curves(history(4, evals=[f"eval_{'x' * 30}_{i}_loss" for i in range(2)])))
    assert len(set(names)) == 3
    assert max(map(len, names)) == len("evaluation loss: ") + 24


def test_curves_are_sorted_by_step():
    figure = learning_curves(history(4)[::-1])
    assert figure.axes[0].lines[0].get_xdata().tolist() == [10, 20, 30, 40]


def test_values_that_are_not_finite_are_gaps_and_points_between_gaps_are_seen():
    lines = history(100, evals=())
    for line, value in zip(lines[40:45], [math.nan, math.inf, 0.5, None, -math.inf], strict=True):
        line["task_loss"] = value
    curve = learning_curves(lines).axes[0].lines[0]
    assert np.flatnonzero(np.isnan(curve.get_ydata())).tolist() == [40, 41, 43, 44]
    assert curve.get_marker() == "o"
    assert np.flatnonzero(curve.get_markevery()).tolist() == [42]
    lines[42]["task_loss"] = math.nan
    assert learning_curves(lines).axes[0].lines[0].get_marker() == ""
    assert learning_curves(history(10)).axes[0].lines[0].get_markevery().all()


def test_one_log_line_is_seen_at_its_step():
    figure = learning_curves(history(1))
    blue = np.array([0x00, 0x72, 0xB2]) / 255
    assert (np.abs(pixels(figure)[..., :3] - blue).max(axis=2) < 0.02).sum() > 3 * 15
    shown = [text.get_text() for text, _ in texts(figure)]
    assert shown.count("10") == 1
    assert not {"9", "11"} & {*shown}


def test_a_panel_whose_values_are_all_missing_is_left_out():
    lines = [{**line, "matching_loss": math.nan} for line in history(4)]
    assert [axis.get_ylabel() for axis in learning_curves(lines).axes] == ["loss", "matching weight"]


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"train_runtime": 1.0, "step": 3}],
        [{"loss": math.nan, "step": 3}],
        [{"loss": 1.0}],
        [{"matching_weight": 1.0}],
    ],
)
def test_a_log_without_any_loss_is_refused(lines):
    with pytest.raises(ValueError, match=r"log_history=\[.*must hold a step with a finite loss"):
        learning_curves(lines)


# ---- Feature maps ----


def test_a_feature_map_has_a_panel_a_set_with_its_scatter_ratio():
    sets = {"plain": blobs(60, 3), "ITRA": blobs(60, 3, spread=0.1)}
    figure = feature_map(sets, ["one", "two", "three"])
    ratios = [f"{compactness(*each)['scatter_ratio']:.3g}" for each in sets.values()]
    titles = [f"plain: within/between scatter {ratios[0]}", f"ITRA: within/between scatter {ratios[1]}"]
    assert [axis.get_title() for axis in figure.axes] == titles
    assert legend(figure) == ["one", "two", "three"]
    pixels(figure)
    for axis in figure.axes:
        assert axis.get_aspect() == 1
        assert axis.get_window_extent().height == pytest.approx(figure.axes[0].get_window_extent().height)


def test_principal_components_and_their_share_of_the_variance():
    along = np.array([-3.0, -1, 1, 3])
    features = np.stack([np.zeros(4), 2 * along, [1, -1, -1, 1]], axis=1) + 100
    axis = feature_map({"a": (features, np.zeros(4, dtype=int))}).axes[0]
    assert axis.get_xlabel() == "principal component 1 (95 % of the variance)"
    assert axis.get_ylabel() == "principal component 2 (5 % of the variance)"
    (points,) = drawn(axis).values()
    np.testing.assert_allclose(np.abs(points), [[6, 1], [2, 1], [2, 1], [6, 1]], atol=1e-9)


@pytest.mark.parametrize(("sets", "most"), [(1, 6), (3, 4)])
def test_axes_of_a_feature_map_have_few_ticks(sets, most):
    for axis in feature_map({str(i): blobs(30, 3, seed=i) for i in range(sets)}).axes:
        for ticks, (low, high) in ((axis.get_xticks(), axis.get_xlim()), (axis.get_yticks(), axis.get_ylim())):
            assert 2 <= ((low <= ticks) & (ticks <= high)).sum() <= most


def test_up_to_2000_examples_are_drawn_and_the_title_says_so():
    features, labels = blobs(5485, 3)
    first, again, other = (feature_map({"a": (features, labels)}, seed=seed).axes[0] for seed in (0, 0, 1))
    ratio = compactness(features, labels)["scatter_ratio"]
    assert first.get_title() == f"a: within/between scatter {ratio:.3g}\n2,000 of 5,485 examples"
    assert sum(map(len, drawn(first).values())) == 2000
    key = next(iter(drawn(first)))
    assert drawn(first)[key].tolist() == drawn(again)[key].tolist() != drawn(other)[key].tolist()
    assert "examples" not in feature_map({"a": (features[:2000], labels[:2000])}).axes[0].get_title()


def test_twenty_classes_look_different_and_a_class_looks_alike_in_each_panel():
    features, labels = blobs(200, 20)
    some = np.isin(labels, [3, 7])
    figure = feature_map({"all": (features, labels), "some": (features[some], labels[some])})
    looks = [drawn(axis) for axis in figure.axes]
    assert len(looks[0]) == 20
    sizes = {look: len(points) for look, points in looks[0].items()}
    assert {look: len(points) for look, points in looks[1].items()} == {look: sizes[look] for look in looks[1]}
    assert "#f0e442" not in {colour for colour, _ in looks[0]}  # yellow vanishes on white
    handles = figure.legends[0].legend_handles
    by_class = [(to_hex(handle.get_color()), handle.get_marker()) for handle in handles]
    assert [sizes[look] for look in by_class] == np.bincount(labels).tolist()


def test_above_twenty_classes_the_most_frequent_are_coloured_and_the_others_grey():
    features, labels = imbalanced(52)
    figure = feature_map({"a": (features, labels)}, [f"name {i}" for i in range(52)])
    assert legend(figure) == [*(f"name {i}" for i in range(32, 52)), "32 other classes"]
    looks = drawn(figure.axes[0])
    assert len(looks) == 21
    assert len(looks[plots.GREY.lower(), "o"]) == sum(range(1, 33))
    assert figure.axes[0].lines[0].get_color() == plots.GREY  # beneath all others
    assert legend(feature_map({"a": imbalanced(21)}))[-1] == "1 other class"


def test_rare_classes_are_drawn_above_frequent_ones():
    lines = feature_map({"a": imbalanced(4, extra=5)}).axes[0].lines
    assert [len(line.get_xdata()) for line in lines] == [0, 8, 7, 6, 5]


@pytest.mark.parametrize("draw", [feature_map, class_scatter])
def test_names_are_drawn_as_they_are(draw):
    names = dict(enumerate(HARD_NAMES))
    figure = draw({"$\\frac{$": blobs(40, 5)}, names)
    pixels(figure)  # mathtext would stop at the lone brace
    rows = [label for label in figure.axes[0].get_yticklabels() if draw is class_scatter]
    labels = rows or figure.legends[0].get_texts()
    shown = {re.sub(r" \(\d+\)$", "", label.get_text()) for label in labels}
    assert shown == {*HARD_NAMES, "class 4"}
    assert not any(label.get_parse_math() for label in [*labels, *figure.legends[0].get_texts(), figure.axes[0].title])


def test_dollars_are_no_formula_in_the_pixels():
    formula, broken = (feature_map({"a": blobs(9, 1)}, [name]) for name in ("$x^2$", "$x^2"))
    for figure in (formula, broken):
        figure.draw_without_rendering()
    widths = [figure.legends[0].get_texts()[0].get_window_extent().width for figure in (formula, broken)]
    assert widths[0] > widths[1] > 20


def test_long_names_are_shortened_and_stay_different():
    (name,) = plots.display_names([LONG], [0])
    assert name == "comp.sys.ibm.pc.hardwar…"
    assert plots.display_names(["x" * 24, "a\n b", ""], [0, 1, 2, 3]) == ["x" * 24, "a b", "class 2", "class 3"]
    prefix = "http://dbpedia.org/ontology/"
    assert plots.display_names([f"{prefix}Artist", f"{prefix}Athlete"], [0, 1]) == [
        "http://dbpe…ology/Artist",
        "http://dbpe…logy/Athlete",
    ]


def test_t_sne_keeps_clusters_apart_and_is_the_same_again():
    features, labels = blobs(60, 3)
    figures = [feature_map({"a": (features, labels)}, method="tsne") for _ in range(2)]
    axis = figures[0].axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("t-SNE 1 (no unit)", "t-SNE 2 (no unit)")
    clusters = list(drawn(axis).values())
    between = min(np.linalg.norm(a.mean(0) - b.mean(0)) for a, b in combinations(clusters, 2))
    assert between > 2 * max(np.linalg.norm(a - a.mean(0), axis=1).max() for a in clusters)
    assert np.array_equal(*map(pixels, figures))


def test_umap_is_called_and_named_where_it_is_missing(monkeypatch):
    calls = []

    class UMAP:
        def __init__(self, **options):
            calls.append(options)

        def fit_transform(self, features):
            return features[:, [0, 0]]

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=UMAP))
    axis = feature_map({"a": blobs(12, 3, dim=1)}, method="umap", seed=5).axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("UMAP 1 (no unit)", "UMAP 2 (no unit)")
    assert calls[0]["n_neighbors"] == 11
    assert calls[0]["random_state"] == 5
    assert np.ptp(calls[0]["init"], axis=0).all()  # UMAP divides by it
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="pip install umap-learn"):
        feature_map({"a": blobs(12, 3)}, method="umap")


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize(
    "features",
    [
        np.ones((1, 3)),
        np.eye(2),
        np.eye(3, 2),
        np.eye(6),
        np.full((9, 4), 0.1),
        np.arange(8.0)[:, None],
        np.ones((1, 1)),
    ],
    ids=["1", "2", "3", "6", "constant", "dim 1", "1 by 1"],
)
@pytest.mark.filterwarnings("error")
def test_tiny_inputs_are_drawn(features, method):
    labels = np.arange(len(features)) % 2
    figure = feature_map({"a": (features, labels)}, method=method)
    points = np.concatenate(list(drawn(figure.axes[0]).values()))
    assert points.shape == (len(features), 2)
    assert np.isfinite(points).all()
    assert len(np.unique(points.round(6), axis=0)) == len(np.unique(features, axis=0))
    pixels(figure)
    pixels(class_scatter({"a": (features, labels)}))


def test_rounding_is_no_variance():
    features = 0.1 + 1e-16 * np.arange(16.0).reshape(8, 2)
    assert np.ptp(features) > 0
    axis = feature_map({"a": (features, np.arange(8) % 2)}).axes[0]
    assert axis.get_xlabel() == "principal component 1 (0 % of the variance)"


def test_the_legend_takes_as_few_rows_as_fit():
    def rows(names):
        figure = feature_map({"a": blobs(60, len(names))}, names)
        figure.draw_without_rendering()
        return len({round(text.get_window_extent().y0) for text in figure.legends[0].get_texts()})

    assert rows(["name"] * 8) == 1
    assert rows([f"a longer name {i}" for i in range(8)]) == 2


def test_a_missing_direction_is_zero():
    axis = feature_map({"a": (np.arange(8.0)[:, None], np.arange(8) % 2)}).axes[0]
    assert axis.get_xlabel() == "principal component 1 (100 % of the variance)"
    assert axis.get_ylabel() == "principal component 2 (0 % of the variance)"
    assert not any(points[:, 1].any() for points in drawn(axis).values())


# ---- Scatter by class ----


def test_shares_of_the_scatter_by_hand():
    features = np.array([[0.0, 1], [0, 3], [4, 2], [4, 2], [4, 2], [4, 2]])
    labels = np.array([5, 5, 2, 2, 2, 2])
    # Means (0, 2) and (4, 2), overall (8/3, 2): within 2/6, between (2 * 64/9 + 4 * 16/9) / 6 = 32/9, total 35/9.
    figure = class_scatter({"a": (features, labels), "scaled": (100 * features + 7, labels)}, {2: "two", 5: "five"})
    within, between = figure.axes
    assert [label.get_text() for label in within.get_yticklabels()] == ["two (4)", "five (2)"]
    for one, other in zip(within.lines, between.lines, strict=True):
        np.testing.assert_allclose(one.get_xdata(), [0, 9 / 35])
        np.testing.assert_allclose(other.get_xdata(), [16 / 35, 64 / 35])
    rows = np.array([line.get_ydata() for line in within.lines])
    assert (rows.round() == [0, 1]).all()
    assert rows[0, 0] != rows[1, 0]
    assert within.get_ylim()[0] > within.get_ylim()[1]  # the most frequent class on top
    assert within.get_xlim()[0] == between.get_xlim()[0] == 0
    assert legend(figure) == ["a", "scaled"]
    assert [axis.get_title() for axis in figure.axes] == ["within the class", "between the classes"]
    assert all(axis.get_xlabel().endswith("(relative to the total scatter)") for axis in figure.axes)
    assert len({(line.get_color(), line.get_marker()) for line in within.lines}) == 2


def test_weighted_shares_add_up_to_one():
    features, labels = imbalanced(9)
    within, between, counts = plots.scatter_shares(features, labels, [20, *range(8, -1, -1)])
    assert counts.tolist() == [0, *range(9, 0, -1)]
    assert np.isnan(within[0])
    np.testing.assert_allclose((within + between)[1:] @ counts[1:] / len(labels), 1)


def test_above_thirty_classes_the_most_frequent_are_there_and_the_title_says_so():
    figure = class_scatter({"a": imbalanced(52)})
    expected = [f"class {i} ({i + 1})" for i in range(51, 21, -1)]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == expected
    assert len(figure.axes[0].lines[0].get_xdata()) == 30
    assert figure.get_suptitle() == "the 30 most frequent of 52 classes"
    assert class_scatter({"a": imbalanced(30)}).get_suptitle() == ""


def test_sets_of_other_sizes_and_classes_share_rows():
    features, labels = imbalanced(3, extra=1500)
    less = labels != 0
    figure = class_scatter({"a": (features, labels), "b": (features[less][:-1], labels[less][:-1])})
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == ["class 2 (1,501 to 1,502)", "class 1 (1,501)", "class 0 (0 to 1,500)"]
    assert np.isnan(figure.axes[0].lines[1].get_xdata()).tolist() == [False, False, True]


def test_features_without_scatter_have_no_shares():
    figure = class_scatter({"collapsed": (np.full((9, 3), 0.1), np.arange(9) % 3), "b": blobs(9, 3)})
    assert legend(figure) == ["collapsed (no scatter)", "b"]
    assert np.isnan(figure.axes[0].lines[0].get_xdata()).all()


# ---- Both ----


@pytest.mark.parametrize("draw", [feature_map, class_scatter])
def test_examples_without_a_class_are_left_out(draw):
    features, labels = blobs(30, 3)
    more = np.concatenate([features, 1e6 * features[:5]]), np.concatenate([labels, np.full(5, -100)])
    assert np.array_equal(pixels(draw({"a": (features, labels)})), pixels(draw({"a": more})))


@pytest.mark.parametrize("draw", [feature_map, class_scatter])
@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.ones(3), np.zeros(3, int), r"\['a'\] must be .*features \[3\]"),
        (np.ones((3, 2)), np.zeros(2, int), r"class ids \[2\]"),
        (np.ones((3, 2)), np.zeros(3), "of dtype float64"),
        (np.ones((3, 2)), np.full(3, -100), r"features \[0, 2\]"),
        (np.ones((0, 2)), np.zeros(0, int), r"features \[0, 2\]"),
        (np.ones((3, 0)), np.zeros(3, int), r"features \[3, 0\]"),
        (np.array([[1.0], [np.nan], [np.inf]]), np.zeros(3, int), "2 of their values not finite"),
    ],
)
def test_feature_sets_of_other_shapes_are_refused(draw, features, labels, message):
    with pytest.raises(ValueError, match=message):
        draw({"a": (features, labels)})


def test_other_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"feature_sets=\{\} must hold"):
        feature_map({})
    with pytest.raises(ValueError, match="method='lda' must be one of 'pca', 'tsne', 'umap'"):
        feature_map({"a": blobs(9, 3)}, method="lda")
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match=f"seed={seed} must be from 0 to"):
            feature_map({"a": blobs(9, 3)}, seed=seed)


def test_figures_are_the_same_again_and_in_threads():
    names = ["plain curves", "2 classes", "scatter of 1"]
    with ThreadPoolExecutor(3) as pool:
        threaded = list(pool.map(lambda name: pixels(FIGURES[name]()), 2 * names))
    for name, *images in zip(names, threaded[:3], threaded[3:], strict=True):
        again = pixels(FIGURES[name]())
        assert all(np.array_equal(image, again) for image in images), name


def test_half_precision_features_and_lists_are_taken():
    features, labels = blobs(30, 3)
    half = features.astype(np.float16)
    figures = [feature_map({"a": each}) for each in [(half.astype(float), labels), (half, labels.tolist())]]
    one, other = (drawn(figure.axes[0]) for figure in figures)
    assert all(np.array_equal(one[look], other[look]) for look in one)


def test_without_matplotlib_the_import_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "itra_hf.reports.plots")
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=re.escape('pip install "itra_hf[plots]"')):
        importlib.import_module("itra_hf.reports.plots")


def test_nothing_else_imports_matplotlib_and_nothing_pyplot():
    for path in Path(itra_hf.__file__).parent.rglob("*.py"):
        imports = re.findall(r"^ *(?:from|import) .*", path.read_text(), re.MULTILINE)
        assert not any("pyplot" in line for line in imports), path
        if path.name not in ("plots.py", "drawing.py", "pictures.py"):
            assert not any("matplotlib" in line for line in imports), path
            at_once = [line for line in imports if not line.startswith(" ")]
            assert not any(re.search(r"\b(plots|drawing|pictures)\b", line) for line in at_once), path


def test_ratios_of_all_examples_stand_above_a_sample():
    sample = np.random.default_rng(0).normal(size=(9, 3)), np.arange(9) % 3
    figure = plots.feature_map({"a": sample}, ratios={"a": 0.125})
    assert "scatter 0.125" in figure.axes[0].get_title()
