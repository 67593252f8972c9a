"""Swapping the class name: what `Trainer` takes `ITRATrainer` takes, with the same signatures and callbacks."""

import copy
import inspect
import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from families import build, examples
from heads import build_head, head_examples
from torch.testing import assert_close
from trainers import PAIRED, SPLIT, Toy, config, toy_examples
from transformers import Trainer, default_data_collator

from itra_hf import ITRAMixin, ITRATrainer

DEFAULTS = {"companion": "auto", "weight_mode": "rising", "matching_weight": 1.0}
METHODS = (
    "__init__",
    "train",
    "evaluate",
    "predict",
    "training_step",
    "compute_loss",
    "hyperparameter_search",
    "push_to_hub",
    "create_model_card",
    "evaluation_loop",
    "get_batch_samples",
    "log",
    "prediction_step",
    "save_model",
)


# ---- Signatures, callbacks, copies ----


@pytest.mark.parametrize("method", METHODS)
def test_signatures_are_the_stock_ones(method):
    assert inspect.signature(getattr(ITRATrainer, method)) == inspect.signature(getattr(Trainer, method))


class Weighted(Trainer):
    def __init__(self, *args, class_weights=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.class_weights = class_weights

    def predict(self, test_dataset, threshold=0.5):
        return super().predict(test_dataset), threshold


class AlignedWeighted(ITRAMixin, Weighted): ...


class OwnConstructor(ITRATrainer):
    def __init__(self, model, folder):
        super().__init__(model, config(folder), train_dataset=examples("Bert", 8))


def test_a_mixin_shows_the_signatures_of_the_trainer_below_it(tmp_path):
    assert inspect.signature(AlignedWeighted) == inspect.signature(Weighted)
    assert inspect.signature(OwnConstructor) == inspect.signature(OwnConstructor.__init__).replace(
        parameters=list(inspect.signature(OwnConstructor.__init__).parameters.values())[1:]
    )
    trainer = AlignedWeighted(build("Bert"), config(tmp_path), class_weights=[1, 2], train_dataset=examples("Bert", 8))
    assert trainer.class_weights == [1, 2]
    trainer.train()
    assert OwnConstructor(build("Bert"), tmp_path).train().global_step == 3


@pytest.mark.parametrize("settings", [{}, {"matching_weight": 0.0}, {**DEFAULTS}])
def test_callbacks_are_the_stock_ones_outside_a_run(settings, tmp_path):
    def names(trainer):
        return [type(callback) for callback in trainer.callback_handler.callbacks]

    data = examples("Bert", 12)
    plain = Trainer(build("Bert"), config(tmp_path / "plain"), train_dataset=data)
    trainer = ITRATrainer(build("Bert"), config(tmp_path / "itra", **settings), train_dataset=data)
    assert names(trainer) == names(plain)
    trainer.train()
    assert names(trainer) == names(plain)


@pytest.mark.parametrize(
    "settings",
    [{}, DEFAULTS, {"matching_weight": 0.0}, {"eval_compactness": True, "gradient_noise_steps": 1}],
)
def test_copies_before_and_after_training_train_alike(settings, tmp_path):
    data = examples("Bert", 12)
    trainer = ITRATrainer(build("Bert"), config(tmp_path, **settings), train_dataset=data, eval_dataset=data)
    before = copy.deepcopy(trainer)
    for each in (trainer, before):
        torch.manual_seed(0)
        each.train()
    after = copy.deepcopy(trainer)
    for one, other, third in zip(*(each.model.parameters() for each in (trainer, before, after)), strict=True):
        assert_close(one, other, rtol=0, atol=0)
        assert_close(one, third, rtol=0, atol=0)
    after.train()
    assert next(after.model.parameters()) is not next(trainer.model.parameters())


# ---- Calls outside `train()`, loaders and outputs of a user's own ----


@pytest.mark.parametrize("settings", [PAIRED, DEFAULTS, {"matching_weight": 0.0}])
def test_a_training_step_outside_of_training_is_the_stock_one(settings, tmp_path):
    data = examples("Bert", 8)
    losses = []
    for kind in (Trainer, ITRATrainer):
        trainer = kind(build("Bert"), config(tmp_path, max_steps=12, **settings), train_dataset=data)
        for _ in range(2):  # before and after a run
            torch.manual_seed(0)
            batch = default_data_collator(copy.deepcopy(data[:3]))
            trainer.current_gradient_accumulation_steps = 1
            losses.append(float(trainer.training_step(build("Bert", hidden_dropout_prob=0.0), batch)))
            if kind is ITRATrainer:
                trainer.train()
    assert losses[0] == losses[1] == losses[2] == losses[3]


class BareLoader:
    """Batches without a data set."""

    def __init__(self, rows):
        self.batches = [
            default_data_collator(copy.deepcopy(rows[start : start + 4])) for start in range(0, len(rows), 4)
        ]

    def __iter__(self):
        return iter(copy.deepcopy(self.batches))

    def __len__(self):
        return len(self.batches)


class OwnLoaders(ITRATrainer):
    def get_train_dataloader(self):
        return BareLoader(examples("Bert", 16))

    def get_eval_dataloader(self, eval_dataset=None):
        return BareLoader(examples("Bert", 8, seed=1))

    def get_test_dataloader(self, test_dataset):
        return BareLoader(examples("Bert", 8, seed=2))


@pytest.mark.parametrize("settings", [DEFAULTS, {"matching_weight": 0.0}, {**DEFAULTS, "eval_compactness": True}])
def test_loaders_without_a_data_set(settings, tmp_path):
    trainer = OwnLoaders(build("Bert"), config(tmp_path, **settings))
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    assert trainer.predict(None).predictions.shape == (8, 3)
    trainer.create_model_card()


class Scores(Toy):
    """Returns its logits under another name."""

    def forward(self, x, labels=None):
        outputs = super().forward(x, labels)
        return {("scores" if name == "logits" else name): value for name, value in outputs.items()}


class LossAlone(Toy):
    """Returns nothing but its loss."""

    def forward(self, x, labels=None):
        return {"loss": super().forward(x, labels)["loss"]}


@pytest.mark.parametrize(("model", "feature"), [(Scores, "auto"), (Scores, "head"), (LossAlone, "head")])
@pytest.mark.parametrize("companion", ["memory", "sample"])
def test_outputs_without_logits(model, feature, companion, tmp_path):
    args = config(tmp_path, feature=feature, companion=companion, max_steps=14)
    trainer = ITRATrainer(model(), args, train_dataset=toy_examples(12))
    trainer.train()
    assert trainer.state.log_history[-2]["matching_weight"] > 0


def test_a_model_without_any_output_but_its_loss_is_told_what_to_name(tmp_path):
    trainer = ITRATrainer(LossAlone(), config(tmp_path), train_dataset=toy_examples(12))
    with pytest.raises(ValueError, match=r"LossAlone returns no logits.*matching_weight=0.*name of the module"):
        trainer.train()


# ---- Batches that can't be collated together ----


@pytest.mark.parametrize("companion", ["sample", "class_matched"])
@pytest.mark.parametrize("kind", ["list", "datasets"])
def test_batches_of_one_need_no_padding(companion, kind, tmp_path):
    rows = [{"input_ids": list(range(3, 7 + index)), "labels": index % 3} for index in range(9)]
    data = rows if kind == "list" else Dataset.from_list(rows)
    args = config(tmp_path, companion=companion, per_device_train_batch_size=1, alignment="marginal")
    trainer = ITRATrainer(build("Bert"), args, train_dataset=data, data_collator=default_data_collator)
    trainer.train()
    assert all(line["matching_loss"] > 0 for line in trainer.state.log_history[:-1])


def test_a_collator_that_fails_on_each_half_shows_its_own_error(tmp_path):
    rows = [{"input_ids": list(range(3, 7 + index)), "labels": index % 3} for index in range(9)]
    trainer = ITRATrainer(build("Bert"), config(tmp_path), train_dataset=rows, data_collator=default_data_collator)
    with pytest.raises(ValueError, match="expected sequence of length"):
        trainer.train()


# ---- Random numbers ----


class Noisy(Toy):
    """Draws from all generators, in eval mode too."""

    def forward(self, x, labels=None):
        return super().forward(x + 0.1 * torch.randn_like(x) + 0.1 * random.random() + 0.1 * np.random.rand(), labels)


class Remembering(Toy):
    """Keeps the first value of all examples that it has seen, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(0))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, labels=None):
        self.seen = torch.cat([self.seen, x[:, 0]])
        self.calls += 1
        return super().forward(x, labels)


@pytest.mark.parametrize("settings", [DEFAULTS, SPLIT, {"matching_weight": 0.0}])
def test_a_model_sees_each_batch_once(settings, tmp_path):
    trainer = ITRATrainer(Remembering(), config(tmp_path, max_steps=5, **settings), train_dataset=toy_examples(20))
    trainer.train()
    assert float(trainer.model.calls) == 5
    assert sorted(trainer.model.seen.tolist()) == sorted(float(row["x"][0]) for row in toy_examples(20))


@pytest.mark.slow
@pytest.mark.parametrize("feature", ["auto", "classifier", "mean"])
def test_a_compiled_model_may_be_evaluated_before_it_is_trained(feature, tmp_path):
    settings = {"eval_compactness": True, "torch_compile": True, "torch_compile_backend": "eager"}
    data = examples("Bert", 12)
    args = config(tmp_path, feature=feature, **settings)
    trainer = ITRATrainer(build("Bert"), args, train_dataset=data, eval_dataset=data)
    assert "eval_compactness_scatter_ratio" in trainer.evaluate()
    trainer.train()
    assert trainer.state.log_history[-2]["matching_weight"] > 0
    assert "eval_compactness_scatter_ratio" in trainer.evaluate()


@pytest.mark.slow
def test_the_advice_for_a_compiled_model(tmp_path):
    args = config(tmp_path, torch_compile=True, torch_compile_backend="eager")
    data = head_examples("GPT2LMHeadModel", 12)
    trainer = ITRATrainer(build_head("GPT2LMHeadModel"), args, train_dataset=data, data_collator=default_data_collator)
    with pytest.raises(ValueError, match="What works for this model: feature='cls' or 'mean' or 'last'"):
        trainer.train()


@pytest.mark.parametrize("settings", [PAIRED, DEFAULTS, {**SPLIT, "eval_compactness": True}])
def test_a_model_that_draws_in_eval_mode_resumes_bit_for_bit(settings, tmp_path):
    def run(checkpoint=None):
        args = config(tmp_path, max_steps=16, save_strategy="steps", save_steps=13, **settings)
        trainer = ITRATrainer(Noisy(dropout=0.1), args, train_dataset=toy_examples(24), eval_dataset=toy_examples(6))
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer.model

    for one, other in zip(run().parameters(), run(str(tmp_path / "checkpoint-13")).parameters(), strict=True):
        assert_close(one, other, rtol=0, atol=0)
