"""Pictures: what is in them, and that all of it is readable."""

import importlib
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from pictures import LONG, blobs, drawn, history, imbalanced, legend, pixels, texts

import itra_hf
from itra_hf.reports import plots
from itra_hf.reports.plots import class_scatter, feature_map, learning_curves

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
