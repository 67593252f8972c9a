"""`alignment='auto'`: decided by the first labelled batch, alike on all processes, told in log, card and checkpoint."""

import json
import logging
from pathlib import Path

import pytest
import torch
from families import build, examples
from torch import nn
from trainers import CLASSES, Toy, config, toy_examples
from transformers import TrainingArguments

from itra_hf import ITRATrainer
from itra_hf.batches import LabelKind, kind_of

DEFAULTS = {"companion": "memory", "weight_mode": "rising", "matching_weight": 1.0}


CORAL = "examples/distances.py:coral"


class Regressor(Toy):
    """Predicts one number an example, or several."""

    def forward(self, x, labels=None):
        scores = self.head(self.body(x))
        if labels is None:
            return {"logits": scores}
        return {"loss": (scores.squeeze(-1) - labels).square().mean(), "logits": scores}


class Column(Toy):
    def forward(self, x, labels=None):
        return super().forward(x, None if labels is None else labels[:, 0])


class MultiLabel(Toy):
    def forward(self, x, labels=None):
        scores = self.head(self.body(x))
        if labels is None:
            return {"logits": scores}
        return {"loss": nn.functional.binary_cross_entropy_with_logits(scores, labels.float()), "logits": scores}


def relabelled(function):
    return [{"x": row["x"], "labels": function(row["labels"])} for row in toy_examples(24)]


def one_hot(label):
    return torch.eye(CLASSES)[label]


TASKS = {
    "class ids": (Toy(), toy_examples(24), "conditional"),
    "ids in a column": (Column(), relabelled(lambda label: torch.tensor([label])), "conditional"),
    "one float": (Regressor(outputs=1), relabelled(float), "joint"),
    "several floats": (Regressor(outputs=CLASSES), relabelled(lambda label: 2.5 * one_hot(label)), "joint"),
    "several labels": (MultiLabel(), relabelled(one_hot), "joint"),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("companion", ["memory", "split", "sample"])
def test_any_labels_train_at_the_defaults(task, companion, tmp_path, caplog):
    model, data, expected = TASKS[task]
    args = config(tmp_path, max_steps=14, **{**DEFAULTS, "companion": companion, "weight_mode": "balanced"})
    caplog.set_level(logging.INFO)
    trainer = ITRATrainer(model, args, train_dataset=data)
    trainer.train()
    lines = trainer.state.log_history[11:14]
    assert all(line["matching_loss"] > 0 and line["matching_weight"] > 0 for line in lines)
    told = [record.message for record in caplog.records if "alignment='auto'" in record.message]
    assert told == [f"alignment='auto' is {expected!r} in this run, by the labels of the first batch."]
    trainer.create_model_card()
    assert f"{expected} (auto)" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_plain_training_arguments_train_a_regression(tmp_path):
    args = TrainingArguments(str(tmp_path), max_steps=12, report_to="none", use_cpu=True, disable_tqdm=True)
    trainer = ITRATrainer(Regressor(outputs=1), args, train_dataset=relabelled(float))
    assert trainer.train().global_step == 12
    assert trainer._itra_aligner.alignment == "joint"


def test_a_distance_without_a_joint_form_is_marginal(tmp_path):
    args = config(tmp_path, matching_loss=CORAL)
    trainer = ITRATrainer(Regressor(outputs=1), args, train_dataset=relabelled(float))
    trainer.train()
    assert trainer._itra_aligner.matching_loss.alignment == "marginal"
    assert trainer.state.log_history[0]["matching_loss"] > 0


class Reconstruction(Toy):
    """Has a loss without labels."""

    def forward(self, x, labels=None):
        outputs = super().forward(x, labels)
        outputs.setdefault("loss", outputs["logits"].square().mean())
        return outputs


def test_without_labels_it_is_marginal(tmp_path):
    data = [{"x": row["x"]} for row in toy_examples(12)]
    trainer = ITRATrainer(Reconstruction(), config(tmp_path), train_dataset=data)
    trainer.train()
    assert trainer.state.log_history[1]["matching_loss"] > 0
    assert trainer._itra_aligner.alignment is None
    trainer.create_model_card()
    assert "marginal (auto)" in (tmp_path / "README.md").read_text(encoding="utf-8")


class SomeLabels:
    """A collator that leaves the labels out of every batch but those that are asked for."""

    def __init__(self, labelled):
        self.labelled, self.calls = labelled, 0

    def __call__(self, rows):
        batch = {"x": torch.stack([row["x"] for row in rows])}
        if self.calls in self.labelled:
            batch["labels"] = torch.tensor([row["labels"] for row in rows])
        self.calls += 1
        return batch


@pytest.mark.parametrize("settings", [{"companion": "memory"}, {"companion": "split"}])
def test_unlabelled_batches_among_labelled_ones_are_no_error(settings, tmp_path):
    args = config(tmp_path, max_steps=6, **settings)
    trainer = ITRATrainer(Reconstruction(), args, train_dataset=toy_examples(24), data_collator=SomeLabels({2, 3, 5}))
    trainer.train()
    assert trainer._itra_aligner.alignment == "conditional"
    matching = [line.get("matching_loss") for line in trainer.state.log_history[:-1]]
    assert matching[4] is None  # after the decision, a batch without labels has nothing to align by
    assert matching[3] > 0
    assert matching[5] > 0


def test_a_checkpoint_keeps_what_was_decided(tmp_path):
    def run(data, checkpoint=None, **settings):
        args = config(tmp_path, max_steps=4, save_strategy="steps", save_steps=2, **DEFAULTS, **settings)
        trainer = ITRATrainer(Regressor(outputs=1), args, train_dataset=data)
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer

    run(relabelled(float))
    state = json.loads(Path(tmp_path, "checkpoint-2", "itra_state.json").read_text(encoding="utf-8"))
    assert state["alignment"] == "joint"
    ids = toy_examples(24)  # which a run that starts anew would align class by class
    assert run(ids, tmp_path / "checkpoint-2")._itra_aligner.alignment == "joint"
    other = run(relabelled(float), tmp_path / "checkpoint-2", matching_loss=CORAL)
    assert other._itra_aligner.matching_loss.alignment == "marginal"  # which has no joint form


class Tokens(Toy):
    """Predicts a number for each of a varying number of tokens."""

    def forward(self, x, labels=None):
        scores = self.head(self.body(x))
        return {"loss": (scores.mean(1, keepdim=True) - labels).square().mean(), "logits": scores}


def test_targets_of_another_width_are_left_out(tmp_path):
    widths = iter([3, 3, 5, 3, 5, 3])

    def collate(rows):
        return {"x": torch.stack([row["x"] for row in rows]), "labels": torch.ones(len(rows), next(widths))}

    args = config(tmp_path, max_steps=6, **{**DEFAULTS})
    trainer = ITRATrainer(Tokens(), args, train_dataset=toy_examples(24), data_collator=collate)
    trainer.train()
    aligned = ["matching_loss" in line for line in trainer.state.log_history[:-1]]
    assert aligned == [False, True, False, True, False, True]


def test_kinds_of_labels():
    ids, floats, tokens = torch.tensor([0, 2]), torch.tensor([0.5, 2.0]), torch.tensor([[0, 1, -100], [2, 0, 0]])
    hot, cube, wide = torch.tensor([[0, 1, 1], [1, 0, 0]]), torch.zeros(2, 3, 4), torch.zeros(2, 5000)
    none, other, targets, classes = LabelKind
    expected = {
        none: [(None, 3), ([0, 1], 3)],
        other: [(tokens, 7), (tokens, 3), (cube, 3), (wide, None), (hot, 7), (tokens.float(), 1)],
        targets: [(hot, 3), (hot.bool(), 3), (hot.float(), 3), (floats, 1), (floats, None), (tokens.float(), None)],
        classes: [(ids, 3), (ids[:, None], 3), (ids.to(torch.uint8), None)],
    }
    for kind, cases in expected.items():
        assert [kind_of(labels, count) for labels, count in cases] == [kind] * len(cases)
    assert min(targets, classes) == targets  # of several batches or processes the least decides


@pytest.mark.parametrize("data", [examples("Bert", 12)])
def test_a_set_alignment_is_not_decided(data, tmp_path, caplog):
    trainer = ITRATrainer(build("Bert"), config(tmp_path, alignment="marginal"), train_dataset=data)
    trainer.train()
    assert trainer._itra_aligner.alignment == "marginal"
    assert not any("alignment='auto'" in record.message for record in caplog.records)
