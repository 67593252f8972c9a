"""Feature maps: what is drawn where, in which colours and under which names."""

import re
import sys
import types
from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from pictures import HARD_NAMES, LONG, blobs, drawn, imbalanced, legend, pixels

from itra_hf.reports import plots
from itra_hf.reports.compactness import compactness
from itra_hf.reports.plots import class_scatter, feature_map


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
