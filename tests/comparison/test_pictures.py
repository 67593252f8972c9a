"""The pictures of a comparison."""

import builtins
from dataclasses import replace

import numpy as np
import pytest
from studies import build_plan, study

from itra_hf.comparison import pictures
from itra_hf.comparison.assessment import FEATURES
from itra_hf.comparison.report import write_reports
from itra_hf.comparison.summary import Comparison
from itra_hf.comparison.variants import TWICE


def test_without_matplotlib_the_page_has_no_pictures(tmp_path, monkeypatch):
    plan = build_plan(tmp_path, {"new": {}})
    load = builtins.__import__

    def without(name, *args):
        if args[2:] and "pictures" in (args[2] or ()):
            raise ImportError("No module named 'matplotlib'")
        return load(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    write_reports(study(plan)[0], "title")
    text = (tmp_path / "comparison.html").read_text()
    assert "<img" not in text
    assert "better than Trainer" in text


def test_differences_stand_where_the_tables_say(tmp_path):
    comparison, _ = study(build_plan(tmp_path, {"$x$ new": {}}, sizes=(9,)))
    figure = pictures.differences(comparison.sizes[0], comparison.measures)
    means = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert means == pytest.approx([0, 2.0])  # points, of twice the batch and of the variant
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [TWICE["batch"][:24], "$x$ new"]


def test_learning_curves_are_means_over_seeds(tmp_path):
    size = study(build_plan(tmp_path, {"new": {}}))[0].sizes[0]
    figure = pictures.learning_curves(size)
    assert [axis.get_ylabel() for axis in figure.axes] == ["training loss", "evaluation loss"]
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([0.8, 0.5])
    assert pictures.learning_curves(replace(size, results=[])) is None


def test_size_curves_need_two_sizes(tmp_path):
    assert pictures.size_curves(study(build_plan(tmp_path, {"new": {}}, sizes=(9,)))[0]) is None
    plan = build_plan(tmp_path, {"new": {}}, sizes=(9, 90))
    results = [each | {"trained": each["train_samples"]} for each in study(plan)[1]]
    figure = pictures.size_curves(Comparison(plan, results, {}))
    assert figure.axes[0].lines[0].get_xdata().tolist() == [9, 90]
    assert figure.axes[0].lines[2].get_ydata() == pytest.approx([84, 84])


def test_feature_maps_leave_out_what_is_not_finite(tmp_path):
    comparison, results = study(build_plan(tmp_path, {"new": {}}, seeds=(1,)))
    for place, each in enumerate(results):
        (tmp_path / each["key"]).mkdir()
        points = np.full((9, 3), np.nan) if place == 0 else np.random.default_rng(place).normal(size=(9, 3))
        np.savez(
            tmp_path / each["key"] / FEATURES, features=points, labels=np.arange(9) % 2, names=np.array(["a", "b"])
        )
    figure = pictures.feature_maps(comparison.sizes[0], tmp_path)
    assert len([axis for axis in figure.axes if axis.lines]) == 2
    assert pictures.feature_maps(replace(comparison.sizes[0], results=[]), tmp_path) is None
