"""Losses, batches and outputs of one's own: what users put around the model."""

import copy
import dataclasses
import math
from collections import namedtuple

import pytest
import torch
from datasets import Dataset
from families import build, examples
from torch import nn
from trainers import Toy, config, toy_examples
from transformers import Trainer, TrainerCallback, TrainerControl

from itra_hf import ITRAMixin, ITRATrainer
from itra_hf.alignment.recording import RunRecord
from itra_hf.batches import COMPANION


def mixed(base):
    return type("Ours", (ITRAMixin, base), {})


def series(trainer, key):
    return [row[key] for row in trainer.state.log_history if key in row]


def one_step(trainer, **changes):
    """The loss on the first batch, with entries of it replaced."""
    batch = next(iter(trainer.get_train_dataloader()))
    return trainer.compute_loss(trainer.model.train(), {**batch, **changes})


@pytest.mark.parametrize("family", ["Bert", "GPT2"])
def test_a_compute_loss_that_hides_the_aligning_one_is_refused(family, tmp_path):
    class Hiding(ITRATrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return model(**inputs).loss  # its **kwargs swallow the companion batch

    with pytest.raises(ValueError, match=r"class MyITRATrainer\(ITRAMixin, MyTrainer\)"):
        Hiding(build(family), config(tmp_path), train_dataset=examples(family, 12)).train()
    Hiding(build(family), config(tmp_path, matching_weight=0.0), train_dataset=examples(family, 12)).train()


def test_a_compute_loss_that_extends_the_aligning_one_is_fine(tmp_path):
    class Doubling(ITRATrainer):
        def compute_loss(self, *args, **kwargs):
            return 2 * super().compute_loss(*args, **kwargs)

    trainer = Doubling(build("Bert"), config(tmp_path), train_dataset=examples("Bert", 12))
    trainer.train()
    assert max(series(trainer, "matching_weight")) > 0


def test_a_first_call_without_gradient_is_not_the_one_to_align(tmp_path):
    class Consistent(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            with torch.no_grad():
                target = model(**inputs).logits
            outputs = model(**inputs)
            loss = outputs.loss + (outputs.logits - target).square().mean()
            return (loss, outputs) if return_outputs else loss

    trainer = mixed(Consistent)(build("Bert"), config(tmp_path), train_dataset=examples("Bert", 12))
    trainer.train()
    assert max(series(trainer, "matching_weight")) > 0


def test_a_compute_loss_without_the_model_trains_unaligned_and_says_so(tmp_path, caplog):
    class Aside(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss = self.model(**inputs).loss
            return (loss, None) if return_outputs else loss

    trainer = mixed(Aside)(build("Bert"), config(tmp_path), train_dataset=examples("Bert", 12))
    assert trainer.train().global_step == 3
    assert sum("did not call the model" in record.message for record in caplog.records) == 1


class LogitsOnly(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
        loss = nn.functional.cross_entropy(logits, labels)
        return (loss, outputs) if return_outputs else loss


def collate(rows, **more):
    batch = {"x": torch.stack([row["x"] for row in rows]), "labels": torch.tensor([row["labels"] for row in rows])}
    return {**batch, **more}


def test_a_tensor_of_the_whole_batch_stays_as_it_is(tmp_path):
    class Weighing(Toy):
        def forward(self, x, class_weights=None, labels=None):
            assert class_weights.tolist() == [1.0, 2.0, 3.0]
            return super().forward(x, labels)

    class PassingOn(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            loss = nn.functional.cross_entropy(outputs["logits"], labels, weight=inputs["class_weights"])
            return (loss, outputs) if return_outputs else loss

    trainer = mixed(PassingOn)(
        Weighing(),
        config(tmp_path),
        train_dataset=toy_examples(12),
        data_collator=lambda rows: {"class_weights": torch.tensor([1.0, 2.0, 3.0]), **collate(rows)},
    )
    trainer.train()
    assert max(series(trainer, "matching_weight")) > 0


Named = namedtuple("Named", ["logits", "hidden"])


@dataclasses.dataclass
class Fields:
    logits: torch.Tensor
    hidden: torch.Tensor


@pytest.mark.parametrize("kind", [Named, Fields])
def test_outputs_of_other_kinds_are_cut_to_the_primary_batch(kind, tmp_path):
    class Tupled(Toy):
        def forward(self, x):
            hidden = self.body(x)
            return kind(self.head(hidden), hidden)

    class Checking(LogitsOnly):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            rows = len(inputs["labels"])
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
            assert type(outputs) is kind
            assert len(outputs.logits) == len(outputs.hidden) == rows
            return (loss, outputs) if return_outputs else loss

    args = config(tmp_path, remove_unused_columns=False, label_names=["labels"])
    trainer = mixed(Checking)(Tupled(), args, train_dataset=toy_examples(12), data_collator=collate)
    trainer.train()
    assert max(series(trainer, "matching_weight")) > 0


def test_lists_go_along_in_one_pass(tmp_path):
    seen = []

    class Naming(Toy):
        def forward(self, x, names=None, labels=None):
            seen.append((len(names), len(x)))
            return super().forward(x, labels)

    trainer = mixed(LogitsOnly)(
        Naming(),
        config(tmp_path),
        train_dataset=toy_examples(12),
        data_collator=lambda rows: collate(rows, names=[str(row["labels"]) for row in rows]),
    )
    one_step(trainer)
    assert seen[-1] == (8, 8)


def test_list_labels_do_for_marginal_alignment_and_are_refused_in_words_otherwise(tmp_path):
    class Listed(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = torch.tensor(inputs.pop("labels"))
            outputs = model(**inputs)
            loss = nn.functional.cross_entropy(outputs["logits"], labels)
            return (loss, outputs) if return_outputs else loss

    def collate_lists(rows):
        return {"x": torch.stack([row["x"] for row in rows]), "labels": [row["labels"] for row in rows]}

    def trainer(alignment):
        args = config(tmp_path, alignment=alignment)
        return mixed(Listed)(Toy(), args, train_dataset=toy_examples(12), data_collator=collate_lists)

    trainer("marginal").train()
    with pytest.raises(ValueError, match="needs labels in a tensor, but the collator returns list"):
        trainer("joint").train()


def test_compute_loss_func_outside_training(tmp_path):
    def mean(outputs, labels, num_items_in_batch=None):
        return nn.functional.cross_entropy(outputs["logits"], labels)

    trainer = ITRATrainer(build("Bert"), config(tmp_path), train_dataset=examples("Bert", 12), compute_loss_func=mean)
    assert torch.isfinite(one_step(trainer))


def test_a_collator_may_make_the_labels(tmp_path):
    rows = [{key: row[key] for key in ("input_ids", "attention_mask")} for row in examples("Bert", 12)]

    def label(rows):
        ids = torch.tensor([row["input_ids"] for row in rows])
        return {"input_ids": ids, "labels": ids[:, 0] % 3}

    for settings in ({}, {"remove_unused_columns": False}):
        args = config(tmp_path, **settings)
        ITRATrainer(build("Bert"), args, train_dataset=Dataset.from_list(rows), data_collator=label).train()


def test_evaluation_within_training_is_not_weighed(tmp_path):
    data, evaluation = examples("Bert", 13), {"per_device_eval_batch_size": 8}
    uneven = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "learning_rate": 0.0, "max_steps": 2}
    args = config(tmp_path, **uneven, **evaluation, eval_strategy="steps", eval_steps=1)
    trainer = ITRATrainer(build("Bert"), args, train_dataset=data, eval_dataset=data[:8])
    trainer.train()
    stock = Trainer(trainer.model, config(tmp_path, **evaluation), eval_dataset=data[:8]).evaluate()["eval_loss"]
    assert series(trainer, "eval_loss") == pytest.approx([stock] * 2, rel=1e-6)


def test_a_shortened_step_counts_what_is_left(tmp_path, monkeypatch):
    def summed(outputs, labels, num_items_in_batch=None):
        return nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch

    trainer = ITRATrainer(build("Bert"), config(tmp_path), train_dataset=examples("Bert", 12), compute_loss_func=summed)
    seen = [[2, 1], [8, 4], [1, 1], [3, 3], [0, 0], [1, 1], [1, 1]]  # the other process has one batch only
    answers = iter([seen, [[4, 4]]])
    monkeypatch.setattr("itra_hf.alignment.steps.gather_counts", lambda *ignored: next(answers))
    batches, items = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 2, torch.device("cpu"))
    assert (len(batches), int(items), trainer._itra_step.mean_rows) == (1, 4, None)


def test_frozen_features_log_weight_zero(tmp_path):
    model = build("Bert")
    model.bert.requires_grad_(False)
    args = config(tmp_path, weight_mode="constant")
    trainer = ITRATrainer(model, args, train_dataset=examples("Bert", 12))
    trainer.train()
    assert series(trainer, "matching_weight") == [0.0] * 3


def test_a_broken_run_is_not_saved_and_a_second_run_starts_afresh(tmp_path):
    args = config(tmp_path)
    trainer = ITRATrainer(build("Bert"), args, train_dataset=examples("Bert", 12))
    trainer.train()
    trainer.train()
    assert trainer._itra_watch.steps == 3
    trainer._itra_watch.sums[1] = math.nan
    record = RunRecord(trainer, None)
    record.on_step_end(args, trainer.state, TrainerControl())
    for due in (TrainerControl(should_save=True), TrainerControl(should_log=True)):
        trainer._globalstep_last_logged = 0
        with pytest.raises(FloatingPointError):
            record.on_epoch_end(args, trainer.state, due)
    with pytest.raises(FloatingPointError):
        record.on_evaluate(args, trainer.state, TrainerControl())


def test_only_the_first_process_warns(tmp_path, caplog):
    trainer = ITRATrainer(build("Bert"), config(tmp_path), train_dataset=examples("Bert", 12))
    trainer.is_world_process_zero = lambda: False
    trainer._itra_warn_once("one for all")
    assert not caplog.records


def test_a_matching_loss_of_nothing_is_said(tmp_path, caplog):
    args = config(tmp_path, per_device_train_batch_size=1, estimator="unbiased")
    ITRATrainer(build("Bert"), args, train_dataset=examples("Bert", 12)).train()
    assert sum("exactly 0 for 3 steps" in record.message for record in caplog.records) == 1


def test_a_callback_may_copy_the_model_and_log_a_loss_of_its_own(tmp_path):
    class Busy(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            trainer.log({"loss": 0.5})

        def on_step_end(self, args, state, control, model=None, **kwargs):
            copy.deepcopy(model)

    trainer = ITRATrainer(build("Bert"), config(tmp_path), train_dataset=examples("Bert", 12), callbacks=[Busy()])
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert ["task_loss" in row for row in rows] == [False, True] * 3


def test_a_loader_after_the_weight_was_set_to_zero_is_the_stock_one(tmp_path):
    trainer = ITRATrainer(build("Bert"), config(tmp_path), train_dataset=examples("Bert", 12))
    trainer.train()
    trainer.args.matching_weight = 0.0
    assert COMPANION not in next(iter(trainer.get_train_dataloader()))


def test_batches_of_another_kind_train_as_ever_without_alignment(tmp_path):
    class Tuples(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            x, labels = inputs
            return model(x, labels)["loss"]

    def collate_tuple(rows):
        return torch.stack([row["x"] for row in rows]), torch.tensor([row["labels"] for row in rows])

    losses = []
    for kind, settings in ((Tuples, {}), (mixed(Tuples), {"matching_weight": 0.0})):
        args = config(tmp_path, remove_unused_columns=False, gradient_accumulation_steps=2, **settings)
        trainer = kind(Toy(), args, train_dataset=toy_examples(24), data_collator=collate_tuple)
        trainer.train()
        losses.append(series(trainer, "loss"))
    assert losses[0] == losses[1]
