"""`ITRATrainer` beside the stock `Trainer`."""

import copy
import shutil

import pytest
import torch
from datasets import Dataset
from families import PAD, build, examples
from recording import error_rate, losses, run, same
from torch import nn
from trainers import DIM, Toy, config, toy_examples
from transformers import Trainer, TrainingArguments

from itra_hf import AlignmentArguments, ITRATrainer
from itra_hf.alignment.weight import balanced_factor, update_balance

# ---- Weight 0 ----


@pytest.mark.parametrize("settings", [{}, {"label_smoothing_factor": 0.1}, {"dataloader_drop_last": True}])
def test_weight_zero_is_the_stock_trainer_bit_for_bit(settings, tmp_path):
    data = examples("Bert", 50)
    common = {"max_steps": 20, "eval_dataset": data[:17], "compute_metrics": error_rate, **settings}
    stock, expected = run(Trainer, tmp_path / "a", data, matching_weight=0.0, **common)
    ours, got = run(ITRATrainer, tmp_path / "b", data, matching_weight=0.0, **common)
    assert losses(ours) == losses(stock)
    assert losses(ours, "grad_norm") == losses(stock, "grad_norm")
    assert len(got.gradients) == 20
    assert same(got.gradients, expected.gradients)
    assert same(got.parameters, expected.parameters)
    left, right = ours.evaluate(), stock.evaluate()
    assert left["eval_loss"] == right["eval_loss"]
    assert left["eval_error"] == right["eval_error"]
    assert "task_loss" not in ours.state.log_history[0]


@pytest.mark.parametrize("rows", [48, 45])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_accumulation_gives_the_same_trajectory(rows, smoothing, tmp_path):
    data, model = examples("Bert", rows), build("Bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    # Plain SGD: Adam would blow rounding errors of vanishing gradients up to whole steps.
    common = {"max_steps": -1, "num_train_epochs": 2, "matching_weight": 0.0, "label_smoothing_factor": smoothing}
    common |= {"optim": "sgd", "learning_rate": 0.5}
    whole, once = run(ITRATrainer, tmp_path / "a", data, model, per_device_train_batch_size=8, **common)
    parts, often = run(
        ITRATrainer, tmp_path / "b", data, model, per_device_train_batch_size=2, gradient_accumulation_steps=4, **common
    )
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-4)
    for left, right in zip(once.gradients, often.gradients, strict=True):
        for a, b in zip(left, right, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_matching_term_is_scaled_alike_with_and_without_compute_loss_func(tmp_path):
    def mean_of_items(outputs, labels, num_items_in_batch=None):
        return nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch

    data, model = examples("Bert", 48), build("Bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    common = {"max_steps": 4, "gradient_accumulation_steps": 3}
    common |= {"optim": "sgd", "learning_rate": 0.5}
    plain, expected = run(ITRATrainer, tmp_path / "a", data, model, **common)
    custom, got = run(ITRATrainer, tmp_path / "b", data, model, compute_loss_func=mean_of_items, **common)
    for key in ("loss", "task_loss", "matching_loss", "matching_weight"):
        assert losses(custom, key) == pytest.approx(losses(plain, key), rel=1e-4)
    for left, right in zip(expected.gradients, got.gradients, strict=True):
        for a, b in zip(left, right, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


# ---- The loss ----


def test_plain_training_arguments_get_the_defaults(tmp_path):
    settings = {"max_steps": 80, "learning_rate": 1e-2, "logging_steps": 1, "report_to": "none", "use_cpu": True}
    trainer = ITRATrainer(Toy(), TrainingArguments(str(tmp_path), **settings), train_dataset=toy_examples(24))
    trainer.train()
    assert trainer.alignment_args == AlignmentArguments()
    weights = losses(trainer, "matching_weight")
    assert losses(trainer, "matching_loss")[-1] > 0
    assert weights[0] == 0 < weights[1]
    assert weights[-1] > 5 * max(weights[1:9])  # it rises from the fourth epoch on


def test_constant_weight_adds_to_the_task_loss_of_the_primary_batch(tmp_path):
    data, model = examples("Bert", 12), build("Bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    trainer = ITRATrainer(model, config(tmp_path, weight_mode="constant", matching_weight=0.7), train_dataset=data)
    batch = next(iter(trainer.get_train_dataloader()))
    loss, outputs = trainer.compute_loss(model.train(), batch, return_outputs=True)
    primary = {name: value for name, value in batch.items() if name != "itra_companion"}
    expected, other = model(**primary), model(**batch["itra_companion"])
    hidden = [
        model.bert(ids["input_ids"], attention_mask=ids["attention_mask"], token_type_ids=None).pooler_output
        for ids in (primary, batch["itra_companion"])
    ]
    matching = trainer._itra_aligner.matching_loss(
        hidden[0], primary["labels"], hidden[1], batch["itra_companion"]["labels"]
    )
    torch.testing.assert_close(outputs.logits, expected.logits)
    torch.testing.assert_close(outputs.loss, expected.loss)
    torch.testing.assert_close(loss, expected.loss + 0.7 * matching)
    assert not torch.equal(other.logits, expected.logits)


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_balanced_weight_is_the_ratio_of_the_pulls_at_the_features(scale, tmp_path):
    data, model = examples("Bert", 12), build("Bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    trainer = ITRATrainer(model, config(tmp_path, matching_weight=0.4), train_dataset=data)
    batch = next(iter(trainer.get_train_dataloader()))
    first = trainer.compute_loss(model.train(), batch)
    (first * scale).backward()  # a gradient scaler's factor must not count
    model.zero_grad()
    trainer.state.global_step = 1
    loss = trainer.compute_loss(model, batch)
    features = []
    for half in (batch, batch["itra_companion"]):
        features.append(model.bert(half["input_ids"], attention_mask=half["attention_mask"]).pooler_output)
    task = nn.functional.cross_entropy(model.classifier(features[0]), batch["labels"])
    matching = trainer._itra_aligner.matching_loss(
        features[0], batch["labels"], features[1], batch["itra_companion"]["labels"]
    )
    pulls = [torch.autograd.grad(value, features[0], retain_graph=True)[0].norm() for value in (task, matching)]
    expected = task + 0.4 * (pulls[0] / pulls[1]).detach() * matching
    torch.testing.assert_close(first, task)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    parameters = list(model.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_the_balance_measures_the_task_loss_apart_from_the_matching_loss(tmp_path):
    data, model = examples("Bert", 12), build("Bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    trainer = ITRATrainer(model, config(tmp_path, matching_weight=5.0), train_dataset=data)
    batch, noted = next(iter(trainer.get_train_dataloader())), []
    weight = trainer._itra_weight
    weight.note = lambda squares: (noted.append(squares), type(weight).note(weight, squares))
    for step in range(3):
        trainer.state.global_step = step
        trainer.compute_loss(model.train(), batch).backward()
    torch.testing.assert_close(noted[0], noted[1], rtol=1e-3, atol=0)  # weight 0, then five times the task's pull
    torch.testing.assert_close(noted[0], noted[2], rtol=1e-3, atol=0)


def test_features_that_the_task_loss_does_not_need_are_refused_by_the_balance(tmp_path):
    class Aside(Toy):
        def __init__(self):
            super().__init__()
            self.aside = nn.Linear(DIM, 4)

        def forward(self, x, labels=None):
            self.aside(x * self.body[0].weight.mean())
            return super().forward(x, labels)

    with pytest.raises(ValueError, match="task loss does not depend on the tapped features"):
        run(ITRATrainer, tmp_path, toy_examples(12), Aside(), feature="aside")


def test_balance_smooths_norms_and_skips_steps_without_matching_gradient():
    balance = update_balance(torch.zeros(2), torch.tensor([4.0, 16.0]))
    assert balanced_factor(balance).item() == pytest.approx(0.5)
    for useless in ([9.0, 0.0], [float("nan"), 1.0], [1.0, float("inf")]):
        assert torch.equal(update_balance(balance, torch.tensor(useless)), balance)
    one_spike = update_balance(balance, torch.tensor([4.0, 1e-8]))
    assert balanced_factor(one_spike).item() == pytest.approx(0.38 / 0.36, rel=1e-3)  # not 20,000
    assert balanced_factor(torch.zeros(2)).item() == 0.0


@pytest.mark.parametrize("family", ["Bert", "GPT2"])
def test_a_companion_through_averages_pulls_the_primary_batch_only(family, tmp_path):
    data, model = examples(family, 12), build(family)
    for dropout in [module for module in model.modules() if isinstance(module, nn.Dropout)]:
        dropout.p = 0.0
    gradients = {}
    for through in (True, False):
        trainer = ITRATrainer(
            copy.deepcopy(model),
            config(tmp_path, weight_mode="constant", companion_decay=0.0 if through else 0.9, seed=1),
            train_dataset=data,
        )
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        embedding = trainer.model.get_input_embeddings().weight.grad
        gradients[through] = loss.item(), embedding
        only = set(batch["itra_companion"]["input_ids"].flatten().tolist()) - set(batch["input_ids"].flatten().tolist())
        assert only
        touched = embedding[sorted(only - {PAD})].abs().sum() > 0
        assert bool(touched) == through
    assert gradients[True][0] == pytest.approx(gradients[False][0], rel=1e-5)


def test_regression_and_multi_label_train_with_joint_alignment(tmp_path):
    for problem, labels in (
        ("regression", lambda i: float(i)),
        ("multi_label_classification", lambda i: [float(i % 2), 1.0, 0.0]),
    ):
        data = [{**row, "labels": labels(i)} for i, row in enumerate(examples("Bert", 12))]
        model = build("Bert", num_labels=1 if problem == "regression" else 3, problem_type=problem)
        trainer, _ = run(ITRATrainer, tmp_path, data, model, alignment="joint")
        assert min(losses(trainer, "matching_loss")) > 0
        with pytest.raises(ValueError, match="alignment='joint' works with float and multi-label"):
            run(ITRATrainer, tmp_path, data, model, alignment="conditional")


# ---- Resume ----


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_mid_epoch_continues_bit_for_bit(workers, tmp_path):
    data = Dataset.from_list(examples("Bert", 26))
    common = {"max_steps": 12, "dataloader_num_workers": workers, "save_strategy": "steps", "save_steps": 4}
    whole, straight = run(ITRATrainer, tmp_path / "a", data, **common)
    coarse, _ = run(ITRATrainer, tmp_path / "coarse", data, **{**common, "logging_steps": 3})
    again, _ = run(
        ITRATrainer,
        tmp_path / "again",
        data,
        resume=str(tmp_path / "coarse" / "checkpoint-4"),
        **{**common, "logging_steps": 3},
    )
    assert losses(again, "task_loss") == losses(coarse, "task_loss")  # the window of steps 4 to 6 as well
    for kept in ("checkpoint-4", "checkpoint-8"):  # in the first and in the second epoch of 7 steps
        folder = tmp_path / kept
        shutil.copytree(tmp_path / "a" / kept, folder / kept)
        resumed, record = run(ITRATrainer, folder, data, resume=str(folder / kept), **common)
        for key in ("loss", "task_loss", "matching_loss", "matching_weight"):
            assert losses(resumed, key) == losses(whole, key)
        assert same(record.parameters, straight.parameters[-len(record.parameters) :])
