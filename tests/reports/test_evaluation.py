"""Compactness in evaluation: what is measured, and when."""

import copy
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from families import LABELS, build, examples
from measuring import (
    BOTH,
    EVALUATED,
    TEST,
    UNLABELLED,
    count_passes,
    expected_of,
    figures_logged,
    hook_count,
    measured,
    measuring_trainer,
    trainer_of,
)
from trainers import config
from transformers import Trainer, TrainingArguments

from itra_hf import ITRAMixin, ITRATrainer
from itra_hf.hub.publishing import ReportingMixin
from itra_hf.reports.compactness import FIGURES


def error_rate(prediction, compute_result=True):
    return {"error": 0.25}


# ---- What evaluation measures ----


@BOTH
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"matching_weight": 0.0},
        {"feature": "cls"},
        {"feature": "bert.pooler.dense"},
        {"prediction_loss_only": True},
        {"compute_metrics": error_rate},
        {"compute_metrics": error_rate, "batch_eval_metrics": True},
        {"label_smoothing_factor": 0.1},
        {"eval_accumulation_steps": 1},
        {"eval_do_concat_batches": False},
        {"dataloader_num_workers": 1},
        {"bf16_full_eval": True},
    ],
)
def test_evaluation_adds_what_the_features_give(settings, kind, tmp_path):
    trainer = measuring_trainer(kind, tmp_path, **settings)
    metrics = trainer.evaluate()
    assert measured(metrics) == expected_of(trainer, feature=settings.get("feature", "auto"))
    assert list(measured(metrics)) == list(FIGURES)
    assert math.isfinite(metrics["eval_loss"])
    assert ("eval_error" in metrics) == ("compute_metrics" in settings)
    assert measured(trainer.evaluate()) == measured(metrics)
    assert hook_count(trainer.model) == 0


@BOTH
@pytest.mark.parametrize("settings", [{}, {"bf16": True}, {"bf16_full_eval": True}])
def test_the_model_that_is_trained_is_measured(settings, kind, tmp_path):
    trainer = measuring_trainer(kind, tmp_path, max_steps=4, eval_strategy="steps", eval_steps=2, **settings)
    trainer.train()
    assert figures_logged(trainer) == [0, 2, 4]
    assert measured(trainer.state.log_history[-2]) == expected_of(trainer)
    assert measured(trainer.state.log_history[0]) != expected_of(trainer)


def test_examples_without_a_class_are_left_out(tmp_path):
    rows = [{**row, "labels": -100 if index in (2, 7) else row["labels"]} for index, row in enumerate(TEST)]
    trainer = measuring_trainer(ITRATrainer, tmp_path, eval_dataset=rows)
    assert measured(trainer.evaluate()) == expected_of(trainer, rows)
    assert trainer._itra_evaluated.latest["eval"].counts.sum() == 9


def test_class_ids_may_come_in_a_column(tmp_path):
    rows = [{**row, "labels": [row["labels"]]} for row in TEST]
    trainer = measuring_trainer(ITRATrainer, tmp_path, eval_dataset=rows)
    assert measured(trainer.evaluate()) == expected_of(trainer, TEST)


@BOTH
def test_several_evaluation_sets(kind, tmp_path):
    sets = {"here": TEST, "there": examples("Bert", 9, seed=2)}
    trainer = measuring_trainer(kind, tmp_path, eval_dataset=sets)
    metrics = trainer.evaluate()
    for name, rows in sets.items():
        assert measured(metrics, f"eval_{name}") == expected_of(trainer, rows)
    before = {name: expected_of(trainer, rows) for name, rows in sets.items()}
    trainer.train()
    for line, (name, expected) in zip(trainer.state.log_history, before.items(), strict=False):
        assert line["step"] == 0
        assert measured(line, f"eval_{name}") == expected
    assert set(trainer._itra_evaluated.before) == {"eval_here", "eval_there"}


def test_a_stream_is_measured(tmp_path):
    stream = Dataset.from_list(TEST).to_iterable_dataset()
    trainer = measuring_trainer(ITRATrainer, tmp_path, eval_dataset=stream)
    assert measured(trainer.evaluate()) == expected_of(trainer)
    trainer.train()
    assert figures_logged(trainer) == [0]


@BOTH
def test_prediction_measures_labelled_sets_only(kind, tmp_path):
    trainer = measuring_trainer(kind, tmp_path)
    labelled, bare = trainer.predict(TEST), trainer.predict(UNLABELLED, metric_key_prefix="bare")
    assert measured(labelled.metrics, "test") == expected_of(trainer)
    assert not measured(bare.metrics, "bare")
    np.testing.assert_array_equal(bare.predictions, labelled.predictions)
    assert bare.predictions.shape == (11, LABELS)
    assert hook_count(trainer.model) == 0


class TakesLabelsOut(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = torch.nn.functional.cross_entropy(outputs.logits, labels)
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize("mixin", [ITRAMixin, ReportingMixin])
@pytest.mark.parametrize(
    ("base", "settings"), [(Trainer, {"label_smoothing_factor": 0.1}), (TakesLabelsOut, {})], ids=["smoothed", "popped"]
)
def test_a_loss_that_takes_the_labels_out_is_measured_all_the_same(mixin, base, settings, tmp_path):
    trainer = measuring_trainer(type("Mine", (mixin, base), {}), tmp_path, **settings)
    assert measured(trainer.evaluate()) == expected_of(trainer)


def test_a_batch_that_is_no_mapping_is_evaluated_without_being_measured(tmp_path):
    class Tuples(Trainer):
        def _prepare_inputs(self, inputs):
            return tuple(super()._prepare_inputs(inputs).values())

        def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
            labels, ids, mask = self._prepare_inputs(inputs) if isinstance(inputs, dict) else inputs
            with torch.no_grad():
                outputs = model(input_ids=ids, attention_mask=mask, labels=labels)
            return outputs.loss, outputs.logits, labels

    columns = [{key: row[key] for key in ("labels", "input_ids", "attention_mask")} for row in TEST]
    trainer = measuring_trainer(type("Mine", (ReportingMixin, Tuples), {}), tmp_path, eval_dataset=columns)
    plain = trainer_of(Tuples, tmp_path, eval_dataset=columns, model=trainer.model).evaluate()
    assert trainer.evaluate()["eval_loss"] == plain["eval_loss"]


@BOTH
def test_measuring_takes_one_trial_pass(kind, tmp_path):
    trainer = measuring_trainer(kind, tmp_path)
    passes = count_passes(trainer.model)
    trainer.evaluate()
    assert passes == [False] * (3 + 1)


@BOTH
def test_training_takes_the_passes_of_one_more_evaluation(kind, tmp_path):
    counts = []
    for asked in (False, True):
        trainer = trainer_of(kind, tmp_path, eval_compactness=asked, **EVALUATED)
        passes = count_passes(trainer.model)
        trainer.train()
        counts.append(len(passes))
    assert 3 <= counts[1] - counts[0] <= 5  # trial passes: before training, and where training needs none, in it


@BOTH
@pytest.mark.parametrize("arguments", ["ours", "stock"])
def test_nothing_is_measured_unless_asked_for(arguments, kind, tmp_path):
    stock = {"max_steps": 2, "use_cpu": True, "report_to": "none", "per_device_eval_batch_size": 4, **EVALUATED}
    args = TrainingArguments(str(tmp_path), **stock) if arguments == "stock" else config(tmp_path, **stock)
    trainer = kind(build("Bert"), args, train_dataset=examples("Bert", 24), eval_dataset=TEST)
    passes = count_passes(trainer.model)
    assert not measured(trainer.evaluate())
    assert len(passes) == 3
    trainer.train()
    assert figures_logged(trainer) == []
    assert trainer.state.log_history[0]["step"] == 1


# ---- Labels that are no classes ----


@BOTH
@pytest.mark.parametrize(
    ("problem", "label", "said"),
    [("regression", 0.5, r"shape \[4\] and dtype float32"), ("multi_label_classification", [1.0, 0, 1], r"\[4, 3\]")],
)
def test_other_labels_are_refused_before_the_first_step(problem, label, said, kind, tmp_path):
    rows = [{**row, "labels": label} for row in TEST]
    model = build("Bert", num_labels=1 if problem == "regression" else 3, problem_type=problem)
    given = {"train_dataset": rows, "eval_dataset": rows, "alignment": "joint"}
    trainer = measuring_trainer(kind, tmp_path, model=model, **given)
    passes = count_passes(model)
    with pytest.raises(ValueError, match=f"Compactness needs .*{said}"):
        trainer.train()
    assert not any(passes)  # none in training mode
    assert trainer.state.global_step == 0
    assert trainer._itra_evaluated.current is None


# ---- Before training ----


@BOTH
def test_the_start_is_measured_once(kind, tmp_path):
    trainer = measuring_trainer(kind, tmp_path, save_strategy="steps", save_steps=2, max_steps=4)
    expected = expected_of(trainer, model=copy.deepcopy(trainer.model))
    trainer.evaluate()  # of no run, so nothing of it may stay
    trainer.train()
    first = trainer.state.log_history[0]
    assert measured(first) == expected
    assert set(first) - {f"eval_compactness_{name}" for name in FIGURES} == {"step", "epoch"}
    assert figures_logged(trainer) == [0]
    assert trainer._itra_evaluated.before["eval"].counts.tolist() == [4, 4, 3]
    assert not trainer._itra_evaluated.latest
    resumed = measuring_trainer(kind, tmp_path, max_steps=4)
    passes = count_passes(resumed.model)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.log_history[0] == first  # as saved
    assert figures_logged(resumed) == [0]
    assert passes.count(False) == (1 if kind is ITRATrainer else 0)


@BOTH
def test_an_evaluation_on_start_is_the_measurement(kind, tmp_path):
    trainer = measuring_trainer(kind, tmp_path, eval_on_start=True, **EVALUATED)
    trainer.train()
    assert figures_logged(trainer) == [0, 1, 2, 3]
    assert "eval_loss" in trainer.state.log_history[0]
    assert set(trainer._itra_evaluated.before) == set(trainer._itra_evaluated.latest) == {"eval"}


@BOTH
@pytest.mark.parametrize("given", [None, UNLABELLED])
def test_nothing_is_logged_where_there_is_nothing_to_measure(given, kind, tmp_path):
    trainer = measuring_trainer(kind, tmp_path, eval_dataset=given)
    trainer.train()
    assert [line["step"] for line in trainer.state.log_history] == [1, 2, 3, 3]
