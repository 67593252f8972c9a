"""Learning curves: which panels and lines, and what is left out."""

import math

import numpy as np
import pytest
from pictures import history, legend, pixels, texts

from itra_hf.reports.plots import learning_curves


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
