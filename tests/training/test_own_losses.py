"""Trainers and models with a loss of their own."""

import pytest
import torch
from families import LABELS, build, examples
from recording import cross_entropy, losses, run
from torch import nn
from trainers import Toy, config, toy_examples
from transformers import Trainer

from itra_hf import ITRAMixin, ITRATrainer


class Weighted(Trainer):
    """A user's trainer with class weights."""

    weights = (1.0, 5.0, 0.2)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(outputs.logits, labels, weight=torch.tensor(self.weights))
        return (loss, outputs) if return_outputs else loss


class WeightedITRA(ITRAMixin, Weighted):
    pass


def test_mixin_over_a_trainer_with_class_weights(tmp_path):
    data, model = examples("Bert", 24), build("Bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    trainer = WeightedITRA(model, config(tmp_path), train_dataset=data, eval_dataset=data)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.compute_loss(model.train(), batch)
    expected = nn.functional.cross_entropy(
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits,
        batch["labels"],
        weight=torch.tensor(Weighted.weights),
    )
    assert trainer._itra_watch.sums[0].item() == pytest.approx(expected.item(), rel=1e-5)
    trainer.train()
    assert min(losses(trainer, "matching_loss")) > 0
    stock = Weighted(model, config(tmp_path), eval_dataset=data)
    assert trainer.evaluate()["eval_loss"] == stock.evaluate()["eval_loss"]


def test_a_model_with_a_loss_of_its_own_runs_twice(tmp_path, caplog):
    trainer = ITRATrainer(Toy(), config(tmp_path), train_dataset=toy_examples(12))
    trainer.train()
    assert min(losses(trainer, "matching_loss")) > 0
    assert sum("may compute a loss of its own" in record.message for record in caplog.records) == 1
    batch = next(iter(trainer.get_train_dataloader()))
    expected = trainer.model(batch["x"], batch["labels"])["loss"]
    trainer._itra_watch.sums.zero_()
    trainer.compute_loss(trainer.model.train(), batch)
    assert trainer._itra_watch.sums[0].item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_compute_loss_may_call_the_model_twice_or_by_position(tmp_path):
    class Twice(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            first = model(inputs["input_ids"], inputs["attention_mask"])
            second = model(**{k: v for k, v in inputs.items() if k != "labels"})
            assert first.logits.shape == second.logits.shape == (len(inputs["labels"]), LABELS)
            loss = nn.functional.cross_entropy(first.logits, inputs["labels"]) + second.logits.square().mean()
            return (loss, first) if return_outputs else loss

    class TwiceITRA(ITRAMixin, Twice):
        pass

    trainer, _ = run(TwiceITRA, tmp_path, examples("Bert", 12))
    assert min(losses(trainer, "matching_loss")) > 0


def test_a_compute_loss_may_take_columns_that_the_model_does_not_know(tmp_path):
    class RowWeighted(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            weights, labels = inputs.pop("row_weight"), inputs.pop("labels")
            outputs = model(**inputs)
            loss = (nn.functional.cross_entropy(outputs.logits, labels, reduction="none") * weights).mean()
            return (loss, outputs) if return_outputs else loss

    class RowWeightedITRA(ITRAMixin, RowWeighted):
        pass

    data = [{**row, "row_weight": 0.5} for row in examples("DistilBert", 12)]
    trainer, _ = run(RowWeightedITRA, tmp_path, data, build("DistilBert"), remove_unused_columns=False)
    assert min(losses(trainer, "matching_loss")) > 0


class KeywordsOnly(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        assert self.accelerator.unwrap_model(model).config.num_labels == LABELS
        return (cross_entropy(outputs, labels), outputs) if return_outputs else cross_entropy(outputs, labels)


class LossOnly(Trainer):
    def compute_loss(self, model, inputs, *args, **kwargs):
        return model(**inputs).loss


@pytest.mark.parametrize("base", [KeywordsOnly, LossOnly])
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_other_signatures_of_compute_loss(base, weight, tmp_path):
    trainer, _ = run(type("Ours", (ITRAMixin, base), {}), tmp_path, examples("Bert", 12), matching_weight=weight)
    assert bool(losses(trainer, "matching_loss")) == (weight > 0)


def test_a_model_that_takes_no_labels(tmp_path):
    class NoLabels(Toy):
        def forward(self, x):
            return {"logits": self.head(self.body(x))}

    def loss(outputs, labels, num_items_in_batch=None):
        return cross_entropy(outputs, labels)

    args = config(tmp_path, label_names=["labels"])
    trainer = ITRATrainer(NoLabels(), args, train_dataset=toy_examples(12), compute_loss_func=loss)
    trainer.train()
    assert min(losses(trainer, "matching_loss")) > 0


def test_the_loss_of_a_class_of_ones_own_is_never_replaced(tmp_path):
    from transformers import BertForSequenceClassification

    class Weighing(BertForSequenceClassification):
        def forward(self, labels=None, **inputs):
            outputs = super().forward(**inputs)
            if labels is not None:  # plain cross-entropy on a batch of one class only
                outputs.loss = nn.functional.cross_entropy(
                    outputs.logits, labels, weight=torch.tensor([1.0, 50.0, 1.0])
                )
            return outputs

    model = Weighing(build("Bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).config)
    rows = examples("Bert", 36)
    data = [*rows[::3][:4], *rows[:8]]  # the first batch holds class 0 alone
    common = {"train_sampling_strategy": "sequential", "learning_rate": 0.0, "remove_unused_columns": False}
    stock, _ = run(Trainer, tmp_path / "a", data, model, **common)
    ours, _ = run(ITRATrainer, tmp_path / "b", data, model, **common)
    assert losses(ours, "task_loss") == pytest.approx(losses(stock), rel=1e-5)


def test_a_trainer_that_scales_its_loss_itself(tmp_path):
    class Scaled(Trainer):
        loss_is_scaled_for_ga = True

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = inputs.pop("labels")
            loss = nn.functional.cross_entropy(model(**inputs).logits, labels, reduction="sum") / num_items_in_batch
            return (loss, None) if return_outputs else loss

    if not hasattr(Trainer, "loss_is_scaled_for_ga"):
        pytest.skip("this transformers has no such attribute")
    data, model = examples("Bert", 24), build("Bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    common = {"gradient_accumulation_steps": 2, "optim": "sgd", "learning_rate": 0.5}
    plain, _ = run(ITRATrainer, tmp_path / "a", data, model, **common)
    scaled, _ = run(type("Ours", (ITRAMixin, Scaled), {}), tmp_path / "b", data, model, **common)
    for key in ("loss", "task_loss", "matching_weight"):
        assert losses(scaled, key) == pytest.approx(losses(plain, key), rel=1e-4)
