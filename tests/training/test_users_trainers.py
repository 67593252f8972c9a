"""Trainers as people write them: none meets an exception that the stock `Trainer` doesn't raise."""

import copy

import pytest
import torch
from families import build, examples
from side_by_side import assert_stock, lines, mixed, trained
from torch import nn
from torch.nn import functional
from torch.testing import assert_close
from trainers import Toy, toy_examples
from transformers import Trainer, TrainerCallback, TrainingArguments

from itra_hf import ITRAConfig, ITRATrainer

# ---- Trainers ----


class Counts(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        loss = functional.cross_entropy(outputs.logits, inputs["labels"], reduction="sum") / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize("steps", [1, 2])
def test_a_loss_of_ones_own_gets_the_count_of_items(steps, tmp_path):
    model = build("Bert", hidden_dropout_prob=0.0)
    assert lines(assert_stock(Counts, tmp_path, model, examples("Bert", 24), gradient_accumulation_steps=steps))


class Refuses(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if return_outputs:
            raise ValueError("No outputs.")
        return super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)


class Lists(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return list(result) if return_outputs else result


class Changes(Trainer):
    """Takes class ids for floats, and sets something on the model."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        model.step_now = self.state.global_step
        inputs["labels"] = functional.one_hot(inputs["labels"], 3).float()
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


class Teacher(Trainer):
    """Copies the model, asks what it is, and calls it in other ways."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        assert isinstance(model, nn.Module)
        with torch.no_grad():
            target = copy.deepcopy(model)(**inputs)["logits"]
        outputs = model.forward(**inputs)
        loss = outputs["loss"] + (outputs["logits"] - target).square().mean()
        return (loss, outputs) if return_outputs else loss


class Constructs(Trainer):
    """Uses itself before its constructor has ended, and has names of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.log({"loss": 0.0})
        next(iter(self.get_train_dataloader()))
        self._step, self._scale, self._watch, self._tap, self._predictions = 0, 2.0, None, None, []

    def _forward(self, model):
        return model

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self._step += 1
        return super().compute_loss(self._forward(model), inputs, return_outputs, num_items_in_batch)


COMPANIONS = pytest.mark.parametrize(
    "companion", [{"companion": "memory"}, {"companion": "sample"}, {"companion": "sample", "companion_decay": 0.9}]
)


@pytest.mark.parametrize("kind", [Refuses, Lists, Teacher, Constructs])
@COMPANIONS
def test_trainers_train_as_they_did(kind, companion, tmp_path):
    model = build("Bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    assert lines(assert_stock(kind, tmp_path, model, examples("Bert", 24), **companion))[-1] > 0


class MultiLabel(Toy):
    step_now = -1

    def forward(self, x, labels=None):
        logits = self.head(self.body(x))
        loss = functional.binary_cross_entropy_with_logits(logits, labels) + 0.0 * self.step_now
        return {"loss": loss, "logits": logits}


class ChangesBefore(ITRATrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs["labels"] = functional.one_hot(inputs["labels"], 3).float()
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


def test_labels_that_compute_loss_changes(tmp_path):
    trainer = assert_stock(Changes, tmp_path / "below", MultiLabel(), toy_examples(24))
    assert trainer.model.step_now == 4
    above = trained(ChangesBefore, tmp_path, MultiLabel(), toy_examples(24))
    # Alignment sees the labels as they come to it.
    assert [each._itra_aligner.alignment for each in (trainer, above)] == ["conditional", "joint"]
    assert lines(trainer)[-1] > 0
    assert lines(above)[-1] > 0


class OutputsAlone(ITRATrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        _, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss = functional.cross_entropy(outputs["logits"], inputs["labels"])
        return (loss, outputs) if return_outputs else loss


def test_a_loss_that_is_thrown_away_is_told(tmp_path, caplog):
    assert trained(OutputsAlone, tmp_path).state.global_step == 5
    assert any("nothing is aligned" in record.message for record in caplog.records)


class OwnStep(ITRATrainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = model.train()(**self._prepare_inputs(inputs))["loss"]
        self.accelerator.backward(loss)
        return loss.detach()


def test_a_step_without_compute_loss_is_told(tmp_path, caplog):
    assert trained(OwnStep, tmp_path).state.global_step == 5
    assert any("No step was aligned" in record.message for record in caplog.records)


class Probe(TrainerCallback):
    trainer = None

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        batch = {
            key: torch.tensor([row[key] for row in examples("Bert", 4, seed=9)]) for key in ("input_ids", "labels")
        }
        Probe.trainer.compute_loss(model.train(), batch)


class Probed(ITRATrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        Probe.trainer = self


@COMPANIONS
def test_a_loss_that_a_callback_asks_for_is_no_training(companion, tmp_path):
    model = build("Bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    probed, plain = (
        trained(Probed, tmp_path, copy.deepcopy(model), **companion, callbacks=callbacks)
        for callbacks in ([Probe()], [])
    )
    assert lines(probed, "task_loss") == lines(plain, "task_loss")
    for one, other in zip(probed.model.parameters(), plain.model.parameters(), strict=True):
        assert_close(one, other, rtol=0, atol=0)


class Seq2Seq(Trainer):
    def predict(self, test_dataset, threshold=0.5):
        return super().predict(test_dataset), threshold

    def create_model_card(self, model_name=None, dataset_name=None, tags=None):
        raise AssertionError


def test_methods_take_what_those_below_them_take(tmp_path):
    trainer = trained(mixed(Seq2Seq), tmp_path)
    assert trainer.predict(examples("Bert", 4), threshold=0.25)[1] == 0.25
    trainer.create_model_card(model_name="Mine", dataset_name="org/data", tags=["x"])
    assert "org/data" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_arguments_may_be_exchanged(tmp_path):
    plain = {"max_steps": 2, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    stock = TrainingArguments(str(tmp_path), **plain)  # before the trainer, whose accelerator they would reset
    off = ITRAConfig(str(tmp_path), matching_weight=0.0, logging_steps=1, **plain)
    trainer = trained(ITRATrainer, tmp_path)
    trainer.args = stock
    assert trainer.train().global_step == 2
    trainer.args = off
    trainer.train()
    assert not lines(trainer)
