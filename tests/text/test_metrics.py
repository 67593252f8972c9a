"""The metrics of `itra_hf.text.metrics` against slow re-implementations, alone, combined and in `compute_metrics`."""

import math
import socket

import datasets
import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import slow_accuracy, slow_brier, slow_calibration, slow_f1, slow_matthews, slow_regression
from scipy.special import expit, softmax
from sklearn.metrics import brier_score_loss
from transformers import EvalPrediction

from itra_hf.reports.compactness import compactness
from itra_hf.text.metrics import (
    F1,
    Accuracy,
    BrierScore,
    CalibrationError,
    Compactness,
    MatthewsCorrelation,
    RegressionErrors,
    compute_metrics_for,
)

AVERAGES = ("macro", "micro", "weighted")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Whatever asks for the network fails."""

    def refuse(*ignored, **also):
        raise AssertionError("a metric asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def compute(metric, **inputs):
    return metric(keep_in_memory=True).compute(**inputs)


def only(figures):
    (value,) = figures.values()
    assert type(value) is float
    return value


def problem(seed, count, classes, several):
    """Random scores, decisions and labels, some labels of which never occur."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(count, classes))
    if several:
        truth = (rng.random((count, classes)) < rng.choice([0.0, 0.3, 1.0], size=classes)).astype(int)
        return expit(logits), (logits > 0).astype(int), truth
    return softmax(logits, axis=1), logits.argmax(axis=1), rng.integers(0, max(classes - 1, 1), size=count)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(2, 5), st.booleans(), st.sampled_from([1, 4, 15]))
def test_every_metric_is_what_loops_give(seed, count, classes, several, bins):
    scores, guess, truth = problem(seed, count, classes, several)
    decisions = {"predictions": guess, "references": truth}
    shares = {"prediction_scores": scores, "references": truth}
    assert compute(Accuracy, **decisions) == {"accuracy": pytest.approx(slow_accuracy(guess, truth))}
    for average in AVERAGES:
        score = compute(F1, **decisions, average=average)
        assert score == {f"f1_{average}": pytest.approx(slow_f1(guess, truth, average))}
    correlation = only(compute(MatthewsCorrelation, **decisions))
    assert correlation == pytest.approx(slow_matthews(guess, truth), abs=1e-9)
    assert -1 <= correlation <= 1
    error = compute(CalibrationError, **shares, bins=bins)
    assert error == {"calibration_error": pytest.approx(slow_calibration(scores, truth, bins))}
    assert compute(BrierScore, **shares) == {"brier_score": pytest.approx(slow_brier(scores, truth))}


def test_regression_errors():
    truth, guess = np.random.default_rng(0).normal(size=(2, 30))
    got = compute(RegressionErrors, predictions=guess, references=truth)
    assert got == pytest.approx(slow_regression(guess, truth))
    assert compute(RegressionErrors, predictions=truth, references=truth) == {"mse": 0, "mae": 0, "r2": 1}


def test_compactness_is_that_of_the_features():
    features, labels = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 3
    assert compute(Compactness, features=features, references=labels) == compactness(features, labels)


@pytest.mark.parametrize("several", [False, True])
def test_the_best_and_the_worst(several):
    truth = np.array([[1, 0], [0, 1], [1, 0], [0, 1]]) if several else np.array([0, 1, 0, 1])
    scores = np.eye(2)[[0, 1, 0, 1]]
    for guess, share, best, brier in ((truth, scores, 1, 0), (1 - truth, 1 - scores, 0, 1 if several else 2)):
        assert only(compute(Accuracy, predictions=guess, references=truth)) == best
        assert only(compute(F1, predictions=guess, references=truth)) == best
        assert only(compute(MatthewsCorrelation, predictions=guess, references=truth)) == pytest.approx(2 * best - 1)
        assert only(compute(BrierScore, prediction_scores=share, references=truth)) == brier
        assert only(compute(CalibrationError, prediction_scores=share, references=truth)) == 1 - best


def test_two_classes_have_twice_the_brier_score_of_scikit_learn():
    scores, truth = problem(3, 30, 2, several=False)[0], np.arange(30) % 2
    error = only(compute(BrierScore, prediction_scores=scores, references=truth))
    assert error == pytest.approx(2 * brier_score_loss(truth, scores[:, 1]))


# ---- Calibration ----


def test_perfectly_calibrated():
    each = (6, 7, 8, 10)
    scores = [[tenths / 10, 1 - tenths / 10] for tenths in each for _ in range(10)]
    truth = [int(i >= tenths) for tenths in each for i in range(10)]
    assert only(compute(CalibrationError, prediction_scores=scores, references=truth)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("confidences", "hits", "bins", "expected"),
    [
        ([0.5, 0.75], [0, 1], 4, (0.5 + 0.25) / 2),  # 0.5 closes the second bin, 0.75 the third
        ([0.75, 0.76], [0, 1], 4, (0.75 + 0.24) / 2),
        ([0.51, 0.75], [0, 1], 4, 0.13),  # one bin: half of them right, with 0.63
        ([1.0, 1.0], [1, 0], 15, 0.5),
        ([0.0, 0.1], [0, 1], 4, 0.45),  # confidence 0 opens the first bin
        ([0.0, 0.3], [1, 0], 4, (1.0 + 0.3) / 2),
    ],
)
def test_bins_by_hand(confidences, hits, bins, expected):
    scores = np.array(confidences)[:, None]  # one class: the confidence is what it is
    truth = [0 if hit else 1 for hit in hits]
    error = compute(CalibrationError, prediction_scores=scores, references=truth, bins=bins)
    assert error == {"calibration_error": pytest.approx(expected)}


@pytest.mark.parametrize("bins", [0, -3])
def test_what_is_refused(bins):
    with pytest.raises(ValueError, match=f"bins={bins} must be at least 1"):
        compute(CalibrationError, prediction_scores=[[1.0, 0.0]], references=[0], bins=bins)
    with pytest.raises(ValueError, match="average='samples' is not one of 'macro', 'micro', 'weighted'"):
        compute(F1, predictions=[0], references=[0], average="samples")


@pytest.mark.parametrize("references", [[0, 1], [[0, 1], [1, 1]]])
@pytest.mark.parametrize("metric", [CalibrationError, BrierScore])
def test_nan_scores_give_nan(metric, references):
    assert math.isnan(only(compute(metric, prediction_scores=[[0.5, 0.5], [math.nan, 1.0]], references=references)))


# ---- Like metrics from the hub ----


class HubMetric(evaluate.Metric):
    """What a script on the hub looks like."""

    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")})
        return evaluate.MetricInfo(description="Zeros.", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references, share=True):
        return {"zeros": sum(p == 0 for p in predictions) / (len(predictions) if share else 1)}


@pytest.mark.parametrize("several", [False, True])
def test_batches_add_up_and_are_forgotten(several, tmp_path):
    scores, guess, truth = problem(0, 12, 3, several)
    for metric, name, values in ((F1, "predictions", guess), (CalibrationError, "prediction_scores", scores)):
        whole, batched = compute(metric, **{name: values}, references=truth), metric(cache_dir=str(tmp_path))
        for _ in range(2):
            for part in (slice(0, 5), slice(5, 12)):
                batched.add_batch(**{name: values[part]}, references=truth[part])
            assert batched.compute() == whole


def test_metrics_of_the_same_inputs_combine(tmp_path):
    _, guess, truth = problem(1, 20, 3, several=False)
    inputs = {"predictions": guess, "references": truth}
    metrics = [metric(cache_dir=str(tmp_path)) for metric in (Accuracy, F1, MatthewsCorrelation, HubMetric)]
    expected = {name: value for metric in metrics for name, value in metric.compute(**inputs).items()}
    assert evaluate.combine(metrics).compute(**inputs) == expected
    assert set(expected) == {"accuracy", "f1_macro", "matthews_correlation", "zeros"}


def test_metrics_of_different_inputs_combine_through_batches(tmp_path):
    scores, guess, truth = problem(1, 20, 3, several=False)
    inputs = {"predictions": guess, "prediction_scores": scores, "features": scores - 0.3, "references": truth}
    kinds = {Accuracy: "predictions", BrierScore: "prediction_scores", Compactness: "features"}
    kinds |= {CalibrationError: "prediction_scores", HubMetric: "predictions"}
    expected = {}
    for metric, name in kinds.items():
        expected |= compute(metric, **{name: inputs[name]}, references=inputs["references"])
    together = evaluate.combine([metric(cache_dir=str(tmp_path)) for metric in kinds])
    for part in (slice(0, 3), slice(3, 20)):
        together.add_batch(**{name: values[part] for name, values in inputs.items()})
    assert together.compute() == expected


# ---- In a Trainer ----


def expected_figures(scores, guess, truth):
    figures = {"accuracy": slow_accuracy(guess, truth), "matthews_correlation": slow_matthews(guess, truth)}
    figures |= {f"f1_{average}": slow_f1(guess, truth, average) for average in AVERAGES}
    figures |= {"calibration_error": slow_calibration(scores, truth, 15), "brier_score": slow_brier(scores, truth)}
    return figures


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "tuple", "huge", "one"])
@pytest.mark.parametrize("several", [False, True])
def test_compute_metrics_of_classifiers(several, kind):
    logits = 2 * np.random.default_rng(0).normal(size=(24, 3))
    truth = np.arange(72).reshape(24, 3) % 5 % 2 if several else np.arange(24) % 3
    logits = logits * 1e4 if kind == "huge" else logits.astype(kind if kind.startswith("float") else np.float32)
    logits, truth = (logits[:1], truth[:1]) if kind == "one" else (logits, truth)
    name = "multi_label_classification" if several else "single_label_classification"
    given_logits = (logits, np.zeros(3)) if kind == "tuple" else logits
    got = compute_metrics_for(name)(EvalPrediction(given_logits, truth.astype(float) if several else truth))
    logits = logits.astype(np.float64)
    scores, guess = (expit(logits), logits > 0) if several else (softmax(logits, axis=1), logits.argmax(axis=1))
    assert got == pytest.approx(expected_figures(scores, guess.astype(int), truth))


@pytest.mark.parametrize("shape", [(9,), (9, 1), (9, 2)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_compute_metrics_of_a_regression(shape, dtype):
    logits, labels = np.random.default_rng(0).normal(size=(2, *shape)).astype(dtype)
    got = compute_metrics_for("regression")(EvalPrediction((logits,), labels))
    assert got == pytest.approx(slow_regression(*(v.astype(np.float64).ravel() for v in (logits, labels))))


def test_a_regression_that_diverged_gives_nan():
    errors = compute_metrics_for("regression")(EvalPrediction(np.full((4, 1), np.nan), np.arange(4.0)))
    assert all(math.isnan(value) for value in errors.values())


def test_examples_that_the_loss_ignores_are_left_out():
    logits, labels = np.random.default_rng(0).normal(size=(6, 3)), np.array([0, 1, -100, 2, 0, -100])
    compute = compute_metrics_for("single_label_classification")
    assert compute(EvalPrediction(logits, labels)) == compute(EvalPrediction(logits[labels >= 0], labels[labels >= 0]))


def test_confidence_on_a_boundary_belongs_below_it():
    scores = np.array([0.07, 0.14, 0.28, 0.55, 0.56])  # times 100, some are a hair above an integer
    groups = [
        CalibrationError(keep_in_memory=True).compute(
            prediction_scores=[[score, 0.0], [score - 0.005, 0.0]], references=[0, 1], bins=100
        )["calibration_error"]
        for score in scores
    ]
    assert groups == pytest.approx([abs(1 - 2 * score + 0.005) / 2 for score in scores])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("several", [False, True])
def test_metrics_of_logits_that_are_not_finite_are_nan(several, bad):
    logits = np.random.default_rng(0).normal(size=(6, 3))
    truth = np.arange(18).reshape(6, 3) % 2 if several else np.arange(6) % 3
    name = "multi_label_classification" if several else "single_label_classification"
    whole = compute_metrics_for(name)(EvalPrediction(logits, truth))
    logits[2, 1] = bad
    got = compute_metrics_for(name)(EvalPrediction(logits, truth))
    assert set(got) == set(whole)
    assert all(math.isnan(value) for value in got.values())


@pytest.mark.parametrize("shape", [(4,), (4, 3)])
def test_an_evaluation_set_without_any_label_has_no_metrics_and_says_so_once(shape, caplog):
    compute = compute_metrics_for(f"{'multi' if len(shape) > 1 else 'single'}_label_classification")
    for _ in range(2):
        assert compute(EvalPrediction(np.zeros((4, 3)), np.full(shape, -100))) == {}
    assert sum("has no labels" in record.message for record in caplog.records) == 1


def test_a_regression_of_targets_that_are_missing_is_nan():
    errors = compute_metrics_for("regression")(EvalPrediction(np.zeros((2, 1)), np.array([1.0, np.nan])))
    assert all(math.isnan(value) for value in errors.values())
