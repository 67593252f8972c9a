"""Training with companions from within (`split`, `memory`), or without dropout."""

import copy

import pytest
import torch
from datasets import Dataset
from families import build, examples
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.testing import assert_close
from torch.utils.data import IterableDataset
from trainers import Toy, config, toy_examples
from transformers import BertForSequenceClassification, Trainer, TrainerCallback, set_seed

from itra_hf import ITRAMixin, ITRATrainer, MatchingLoss

FROM_WITHIN = pytest.mark.parametrize("companion", ["split", "memory"])
ALIKE = {"split": {"companion": "split"}, "memory": {"companion": "memory"}}
AT_ONCE = {"weight_mode": "constant"}
UNNOTICEABLE = {**AT_ONCE, "matching_weight": 1e-30}
SGD = {"optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
SEQUENTIAL = {"train_sampling_strategy": "sequential"}


def without_dropout():
    return build("Bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def count_rows(model, name="input_ids"):
    """The rows of each forward pass in training mode, in a list that fills up."""
    rows = []

    def note(module, args, inputs):
        if module.training:
            rows.append(len(inputs[name]))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return rows


def train(folder, trainer_class=ITRATrainer, model=None, data=None, resume=None, eval_dataset=None, **settings):
    """A trainer that has trained, which also has the rows of its forward passes, in `rows`."""
    model = copy.deepcopy(model) if model is not None else build("Bert")
    rows = count_rows(model, "x" if isinstance(model, Toy) else "input_ids")
    data = examples("Bert", 22) if data is None else data
    args = config(folder, **{"max_steps": 6, **settings})
    trainer = trainer_class(model, args, train_dataset=data, eval_dataset=eval_dataset)
    trainer.train(resume_from_checkpoint=resume)
    trainer.rows = rows
    return trainer


def series(trainer, key):
    return [line[key] for line in trainer.state.log_history if key in line]


def lines(trainer):
    """The logged training steps."""
    return [line for line in trainer.state.log_history if "loss" in line]


def assert_same_weights(left, right):
    assert_close(left.model.state_dict(), right.model.state_dict(), rtol=0, atol=0)


def memory_of(trainer):
    return trainer._itra_aligner.memory.state_dict()


# ---- Against a loop written by hand ----


def features_and_labels(model, rows):
    x = torch.stack([row["x"] for row in rows])
    return model.body(x), torch.tensor([row["labels"] for row in rows])


def train_by_hand(model, data, args):
    """Plain gradient descent on task loss plus weighted matching loss; returns each step's loss.

    Halves are each class in turns; the memory takes features as they were.
    """
    matching, size, stored, losses = MatchingLoss(), args.per_device_train_batch_size, [], []
    batches = iter([data[start : start + size] for start in range(0, len(data), size)])
    for _ in range(args.max_steps):
        total = 0.0
        for _ in range(args.gradient_accumulation_steps):
            features, labels = features_and_labels(model, next(batches))
            loss = nn.functional.cross_entropy(model.head(features), labels)
            pair = None
            if args.companion == "split":
                order = sorted(range(size), key=lambda row, labels=labels: (int(labels[row]), row))
                pair = [features[order[::2]], labels[order[::2]], features[order[1::2]], labels[order[1::2]]]
            elif stored:
                past = stored[-args.memory_size :]
                pair = [features, labels, torch.stack([f for f, _ in past]), torch.stack([k for _, k in past])]
            stored += zip(features.detach(), labels, strict=True)
            if pair is not None:
                loss = loss + args.matching_weight * matching(*pair)
            total = total + loss / args.gradient_accumulation_steps
        parameters = list(model.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
            parameter.data -= args.learning_rate * gradient
        losses.append(total.item())
    return losses


@pytest.mark.parametrize("more", [{}, {"gradient_accumulation_steps": 3}])
@FROM_WITHIN
def test_training_is_gradient_descent_on_the_sum_of_both_losses(companion, more, tmp_path):
    settings = {**SGD, **AT_ONCE, **SEQUENTIAL, **ALIKE[companion], **more, "matching_weight": 0.7}
    settings |= {"per_device_train_batch_size": 5}
    if companion == "memory":
        settings |= {"memory_size": 13}
    data, model = toy_examples(6 * 3 * 5), Toy()
    trainer = train(tmp_path, model=model, data=data, **settings)
    assert series(trainer, "loss") == pytest.approx(train_by_hand(model, data, trainer.args), rel=1e-5)
    assert_close(trainer.model.state_dict(), model.state_dict())
    assert trainer.rows == [5] * 6 * trainer.args.gradient_accumulation_steps  # one pass a batch, whatever its loss


# ---- Around the Trainer ----


class Stream(IterableDataset):
    def __iter__(self):
        return iter(examples("Bert", 24))


class RowWeighted(Trainer):
    """A user's trainer with a loss of its own."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        weights = torch.tensor([1.0, 5.0, 0.2])
        loss = nn.functional.cross_entropy(outputs["logits"], labels, weight=weights)
        return (loss, outputs) if return_outputs else loss


class LossOnly(Trainer):
    """Returns no outputs, even where they are asked for."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        return model(**inputs)["loss"]


def mixed(base):
    return type("Ours", (ITRAMixin, base), {})


def lora():
    settings = LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], modules_to_save=["classifier"])
    return get_peft_model(build("Bert"), settings)


LENGTHS = [{**row, "length": int(sum(row["attention_mask"]))} for row in examples("Bert", 24)]
COLUMN = [{**row, "labels": [row["labels"]]} for row in examples("Bert", 24)]
FLOATS = [{**row, "labels": float(row["labels"])} for row in examples("Bert", 24)]
SITUATIONS = {
    "list": {},
    "data set": {"data": Dataset.from_list(examples("Bert", 24))},
    "stream": {"data": Stream()},
    "data set's stream": {"data": Dataset.from_list(examples("Bert", 24)).to_iterable_dataset()},
    "a user's loss": {"trainer_class": mixed(RowWeighted)},
    "a user's loss without outputs": {"trainer_class": mixed(LossOnly)},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "grouped by length": {
        "data": Dataset.from_list(LENGTHS),
        "train_sampling_strategy": "group_by_length",
        "length_column_name": "length",
    },
    "labels in a column": {"data": COLUMN},
    "joint floats": {"data": FLOATS, "model": build("Bert", num_labels=1), "alignment": "joint"},
    "marginal": {"alignment": "marginal"},
    "adapter": {"model": lora()},
    "bf16": {"bf16": True},
    "another matching loss": {"matching_loss": "examples/distances.py:coral", "per_device_train_batch_size": 12},
}


@pytest.mark.parametrize("situation", SITUATIONS)
@FROM_WITHIN
def test_one_pass_of_the_batch_gives_both_losses(companion, situation, tmp_path):
    settings = {"per_device_train_batch_size": 6, "data": examples("Bert", 24), **SITUATIONS[situation]}
    trainer = train(tmp_path, **ALIKE[companion], **settings)
    assert trainer.rows == [settings["per_device_train_batch_size"]] * 6
    aligned = lines(trainer)[1:] if companion == "memory" else lines(trainer)
    assert min(line["matching_loss"] for line in aligned) > 0
    assert aligned[-1]["matching_weight"] > 0


@FROM_WITHIN
def test_the_loader_gives_plain_batches_in_the_stock_order(companion, tmp_path):
    orders = []
    for kind, settings in ((Trainer, {}), (ITRATrainer, ALIKE[companion])):
        set_seed(0)
        trainer = kind(build("Bert"), config(tmp_path, **settings), train_dataset=examples("Bert", 22))
        orders.append(
            [{name: value.tolist() for name, value in batch.items()} for batch in trainer.get_train_dataloader()]
        )
    assert orders[0] == orders[1]


class NeverScaled(BertForSequenceClassification):
    """Says of its loss what is true, that it does not divide by the number of items."""

    accepts_loss_kwargs = False


@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 2, "max_steps": 4}])
@FROM_WITHIN
def test_a_weight_too_small_to_count_is_the_stock_trainer_bit_for_bit(companion, settings, tmp_path):
    model = NeverScaled(build("Bert").config)
    stock = train(tmp_path / "a", Trainer, model, examples("Bert", 24), **settings)
    ours = train(
        tmp_path / "b", ITRATrainer, model, examples("Bert", 24), **ALIKE[companion], **UNNOTICEABLE, **settings
    )
    assert series(ours, "loss") == series(stock, "loss")
    assert series(ours, "matching_loss")
    assert_same_weights(ours, stock)


@FROM_WITHIN
def test_frozen_features_get_weight_zero(companion, tmp_path, caplog):
    model = build("Bert")
    model.bert.requires_grad_(False)
    trainer = train(tmp_path, model=model, **AT_ONCE, **ALIKE[companion])
    assert series(trainer, "matching_weight") == [0.0] * 6
    assert max(series(trainer, "matching_loss")) > 0
    assert sum("frozen backbone" in record.message for record in caplog.records) == 1


@FROM_WITHIN
def test_evaluation_is_the_stock_one_and_training_does_not_notice_it(companion, tmp_path):
    data = examples("Bert", 22)
    often = {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True}
    common = {"model": without_dropout(), "data": data, "eval_dataset": data[:7], **ALIKE[companion]}
    quiet = train(tmp_path / "a", **common)
    evaluated = train(tmp_path / "b", **common, **often)
    assert len(series(evaluated, "eval_loss")) == 7
    assert series(evaluated, "matching_loss") == series(quiet, "matching_loss")
    assert_same_weights(evaluated, quiet)
    if companion == "memory":
        assert_close(memory_of(evaluated), memory_of(quiet), rtol=0, atol=0)
    stock = Trainer(quiet.model, config(tmp_path), eval_dataset=data[:7])
    assert quiet.evaluate()["eval_loss"] == stock.evaluate()["eval_loss"] == series(evaluated, "eval_loss")[-1]


# ---- The memory and its checkpoints ----


def test_each_run_starts_with_an_empty_memory(tmp_path):
    args = config(tmp_path, max_steps=6, **ALIKE["memory"])
    trainer = ITRATrainer(model_init=lambda: build("Bert"), args=args, train_dataset=examples("Bert", 22))
    trainer.train()
    first = series(trainer, "loss"), series(trainer, "matching_loss")
    trainer.train()
    assert (series(trainer, "loss"), series(trainer, "matching_loss")) == first


class KeepMemory(TrainerCallback):
    """Copies the memory as it is at the start of a step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.seen = copy.deepcopy(memory_of(self.trainer))


def test_a_smaller_memory_resumes_with_the_newest_and_one_without_file_with_none(tmp_path):
    settings = {"companion": "memory", "save_strategy": "steps", "save_steps": 4}
    train(tmp_path, memory_size=16, **settings)
    checkpoint = tmp_path / "checkpoint-4"

    def memory_after_resuming(**changes):
        keep = KeepMemory(step=4)
        args = config(tmp_path / "again", **{"max_steps": 6, **settings, **changes})
        data = examples("Bert", 22)
        keep.trainer = ITRATrainer(build("Bert"), args, train_dataset=data, callbacks=[keep])
        keep.trainer.train(resume_from_checkpoint=str(checkpoint))
        return keep.seen, keep.trainer

    whole, _ = memory_after_resuming(memory_size=16)
    newest, _ = memory_after_resuming(memory_size=6)
    assert len(whole["features"]) == 16
    assert torch.equal(newest["features"], whole["features"][-6:])
    assert torch.equal(newest["labels"], whole["labels"][-6:])
    (file,) = checkpoint.glob("*memory*")
    file.unlink()
    empty, trainer = memory_after_resuming()
    assert empty == {}
    assert ["matching_loss" in line for line in lines(trainer)[4:]] == [False, True]  # there is nothing to align with


# ---- Companions through averaged weights ----


def test_companions_through_averages_run_without_dropout_and_leave_the_primary_batch_its_own(tmp_path):
    model = build("Bert")  # with dropout
    args = config(tmp_path, companion_decay=0.9, matching_weight=0.7, **AT_ONCE)
    trainer = ITRATrainer(model, args, train_dataset=examples("Bert", 22))
    batch = next(iter(trainer.get_train_dataloader()))

    def features(half):
        return model.dropout(model.bert(half["input_ids"], attention_mask=half["attention_mask"]).pooler_output)

    set_seed(3)
    loss = trainer.compute_loss(model.train(), batch)
    set_seed(3)
    ours = features(batch)
    task = nn.functional.cross_entropy(model.classifier(ours), batch["labels"])
    with torch.no_grad():
        model.eval()
        theirs = features(batch["itra_companion"])
    assert_close(loss, task + 0.7 * MatchingLoss()(ours, batch["labels"], theirs, batch["itra_companion"]["labels"]))


def test_companions_through_averages_take_no_random_numbers(tmp_path):
    stock = train(tmp_path / "a", Trainer)
    ours = train(tmp_path / "b", companion_decay=0.9, **UNNOTICEABLE)
    assert series(ours, "loss") == series(stock, "loss")
    assert_same_weights(ours, stock)


def test_companions_through_averages_leave_every_module_the_mode_that_it_had(tmp_path):
    model = build("Bert").train()
    model.bert.encoder.layer[0].eval()  # a user's choice
    args = config(tmp_path, companion_decay=0.9)
    trainer = ITRATrainer(model, args, train_dataset=examples("Bert", 22))
    batch = next(iter(trainer.get_train_dataloader()))
    before = {name: module.training for name, module in model.named_modules()}
    assert len(set(before.values())) == 2
    trainer.compute_loss(model, batch)
    assert {name: module.training for name, module in model.named_modules()} == before
