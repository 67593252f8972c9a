"""Compactness in evaluation beside everything else: training never notices, and nothing is left behind."""

import gc
import weakref

import optuna
import pytest
import torch
from families import build, examples
from measuring import BOTH, EVALUATED, TEST, UNLABELLED, Noisy, assert_unnoticed, hook_count, measuring_trainer
from torch import nn
from transformers import BertForSequenceClassification, EarlyStoppingCallback

from itra_hf import ITRATrainer

MEASURED = {"eval_compactness": True}


@BOTH
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eval_dataset": {"here": TEST, "there": UNLABELLED}},
        {"dataloader_num_workers": 1, "feature": "mean"},
        {"gradient_accumulation_steps": 2, "eval_on_start": True},
        {"bf16": True},
    ],
)
def test_training_is_bit_for_bit_the_same(settings, kind, tmp_path):
    assert_unnoticed(kind, tmp_path, MEASURED, max_steps=5, **EVALUATED, **settings)


@BOTH
def test_random_examples_stay_the_same(kind, tmp_path):
    assert_unnoticed(kind, tmp_path, MEASURED, train_dataset=Noisy(examples("Bert", 24)), eval_dataset=Noisy(TEST))


class Weighing(BertForSequenceClassification):
    """Has a loss of its own."""

    def forward(self, labels=None, **inputs):
        outputs = super().forward(**inputs)
        if labels is not None:
            weights = torch.tensor([1.0, 50.0, 1.0])
            outputs.loss = nn.functional.cross_entropy(outputs.logits, labels, weight=weights)
        return outputs


@pytest.mark.parametrize("settings", [{}, {"eval_on_start": True}])
@pytest.mark.parametrize("rows", [TEST, UNLABELLED])
def test_a_loss_of_the_models_own_is_kept(rows, settings, tmp_path):
    def model_init():
        return Weighing(build("Bert").config)

    given = {"model_init": model_init, "eval_dataset": rows, "remove_unused_columns": False}
    assert_unnoticed(ITRATrainer, tmp_path, MEASURED, **EVALUATED, **given, **settings)


# ---- With what else a Trainer does ----


@BOTH
def test_the_best_model_by_compactness(kind, tmp_path):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "compactness_scatter_ratio"}
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    trainer = measuring_trainer(kind, tmp_path, greater_is_better=True, **best, **settings)
    trainer.train()
    logged = [line for line in trainer.state.log_history if "eval_loss" in line]
    assert len(logged) == 3
    ratios = [line["eval_compactness_scatter_ratio"] for line in logged]
    assert trainer.state.best_metric == max(ratios)
    assert trainer.evaluate()["eval_compactness_scatter_ratio"] == pytest.approx(max(ratios))


def test_early_stopping_by_compactness(tmp_path):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_compactness_effective_rank"}
    settings = {"learning_rate": 0.0, "max_steps": 9, "save_strategy": "steps", "save_steps": 1, **EVALUATED}
    callbacks = [EarlyStoppingCallback(early_stopping_patience=2)]
    trainer = measuring_trainer(ITRATrainer, tmp_path, callbacks=callbacks, **best, **settings)
    trainer.train()
    assert trainer.state.global_step == 3


@pytest.mark.parametrize("name", ["loss", "compactness_scatter_ratio"])
def test_a_search_goes_by_the_loss_unless_told_otherwise(name, tmp_path):
    models, evaluations = [], []

    def model_init():
        models.append(build("Bert"))
        return models[-1]

    class Keeping(ITRATrainer):
        def evaluate(self, *args, **kwargs):
            evaluations.append(super().evaluate(*args, **kwargs))
            return evaluations[-1]

    trainer = measuring_trainer(Keeping, tmp_path, model_init=model_init, max_steps=1, **EVALUATED)
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2)},
        None if name == "loss" else lambda metrics: metrics[f"eval_{name}"],
        n_trials=2,
        backend="optuna",
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    assert best.objective == min(metrics[f"eval_{name}"] for metrics in evaluations)
    assert len(evaluations) == 2
    assert not any(map(hook_count, models))


# ---- What is left behind ----


@BOTH
def test_nothing_stays_on_the_model(kind, tmp_path):
    trainer = measuring_trainer(kind, tmp_path)
    trainer.train()
    assert hook_count(trainer.model) == 0
    trainer.compute_loss = None
    with pytest.raises(TypeError):
        trainer.evaluate()
    assert hook_count(trainer.model) == 0
    assert trainer._itra_evaluated.current is None


@BOTH
def test_a_dropped_trainer_is_freed_at_once(kind, tmp_path):
    trainer = measuring_trainer(kind, tmp_path, gradient_noise_steps=1, **EVALUATED)
    trainer.train()
    trainer.evaluate()
    model = weakref.ref(trainer.model)
    gc.disable()
    try:
        del trainer
        assert model() is None
    finally:
        gc.enable()
