"""The figures of `itra_hf.reports.compactness` against slow re-implementations, and what must not change them."""

import math
import time
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import slow_compactness, slow_rank, square

from itra_hf.reports.compactness import FIGURES, ClassStatistics, compactness

INVARIANT = ("scatter_ratio", "class_separation", "effective_rank", "neural_collapse_distance")


def blobs(count, dim=5, classes=4, seed=0, spread=1.0):
    """Features of random classes that overlap, with few examples of the last ones."""
    rng = np.random.default_rng(seed)
    labels = np.minimum(rng.geometric(0.4, size=count) - 1, classes - 1)
    return 2 * rng.normal(size=(classes, dim))[labels] + spread * rng.normal(size=(count, dim)), labels


def gathered(features, labels, sizes=(10**9,), **options):
    """The statistics of batches of these sizes, the last of them repeated."""
    statistics, start, sizes = ClassStatistics(**options), 0, list(sizes)
    while start < len(labels):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        statistics.add(features[start : start + size], labels[start : start + size])
        start += size
    return statistics


def assert_figures(got, expected, rel=1e-9):
    assert list(got) == list(expected) == list(FIGURES)
    for name, value in expected.items():
        # A singular value is the root of an eigenvalue, and so is its rounding error.
        tolerance = max(rel, 1e-5) if name == "effective_rank" else rel
        assert got[name] == pytest.approx(value, rel=tolerance, abs=1e-12), name


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    count=st.integers(12, 60),
    dim=st.integers(1, 12),
    classes=st.integers(2, 5),
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 60),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
)
def test_every_figure_is_what_loops_give(count, dim, classes, seed, batch, scale):
    features, labels = blobs(count, dim, classes, seed)
    labels[:classes] = np.arange(classes)
    labels = 3 * labels + 2  # ids that are never seen lie between
    labels[np.random.default_rng(seed).choice(np.arange(classes, count), 3, replace=False)] = [-100, -1, -100]
    expected = slow_compactness(scale * features, labels)
    assert_figures(gathered(scale * features, labels, [batch]).compactness(), expected)
    kept = labels >= 0
    names = np.array([f"class {label}" for label in labels])
    assert_figures(compactness(scale * features[kept], names[kept]), expected)


@pytest.mark.parametrize("most", [2000, 40])
@pytest.mark.parametrize("sizes", [[1], [7], [1, 50, 2, 13], [90, 3]])
def test_batches_change_nothing(sizes, most):
    features, labels = blobs(230)
    whole, parts = (gathered(features, labels, each, max_samples=most) for each in ([230], sizes))
    assert_figures(parts.compactness(), whole.compactness(), rel=1e-12)
    for left, right in zip(parts.sample(), whole.sample(), strict=True):
        assert left.tobytes() == right.tobytes()
    assert len(whole.sample()[0]) == (230 if most == 2000 else 40)


def test_batches_change_nothing_where_rare_classes_come_late():
    features, labels = np.random.default_rng(0).normal(size=(100, 3)), [0] * 90 + [1, 2] + [3] * 8
    whole, *parts = (gathered(features, labels, sizes, max_samples=40).sample() for sizes in ([100], [92, 8], [1]))
    for part in parts:
        assert all(left.tobytes() == right.tobytes() for left, right in zip(part, whole, strict=True))


def test_asking_in_between_changes_nothing():
    features, labels = blobs(230)
    asked, plain = ClassStatistics(max_samples=40), gathered(features, labels, [10], max_samples=40)
    for start in range(0, 230, 10):
        asked.add(features[start : start + 10], labels[start : start + 10])
        asked.compactness()
    assert asked.compactness() == plain.compactness()


def test_classes_may_come_one_after_the_other():
    features, labels = blobs(60)
    order = np.argsort(-labels, kind="stable")
    assert_figures(gathered(features[order], labels[order], [5]).compactness(), slow_compactness(features, labels))


@pytest.mark.parametrize(("offset", "batch"), [(1e6, 3), (1e6, 60), (1e9, 3)])
def test_features_far_from_the_origin(offset, batch):
    features, labels = blobs(60)
    got = gathered(features + offset, labels, [batch]).compactness()
    assert_figures(got, slow_compactness(features, labels), rel=1e-14 * offset)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_inputs_are_summed_in_float64(dtype):
    features, labels = blobs(60)
    narrow = torch.tensor(1000 + 30 * features).to(dtype).float()
    numbers = narrow.numpy() if dtype is not torch.float16 else narrow.to(dtype).numpy()
    expected = compactness(narrow.double().numpy(), labels)
    assert compactness(numbers, labels) == compactness(numbers.tolist(), labels.tolist()) == expected
    assert gathered(narrow.numpy(), labels.astype(np.uint8)).compactness() == expected


def test_scatter_of_each_class():
    features, labels = blobs(50)
    labels = np.where(labels == 1, 6, labels)
    within, between = gathered(features, labels, [9]).scatter_by_class()
    assert np.isnan([within[[1, 4, 5]], between[[1, 4, 5]]]).all()
    for own in (0, 2, 3, 6):
        mean = features[labels == own].mean(axis=0)
        assert within[own] == pytest.approx(np.mean([square(h - mean) for h in features[labels == own]]))
        assert between[own] == pytest.approx(square(mean - features.mean(axis=0)))


# ---- More examples than are kept ----


def test_many_examples_are_sampled_class_by_class():
    features, labels = blobs(12_000, dim=8, classes=6, spread=3.0)
    features[labels == 0] += 8.0  # the largest class is the one that is easy to tell
    statistics = gathered(features, labels, [500])
    sample, ids, weights = statistics.sample()
    counts = np.bincount(labels)
    np.testing.assert_array_equal(np.bincount(ids), np.minimum(counts, 2000 // 6))
    np.testing.assert_allclose(np.bincount(ids, weights), counts)
    rows = {row.tobytes(): label for row, label in zip(features, labels, strict=True)}
    assert [rows[row.tobytes()] for row in sample] == ids.tolist()
    got, expected = statistics.compactness(), slow_compactness(features, labels)
    for name in FIGURES:
        rel = {"class_separation": 0.02, "effective_rank": 0.01}.get(name, 1e-9)
        assert got[name] == pytest.approx(expected[name], rel=rel), name


def test_sampling_takes_any_example_of_a_class():
    sample = gathered(np.arange(9000.0)[:, None], np.zeros(9000, dtype=int), [64]).sample()[0]
    assert abs(sample.mean() / 4499.5 - 1) < 0.03  # neither the first nor the last


@pytest.mark.parametrize(("classes", "most"), [(3, 4000), (300, 4000), (2500, 10000)])
def test_memory_is_bounded(classes, most):
    rng, statistics = np.random.default_rng(0), ClassStatistics()
    for _ in range(60):
        statistics.add(rng.normal(size=(200, 4)), rng.integers(classes, size=200))
        for part in zip(*statistics._kept, strict=True):
            assert sum(map(len, part)) <= most + 200
    assert statistics.means.shape == (classes, 4)
    kept = np.bincount(statistics.sample()[1], minlength=classes)
    assert kept.sum() <= max(2000, 2 * classes)
    np.testing.assert_array_equal(np.minimum(kept, 2), np.minimum(statistics.counts, 2))


def test_it_is_fast():
    features, labels = blobs(20_000, dim=128, classes=20)
    start = time.process_time()
    gathered(features, labels, [50]).compactness()
    assert time.process_time() - start < 3  # 0.3 s where this was written


# ---- What the figures mean ----


def test_scale_and_rotation():
    features, labels = blobs(80)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    plain, turned, scaled = (compactness(h, labels) for h in (features, features @ rotation, 7.0 * features))
    assert_figures(turned, plain)
    for name in FIGURES:
        assert scaled[name] == pytest.approx(plain[name] * (1 if name in INVARIANT else 49.0)), name


def test_directions():
    tight, loose = (compactness(*blobs(300, spread=spread)) for spread in (0.2, 3.0))
    assert tight["scatter_ratio"] < loose["scatter_ratio"]
    assert 0.25 < loose["class_separation"] < tight["class_separation"] == 1
    assert 1 < tight["effective_rank"] < loose["effective_rank"] <= 5


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_collapse_onto_a_simplex(classes):
    labels = np.arange(5 * classes) % classes
    corners = np.random.default_rng(0).normal(size=10) + 3 * np.eye(classes, 10)
    figures = compactness(corners[labels], labels)
    assert figures["neural_collapse_distance"] == pytest.approx(0, abs=1e-7)
    assert figures["effective_rank"] == pytest.approx(classes - 1, abs=1e-4)
    assert figures["within_class_scatter"] == pytest.approx(0, abs=1e-20)
    assert figures["scatter_ratio"] == pytest.approx(0, abs=1e-20)
    assert figures["class_separation"] == 1


def test_collapse_in_as_many_dimensions_as_a_simplex_needs():
    angles = 2 * np.pi * np.arange(3) / 3
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = np.arange(30) % 3
    for turn in np.linspace(0, 2 * np.pi, 300):
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        figures = compactness((corners @ rotation)[labels], labels)
        assert figures["neural_collapse_distance"] == pytest.approx(0, abs=1e-7)


def test_one_class():
    figures = compactness([[0.0, 2.0], [0.0, 4.0], [3.0, 3.0]], ["a"] * 3)
    assert figures["within_class_scatter"] == pytest.approx(8 / 3)
    assert figures["between_class_scatter"] == 0
    assert figures["scatter_ratio"] == math.inf
    assert figures["class_separation"] == 1
    assert math.isnan(figures["neural_collapse_distance"])


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_one_point(offset, count):
    figures = compactness(np.full((count, 3), offset + 0.1), [5] * count)
    assert list(figures.values())[:5] == pytest.approx([0, 0, math.inf, 1, 0], abs=1e-18)
    assert figures["effective_rank"] == 0
    assert math.isnan(figures["neural_collapse_distance"])


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_means_that_coincide(offset, batch):
    half = np.random.default_rng(0).normal(size=(4, 3))
    features, labels = offset + np.concatenate([half, -half]), [0, 0, 1, 1, 0, 0, 1, 1]
    figures = gathered(features, labels, [batch]).compactness()
    assert figures["scatter_ratio"] == math.inf
    assert math.isnan(figures["neural_collapse_distance"])
    assert figures["within_class_scatter"] == pytest.approx(np.mean([square(h) for h in half]), rel=1e-7)
    assert figures["effective_rank"] == pytest.approx(slow_rank(features))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("batch", [2, 20])
def test_features_that_are_not_finite_give_nan(bad, batch):
    features, labels = blobs(20)
    features[9, 1] = bad
    figures = gathered(features, labels, [batch]).compactness()
    assert list(figures) == list(FIGURES)
    assert all(math.isnan(value) for value in figures.values())


def test_nothing_gives_nan():
    ignored = gathered(np.ones((3, 2)), [-100, -1, -100])
    for figures in (ClassStatistics().compactness(), ignored.compactness(), compactness([], [])):
        assert list(figures) == list(FIGURES)
        assert all(math.isnan(value) for value in figures.values())


# ---- What is refused ----


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([[0, 1], [1, 0], [1, 1]], r"shape \[3, 2\] and dtype int64"),
        ([0.0, 1.0, 2.0], r"shape \[3\] and dtype float64"),
        ([True, False, True], r"dtype bool"),
        (["a", "b", "a"], r"dtype <U1"),
        ([0, 1], r"shape \[2\] and dtype int64"),
        (1, r"shape \[\]"),
    ],
)
def test_labels_that_are_not_one_class_id_an_example(labels, said):
    with pytest.raises(ValueError, match=said):
        ClassStatistics().add(np.ones((3, 2)), labels)


def test_features_that_are_not_one_vector_an_example():
    with pytest.raises(ValueError, match=r"the features have shape \[2\]"):
        ClassStatistics().add([1.0, 2.0], [0, 1])


def test_negative_ids_are_left_out_and_far_ones_cost_nothing():
    features = [[0.0, 1.0], [0.0, 3.0], [4.0, 2.0], [9.0, 9.0]]
    assert compactness(features, [0, 0, 10**12, -100]) == compactness(features[:3], ["a", "a", "b"])


def test_many_classes_take_little_memory():
    features, labels = np.random.default_rng(0).normal(size=(6000, 4)), np.arange(6000) % 3000
    tracemalloc.start()
    figures = compactness(features, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
    means = (features[:3000] + features[3000:]) / 2
    gram = (means - means.mean(axis=0)) @ (means - means.mean(axis=0)).T
    simplex = np.eye(3000) - 1 / 3000
    distance = np.linalg.norm(gram / np.linalg.norm(gram) - simplex / np.linalg.norm(simplex))
    assert figures["neural_collapse_distance"] == pytest.approx(distance, rel=1e-6)


def test_features_of_other_dimensions():
    with pytest.raises(ValueError, match="Features of 3 dimensions came after features of 5"):
        gathered(*blobs(10)).add(np.ones((2, 3)), [0, 1])
