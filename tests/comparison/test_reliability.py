"""Selective prediction, temperature scaling, and new classes from a few examples, against slow versions."""

import math

import numpy as np
import pytest
from commands import examples, refused, write, write_config
from scipy.special import logsumexp, softmax
from sklearn.preprocessing import normalize

from itra_hf.cli import parse_comparison
from itra_hf.comparison import assessment
from itra_hf.comparison.few_examples import few_example_accuracy
from itra_hf.comparison.propagation import propagate
from itra_hf.comparison.run import build, measure
from itra_hf.comparison.selective import selective_figures
from itra_hf.comparison.spoiling import HELD_OUT
from itra_hf.comparison.temperature import fit_temperature


def made_up(seed, rows=60, classes=4):
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=rows)
    return random.normal(size=(rows, classes)) + 2 * np.eye(classes)[labels], labels


def loss(logits, labels, temperature):
    """Of `n` labels and one more that is spread evenly."""
    rows = [row / temperature - logsumexp(row / temperature) for row in logits]
    known = sum(row[label] for row, label in zip(rows, labels, strict=True))
    return -(known + np.mean(rows)) / (len(rows) + 1)


@pytest.mark.parametrize("seed", range(5))
def test_selective_figures_are_those_of_pairs_and_of_a_sorted_list(seed):
    logits, labels = made_up(seed)
    labels[:3] = -100  # not answered for
    found = selective_figures(logits, labels)
    kept = [
        (softmax(row).max(), row.argmax() == label) for row, label in zip(logits, labels, strict=True) if label >= 0
    ]
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


def test_a_model_that_is_right_on_all_of_a_few_examples_is_not_made_infinitely_sure():
    logits, labels = 5 * np.eye(15)[np.arange(20) % 15], np.arange(20) % 15
    assert 0.5 < fit_temperature(logits, labels) < 2
    assert fit_temperature(logits / 1000, labels) == pytest.approx(fit_temperature(logits, labels) / 1000, rel=1e-3)


def test_of_examples_that_are_equally_sure_the_order_decides_nothing():
    logits, labels = np.zeros((10, 2)), np.repeat([0, 1], 5)
    for order in (slice(None), slice(None, None, -1)):
        assert selective_figures(logits[order], labels[order])["selective_accuracy"] == 0.5


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


@pytest.mark.parametrize("examples_each", [1, 3])
def test_few_examples_are_tested_on_the_others_one_by_one(examples_each):
    random, labels = np.random.default_rng(4), np.repeat([0, 1, 2], [6, 9, 5])
    features = random.normal(size=(20, 3)) + np.eye(3)[labels]
    rows, draws, wanted = [row / math.dist(row, [0] * 3) for row in features], np.random.default_rng(7), []
    for _ in range(20):
        known = {each: draws.choice(np.flatnonzero(labels == each), examples_each, False) for each in (0, 1, 2)}
        means = {each: np.mean([rows[index] for index in known[each]], axis=0) for each in known}
        right = {0: [], 1: [], 2: []}
        for index in set(range(20)) - {each for drawn in known.values() for each in drawn}:
            nearest = min(means, key=lambda each, index=index, means=means: math.dist(means[each], rows[index]))
            right[labels[index]].append(nearest == labels[index])
        wanted.append(np.mean([np.mean(each) for each in right.values()]))
    assert few_example_accuracy(features, labels, examples_each, 7) == pytest.approx(np.mean(wanted))


def test_few_examples_weigh_classes_alike():
    rows = [[1.0, 0.0]] * 90 + [[0.0, 1.0]] * 10 + [[1.0, 0.0]] * 10  # the last class looks like the first
    labels = np.repeat([0, 1, 2], [90, 10, 10])
    assert few_example_accuracy(np.array(rows), labels, 1, 0) == pytest.approx(2 / 3)


# ---- Runs ----


def plan_of(folder, model_folder, rows=None, **fields):
    train, test = rows or (examples(60, 0), examples(45, 1))
    files = {f"{name}_file": write(folder, f"{name}.jsonl", data) for name, data in (("train", train), ("test", test))}
    files["validation_file"] = files["test_file"]
    fields = {"max_steps": 3, "equal_compute": "none", "seeds": "[1]", **files, **fields}
    return parse_comparison([write_config(folder, model_folder, **fields)])


def test_a_run_keeps_examples_out_and_measures_with_the_temperature_that_fits_them(model_folder, tmp_path, monkeypatch):
    fitted = []
    monkeypatch.setattr(assessment, "fit_temperature", lambda *arrays: fitted.append(arrays) or 2.0)
    plan = plan_of(tmp_path, model_folder, temperature_share=0.1, max_train_samples="[40]", label_noise=0.5)
    plain, own = (measure(run, tmp_path) for run in plan.runs())
    assert plain["trained"] == own["trained"] == 36
    (logits, labels), (_, same) = fitted
    assert logits.shape == (4, 3)
    assert labels.tolist() == same.tolist()
    for found in (plain, own):
        figures = found["metrics"]
        assert figures["nll_scaled"] != figures["nll"]
        assert 0 <= figures["calibration_error_scaled"] <= 1
        assert 0 <= figures["selective_accuracy"] <= 1


def test_what_is_kept_out_is_not_trained_on(model_folder, tmp_path):
    rows = [{"text": f"news {number}", "label": "red" if number % 2 else "blue"} for number in range(40)]
    run = next(plan_of(tmp_path, model_folder, (rows, rows[:10]), temperature_share=0.25).runs())
    trainer, _, _, others = build(run, tmp_path)
    trained, kept = (sorted(map(tuple, data["input_ids"][:])) for data in (trainer.train_dataset, others[HELD_OUT]))
    assert (len(trained), len(kept)) == (30, 10)
    whole, *_ = build(next(plan_of(tmp_path, model_folder, (rows, rows[:10])).runs()), tmp_path)
    assert sorted(trained + kept) == sorted(map(tuple, whole.train_dataset["input_ids"][:]))


def test_left_out_classes_are_learnt_from_a_few_examples(model_folder, tmp_path):
    colours = ["red", "blue", "green", "grey"]
    rows = [{"text": f"a {colours[number % 4]} thing", "label": colours[number % 4]} for number in range(80)]
    plan = plan_of(tmp_path, model_folder, (rows, rows), unknown_classes=2)
    figures = measure(next(plan.runs()), tmp_path)["metrics"]
    assert {"new_classes_1", "new_classes_5"} <= set(figures)


def test_propagated_figures_are_those_of_propagated_features(model_folder, tmp_path, monkeypatch):
    asked, found = [], iter([0.1, 0.2, 0.3, 0.4])
    monkeypatch.setattr(assessment, "few_example_accuracy", lambda *given: asked.append(given) or next(found))
    colours = ["red", "blue", "green", "grey"]
    rows = [{"text": f"a {colours[number % 4]} thing {number}", "label": colours[number % 4]} for number in range(40)]
    figures = measure(next(plan_of(tmp_path, model_folder, (rows, rows), unknown_classes=2).runs()), tmp_path)[
        "metrics"
    ]
    names = ("new_classes_1", "new_classes_5", "new_classes_1_propagated", "new_classes_5_propagated")
    assert [figures[name] for name in names] == [0.1, 0.2, 0.3, 0.4]
    assert [given[2] for given in asked] == [1, 5, 1, 5]
    (plain, classes, _, seed), (smooth, some, *_) = asked[0], asked[2]
    order = np.random.default_rng(seed).permutation(len(classes))
    assert (some == classes[order]).all()
    np.testing.assert_allclose(smooth, propagate(normalize(plain[order].astype(np.float64))))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature_share": 1.0}, "temperature_share=1.0 must be from 0 to below 1"),
        ({"metric": "nll_scaled"}, "metric='nll_scaled' needs temperature_share above 0"),
        ({"metric": "new_classes_5"}, "metric='new_classes_5' needs unknown_classes >= 2"),
    ],
)
def test_what_can_not_be_measured_is_refused(fields, message, model_folder, tmp_path, capsys):
    config = write_config(tmp_path, model_folder, train_file="x.csv", **fields)
    assert message in refused(["compare", config], capsys)


def test_a_share_of_no_example_is_an_error(model_folder, tmp_path):
    run = next(plan_of(tmp_path, model_folder, temperature_share=0.001).runs())
    with pytest.raises(ValueError, match=r"temperature_share=0.001 of 60 examples keeps none out, or all"):
        build(run, tmp_path)
