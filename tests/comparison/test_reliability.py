"""Selective prediction, temperature scaling, and new classes from a few examples, against slow versions."""

import math

import numpy as np
import pytest
from scipy.special import softmax

from itra_hf.comparison.few_examples import few_example_accuracy
from itra_hf.comparison.selective import selective_figures
from itra_hf.comparison.temperature import fit_temperature


def made_up(seed, rows=60, classes=4):
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=rows)
    return random.normal(size=(rows, classes)) + 2 * np.eye(classes)[labels], labels


def loss(logits, labels, temperature):
    return -np.mean([math.log(softmax(row / temperature)[label]) for row, label in zip(logits, labels, strict=True)])


@pytest.mark.parametrize("seed", range(5))
def test_selective_figures_are_those_of_pairs_and_of_a_sorted_list(seed):
    logits, labels = made_up(seed)
    labels[:3] = -100  # not answered for
    found = selective_figures(logits, labels)
    kept = [(softmax(row).max(), row.argmax() == label) for row, label in zip(logits, labels, strict=True) if label >= 0]
    surest = sorted(kept, key=lambda each: -each[0])[: round(0.8 * len(kept))]
    assert found["selective_accuracy"] == pytest.approx(np.mean([right for _, right in surest]))
    pairs = [(one, other) for one, right in kept if right for other, wrong in kept if not wrong]
    assert found["error_auroc"] == pytest.approx(np.mean([one > other for one, other in pairs]))


def test_a_model_that_is_always_right_has_no_errors_to_tell():
    assert selective_figures(5 * np.eye(3), np.arange(3)) == {"selective_accuracy": 1.0}


@pytest.mark.parametrize("factor", [0.2, 1.0, 7.0])
def test_the_temperature_is_the_best_of_a_grid_and_scales_with_the_logits(factor):
    logits, labels = made_up(0)
    found = fit_temperature(factor * logits, labels)
    assert found == pytest.approx(factor * fit_temperature(logits, labels), rel=1e-2)
    grid = np.geomspace(0.02, 50, 400)
    assert loss(factor * logits, labels, found) <= min(loss(factor * logits, labels, each) for each in grid) + 1e-6


def test_without_labels_nothing_is_scaled():
    assert fit_temperature(np.eye(2), np.array([-100, -100])) == 1.0


@pytest.mark.parametrize("examples", [1, 5])
def test_few_examples_tell_separate_classes_apart_and_noise_by_chance_alone(examples):
    random = np.random.default_rng(0)
    labels = np.repeat([2, 5, 7], 40)
    centres = np.eye(8)[labels]
    assert few_example_accuracy(centres + 0.01 * random.normal(size=centres.shape), labels, examples, 0) == 1.0
    assert few_example_accuracy(random.normal(size=(120, 8)), labels, examples, 0) == pytest.approx(1 / 3, abs=0.1)


def test_few_examples_are_the_same_for_all_models_and_leave_small_classes_out():
    features, labels = np.random.default_rng(1).normal(size=(30, 4)), np.repeat([0, 1, 2], [20, 9, 1])
    found = few_example_accuracy(features, labels, 1, 3)
    assert found == few_example_accuracy(4 * features, labels, 1, 3) != few_example_accuracy(features, labels, 1, 4)
    assert found == few_example_accuracy(features[:29], labels[:29], 1, 3)
    assert few_example_accuracy(features, labels, 10, 3) is None


def test_few_examples_weigh_classes_alike():
    rows = [[1.0, 0.0]] * 90 + [[0.0, 1.0]] * 10 + [[1.0, 0.0]] * 10  # the last class looks like the first
    labels = np.repeat([0, 1, 2], [90, 10, 10])
    assert few_example_accuracy(np.array(rows), labels, 1, 0) == pytest.approx(2 / 3)
