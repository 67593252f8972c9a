"""`ITRATrainer` beside the stock `Trainer`."""

import copy
import os
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from families import LABELS, PAD, build, examples
from peft import LoraConfig, get_peft_model
from torch import nn
from trainers import DIM, Toy, config, toy_examples
from transformers import Trainer, TrainerCallback, TrainingArguments

from itra_hf import AlignmentArguments, ITRAMixin, ITRATrainer
from itra_hf.alignment.weight import balanced_factor, update_balance


class Record(TrainerCallback):
    """Keeps every step's gradients and, at the end, the parameters."""

    def __init__(self):
        self.gradients, self.parameters = [], []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.parameters.append([p.detach().clone() for p in model.parameters()])


def run(trainer_class, folder, data, model=None, resume=None, **settings):
    record = Record()
    keywords = {
        key: settings.pop(key)
        for key in ("eval_dataset", "compute_metrics", "compute_loss_func", "data_collator")
        if key in settings
    }
    args = config(folder, **settings)
    trainer = trainer_class(
        copy.deepcopy(model or build("Bert")), args, train_dataset=data, callbacks=[record], **keywords
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, record


def losses(trainer, key="loss"):
    return [line[key] for line in trainer.state.log_history if key in line]


def same(left, right):
    return all(torch.equal(a, b) for x, y in zip(left, right, strict=True) for a, b in zip(x, y, strict=True))


def error_rate(prediction):
    return {"error": float((prediction.predictions.argmax(-1) != prediction.label_ids).mean())}


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
    assert not any(weights[:10])  # the memory fills
    assert weights[-1] > max(weights[:20])  # it rises as the task loss's pull falls


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


# ---- Everything that Trainer gives ----


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


def test_evaluation_sees_neither_matching_nor_extra_outputs(tmp_path):
    data = examples("Bert", 21)
    ours, _ = run(ITRATrainer, tmp_path, data, eval_dataset=data[:7], compute_metrics=error_rate)
    stock = Trainer(ours.model, config(tmp_path), eval_dataset=data[:7], compute_metrics=error_rate)
    mine, theirs = ours.evaluate(), stock.evaluate()
    assert set(mine) - {"epoch"} == set(theirs) - {"epoch", "eval_model_preparation_time"}
    assert mine["eval_loss"] == theirs["eval_loss"]
    np.testing.assert_array_equal(ours.predict(data).predictions, stock.predict(data).predictions)
    assert ours.predict(data).predictions.shape == (21, LABELS)


class Items(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def pad_to_eight(rows):
    return {key: torch.tensor([row[key] for row in rows]) for key in ("input_ids", "attention_mask", "labels")}


@pytest.mark.parametrize(
    "settings",
    [
        {"label_smoothing_factor": 0.1},
        {"dataloader_drop_last": True, "max_steps": -1, "num_train_epochs": 2},
        {"max_steps": -1, "num_train_epochs": 2},
        {"per_device_train_batch_size": 1, "companion": "class_matched"},
        {"train_sampling_strategy": "group_by_length", "length_column_name": "length"},
        {"remove_unused_columns": False, "data_collator": pad_to_eight},
        {"data_collator": pad_to_eight},
        {"companion": "class_matched"},
        {"feature": "cls"},
        {"feature": "mean"},
        {"kernel": "laplacian", "bandwidth": "median"},
        {"estimator": "unbiased", "alignment": "marginal"},
        {"companion_decay": 0.9},
        {"gradient_accumulation_steps": 2, "max_steps": -1, "num_train_epochs": 2},
        {"dataloader_num_workers": 2, "dataloader_persistent_workers": True, "max_steps": -1, "num_train_epochs": 2},
        {"gradient_checkpointing": True},
        {"include_num_input_tokens_seen": "all"},
        {"bf16": True},
    ],
)
@pytest.mark.parametrize("kind", ["datasets", "torch"])
def test_settings_of_the_stock_trainer(settings, kind, tmp_path):
    rows = [{**row, "text": "unused", "length": int(sum(row["attention_mask"]))} for row in examples("Bert", 21)]
    if settings.get("remove_unused_columns") is False:
        rows = [{key: row[key] for key in ("input_ids", "attention_mask", "labels")} for row in rows]
    data = Dataset.from_list(rows) if kind == "datasets" else Items(rows)
    trainer, record = run(ITRATrainer, tmp_path, data, **settings)
    assert len(record.gradients) == trainer.state.max_steps >= 3
    assert np.isfinite(losses(trainer)).all()
    assert max(losses(trainer, "matching_weight")) > 0 or trainer.alignment_args.estimator == "unbiased"


def test_primary_batches_come_in_the_stock_order(tmp_path):
    seen = {}

    class Watch(Trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            seen.setdefault(type(self), []).append(inputs["input_ids"].tolist())
            return super().compute_loss(model, inputs, *args, **kwargs)

    class WatchITRA(ITRAMixin, Watch):
        pass

    for trainer_class in (Watch, WatchITRA):
        run(trainer_class, tmp_path, examples("Bert", 21), max_steps=12)
    assert seen[Watch] == seen[WatchITRA]


def test_token_count_is_the_primary_batchs(tmp_path):
    counts = [
        run(trainer_class, tmp_path, examples("Bert", 21), include_num_input_tokens_seen="all")[0].state
        for trainer_class in (Trainer, ITRATrainer)
    ]
    assert counts[0].num_input_tokens_seen == counts[1].num_input_tokens_seen
    assert counts[0].total_flos == counts[1].total_flos


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


def test_model_init_and_a_second_run_tap_the_new_model(tmp_path):
    trainer = ITRATrainer(
        model_init=lambda: build("Bert"), args=config(tmp_path, max_steps=6), train_dataset=examples("Bert", 24)
    )
    trainer.train()
    first = losses(trainer)
    trainer.train()
    assert losses(trainer) == first
    assert not any(module._forward_pre_hooks for module in trainer.model.modules())  # the taps are gone
    copy.deepcopy(trainer.model)


@pytest.mark.parametrize("wrapped", [True, False])
def test_lora_with_its_saved_head(wrapped, tmp_path):
    lora = LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], modules_to_save=["classifier"])
    model = get_peft_model(build("Bert"), lora) if wrapped else build("Bert")
    if not wrapped:
        model.add_adapter(lora)
    trainer = ITRATrainer(model, config(tmp_path), train_dataset=examples("Bert", 12))
    trainer.train()
    assert min(losses(trainer, "matching_loss")) > 0
    assert max(losses(trainer, "matching_weight")) > 0
    trainer.save_model(str(tmp_path / "saved"))
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(os.listdir(tmp_path / "saved"))


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


def cross_entropy(outputs, labels):
    return nn.functional.cross_entropy(outputs["logits"], labels)


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


def test_labels_that_a_transform_makes(tmp_path):
    rows = [
        {("class" if key == "labels" else key): value for key, value in row.items()} for row in examples("Bert", 12)
    ]

    def rename(batch):
        return {("labels" if key == "class" else key): value for key, value in batch.items()}

    data = Dataset.from_list(rows).with_transform(rename)
    trainer, _ = run(ITRATrainer, tmp_path, data, remove_unused_columns=False)
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


@pytest.mark.parametrize(("settings", "passes"), [({}, 1), ({"companion_decay": 0.9}, 2)])
def test_both_batches_go_through_the_model_together(settings, passes, tmp_path):
    trainer = ITRATrainer(build("Bert"), config(tmp_path, **settings), train_dataset=examples("Bert", 12))
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.compute_loss(trainer.model.train(), batch)  # places the tap
    rows = []
    trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    trainer.compute_loss(trainer.model, batch)
    assert rows == ([8] if passes == 1 else [4, 4])


def test_lists_with_one_entry_an_example_go_along(tmp_path):
    class Named(Toy):
        def forward(self, x, names=None, labels=None):
            assert len(names) == len(x)
            return super().forward(x, labels)

    def collate(rows):
        batch = {"x": torch.stack([row["x"] for row in rows]), "labels": torch.tensor([row["labels"] for row in rows])}
        return {**batch, "names": [str(row["labels"]) for row in rows]}

    run(ITRATrainer, tmp_path, toy_examples(12), Named(), data_collator=collate)


def test_companions_follow_the_data_seed_and_the_class(tmp_path):
    def companions(**settings):
        trainer = ITRATrainer(build("Bert"), config(tmp_path, **settings), train_dataset=examples("Bert", 30))
        paired = trainer.get_train_dataloader().dataset
        return [paired[i] for i in range(30)]

    first = companions(data_seed=1)
    assert first == companions(data_seed=1) != companions(data_seed=2)
    assert all(a["labels"] == b["labels"] for a, b in companions(companion="class_matched"))
    assert not all(a["labels"] == b["labels"] for a, b in first)


def test_uneven_micro_batches_count_by_their_rows_when_aligned(tmp_path):
    data, model = examples("Bert", 13), build("Bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    common = {"max_steps": -1, "num_train_epochs": 1, "learning_rate": 0.0, "train_sampling_strategy": "sequential"}
    tiny = {"weight_mode": "constant", "matching_weight": 1e-12}
    small = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    whole, _ = run(ITRATrainer, tmp_path / "a", data, model, per_device_train_batch_size=8, **common, **tiny)
    parts, _ = run(ITRATrainer, tmp_path / "b", data, model, **small, **common, **tiny)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    once, _ = run(ITRATrainer, tmp_path / "c", data, model, **{**small, **common, **tiny, "logging_steps": 2})
    assert losses(once, "task_loss") == pytest.approx(losses(once), rel=1e-5)


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


def test_integer_weights_survive_a_search_that_casts(tmp_path):
    assert isinstance(config(tmp_path, matching_weight=1).matching_weight, float)


@pytest.mark.slow
def test_compiled_models_are_balanced_too(tmp_path):
    data, model = examples("Bert", 12), build("Bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    plain, _ = run(ITRATrainer, tmp_path / "a", data, model)
    compiled, _ = run(ITRATrainer, tmp_path / "b", data, model, torch_compile_backend="aot_eager")
    for key in ("loss", "matching_weight"):
        assert losses(compiled, key) == pytest.approx(losses(plain, key), rel=1e-3)


def test_weight_set_to_zero_between_runs_switches_the_method_off(tmp_path):
    trainer, _ = run(ITRATrainer, tmp_path, examples("Bert", 12))
    trainer.args.matching_weight = 0.0
    trainer.train()
    assert "matching_loss" not in trainer.state.log_history[0]


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


# ---- What goes wrong ----


def test_collapse_is_reported_once(tmp_path, caplog):
    run(
        ITRATrainer,
        tmp_path,
        toy_examples(60),
        Toy(),
        max_steps=300,
        logging_steps=20,
        weight_mode="constant",
        matching_weight=50.0,
        alignment="marginal",
        per_device_train_batch_size=8,
    )
    warnings = [record.message for record in caplog.records if "collapsing" in record.message]
    assert len(warnings) == 1
    assert "matching_weight" in warnings[0]


@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_defaults_do_not_collapse(weight, tmp_path, caplog):
    data = toy_examples(300)
    trainer, _ = run(
        ITRATrainer,
        tmp_path,
        data,
        Toy(),
        max_steps=300,
        matching_weight=weight,
        per_device_train_batch_size=16,
        eval_dataset=toy_examples(90, seed=1),
        compute_metrics=error_rate,
    )
    start, now, _ = trainer._itra_watch.spread.tolist()
    assert now > 0.2 * start
    assert not any("collapsing" in record.message for record in caplog.records)
    assert trainer.evaluate()["eval_error"] < 0.1


def test_non_finite_matching_loss_stops_training(tmp_path):
    data = toy_examples(40)
    data[17]["x"] = data[17]["x"] * float("inf")
    with pytest.raises(FloatingPointError, match=r"matching loss became nan at or before step \d+ \(epoch 0"):
        run(ITRATrainer, tmp_path, data, Toy(), max_steps=20)


def test_dropped_companions_are_noticed(tmp_path):
    class OwnLoader(Trainer):
        pass

    class OwnLoaderITRA(ITRATrainer):
        def get_train_dataloader(self):
            return torch.utils.data.DataLoader(self.train_dataset, batch_size=4, collate_fn=pad_to_eight)

    with pytest.raises(ValueError, match="came without its companion"):
        run(OwnLoaderITRA, tmp_path, examples("Bert", 12))


def test_frozen_backbone_is_said_and_trains_as_plain(tmp_path, caplog):
    model = build("Bert")
    for parameter in model.bert.parameters():
        parameter.requires_grad = False
    trainer, _ = run(ITRATrainer, tmp_path, examples("Bert", 12), model)
    assert losses(trainer, "matching_weight") == [0.0] * 3
    assert sum("frozen backbone" in record.message for record in caplog.records) == 1


def unlabelled(count):
    return [{key: row[key] for key in ("input_ids", "attention_mask")} for row in examples("Bert", count)]


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (examples("Bert", 1), {}, "needs at least two"),
        (
            [{k: row[k] for k in ("input_ids", "attention_mask")} for row in examples("Bert", 8)],
            {"alignment": "conditional"},
            "needs labels|no labels column",
        ),
        (examples("Bert", 8), {"feature": "nowhere"}, "nor the name of a module"),
    ],
)
def test_bad_input_is_refused_when_training_starts(data, settings, message, tmp_path):
    for dataset in (data, Dataset.from_list(data)):
        with pytest.raises(ValueError, match=message):
            run(ITRATrainer, tmp_path, dataset, **settings)


def test_missing_labels_are_refused_with_what_there_is(tmp_path):
    with pytest.raises(ValueError, match="needs labels, but the batch has only input_ids, attention_mask"):
        run(ITRATrainer, tmp_path, unlabelled(8), alignment="conditional")
    with pytest.raises(ValueError, match="needs labels, but the batch has only input_ids, attention_mask"):
        run(ITRATrainer, tmp_path, Dataset.from_list(unlabelled(8)), alignment="conditional")


def test_unused_columns_are_dropped_before_pairing(tmp_path):
    data = Dataset.from_list([{**row, "text": "unused"} for row in examples("Bert", 8)])
    trainer = ITRATrainer(build("Bert"), config(tmp_path), train_dataset=data)
    paired = trainer.get_train_dataloader().dataset
    assert set(paired.dataset.column_names) == {"input_ids", "attention_mask", "labels"}


def test_data_parallel_is_refused(tmp_path):
    args = config(tmp_path)
    args._n_gpu = 2
    with pytest.raises(ValueError, match="accelerate launch"):
        ITRATrainer(build("Bert"), args, train_dataset=examples("Bert", 8))


def test_settings_changed_after_construction_are_checked_again(tmp_path):
    trainer = ITRATrainer(build("Bert"), config(tmp_path), train_dataset=examples("Bert", 8))
    trainer.args.matching_weight = -1.0
    with pytest.raises(ValueError, match=r"matching_weight=-1\.0 must be"):
        trainer.train()


def test_saved_folder_loads_without_itra(tmp_path):
    from transformers import AutoModelForSequenceClassification

    trainer, _ = run(ITRATrainer, tmp_path, examples("Bert", 12))
    trainer.save_model(str(tmp_path / "saved"))
    assert "itra" not in "".join(os.listdir(tmp_path / "saved"))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert same([loaded.state_dict().values()], [trainer.model.state_dict().values()])
