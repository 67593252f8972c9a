"""Models and batches as people write them: none meets an exception that the stock `Trainer` doesn't raise."""

import pytest
import torch
from heads import build_head, head_examples
from peft import LoraConfig, get_peft_model
from side_by_side import assert_stock, lines, mixed, trained
from torch import nn
from torch.nn import functional
from trainers import CLASSES, DIM, Toy, toy_examples
from transformers import Trainer

from itra_hf import ITRATrainer

# ---- Models ----


class Heads(Toy):
    """A body with a head of some kind."""

    def __init__(self, kind):
        super().__init__(outputs=1 if kind == "squeezed" else CLASSES)
        self.kind, self.second = kind, nn.Linear(16, CLASSES)
        self.calls = 0

    def forward(self, x, labels=None):
        hidden = self.body(x)
        logits = self.head(hidden)
        self.calls += self.training
        if self.kind == "squeezed":
            return {"loss": (logits.squeeze(-1) - labels).square().mean(), "logits": logits.squeeze(-1)}
        if self.kind == "two" and self.calls % 2:
            logits = self.second(hidden)
        loss = functional.cross_entropy(logits, labels)
        if self.kind == "late" and self.calls < 3:
            loss = hidden.square().mean()
        if self.kind == "tuple":
            return loss, logits, hidden
        return {"loss": loss, "logits": logits.softmax(-1) if self.kind == "softmax" else logits}


@pytest.mark.parametrize("kind", ["squeezed", "softmax", "tuple", "two", "late"])
def test_heads(kind, tmp_path):
    trainer = trained(ITRATrainer, tmp_path, Heads(kind), toy_examples(24))
    assert max(lines(trainer, "matching_weight")) > 0


class Structured(Toy):
    def forward(self, x, labels=None):
        logits = self.head(self.body(x))
        return {"loss": functional.cross_entropy(logits, labels), "logits": (logits, logits)}


def test_structured_logits_are_told_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"no logits.*ITRAConfig\(matching_weight=0\)"):
        trained(ITRATrainer, tmp_path, Structured(), toy_examples(24))
    assert lines(trained(ITRATrainer, tmp_path, Structured(), toy_examples(24), feature="head"))


class Doubles(Toy):
    """Looks at each example twice."""

    def forward(self, x, labels=None):
        logits = self.head(self.body(torch.cat([x, x])))
        return {"loss": functional.cross_entropy(logits, torch.cat([labels, labels])), "logits": logits}


def test_features_that_are_not_as_many_as_labels_align_without_them(tmp_path):
    trainer = trained(ITRATrainer, tmp_path, Doubles(), toy_examples(24))
    assert trainer._itra_aligner.alignment == "marginal"
    assert lines(trainer)[-1] > 0


class Masked(Toy):
    """Several targets, of which some are missing."""

    def forward(self, x, labels=None):
        scores, known = self.head(self.body(x)), torch.isfinite(labels)
        return {"loss": (scores - labels)[known].square().mean(), "logits": scores}


@pytest.mark.parametrize("companion", ["memory", "split", "sample"])
def test_targets_that_a_model_masks(companion, tmp_path):
    data = [
        {"x": row["x"], "labels": functional.one_hot(torch.tensor(row["labels"]), 3).float()}
        for row in toy_examples(24)
    ]
    for row in data[::5]:
        row["labels"][1] = torch.nan
    trainer = trained(ITRATrainer, tmp_path, Masked(), data, companion=companion)
    assert trainer._itra_aligner.alignment == "joint"
    assert torch.isfinite(torch.tensor(lines(trainer))).all()
    assert lines(trainer)[-1] > 0


class Positional(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Toy()

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


class ByPosition(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(inputs["x"])
        loss = functional.cross_entropy(outputs["logits"], inputs["labels"])
        return (loss, outputs) if return_outputs else loss


def adapted():
    return get_peft_model(Toy(), LoraConfig(target_modules=["body.0"], modules_to_save=["head"]))


@pytest.mark.parametrize(("model", "aligns"), [(Positional, False), (adapted, True), (Toy, True)])
def test_models_called_by_position(model, aligns, tmp_path):
    trainer = trained(mixed(ByPosition), tmp_path, model(), toy_examples(24), remove_unused_columns=False)
    assert bool(lines(trainer)) is aligns


def test_label_smoothing_of_an_adapted_language_model_shifts_its_labels(tmp_path):
    data, losses = head_examples("LlamaForCausalLM", 12), []
    for weight in (0.0, 1e-9):
        model = get_peft_model(build_head("LlamaForCausalLM"), LoraConfig(target_modules=["q_proj"]))
        settings = {"label_smoothing_factor": 0.1, "feature": "mean", "matching_weight": weight, "max_steps": 1}
        losses.append(trained(ITRATrainer, tmp_path, model, data, **settings).state.log_history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


# ---- Batches ----


class Tuples(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(inputs[0], inputs[1])
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]


def test_batches_that_are_no_mappings(tmp_path):
    def collate(rows):
        return torch.stack([row["x"] for row in rows]), torch.tensor([row["labels"] for row in rows])

    trainer = assert_stock(
        Tuples, tmp_path, Toy(), toy_examples(24), data_collator=collate, remove_unused_columns=False
    )
    assert lines(trainer)[-1] > 0


class Graphs(nn.Module):
    """Mean over the nodes of each graph; how many graphs there are no one can tell from the first tensor."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(DIM, CLASSES)

    def forward(self, nodes, graph, y):
        pooled = torch.zeros(int(graph.max()) + 1, DIM).index_add(0, graph, nodes)
        logits = self.head(pooled)
        return {"loss": functional.cross_entropy(logits, y), "logits": logits}


def test_batches_whose_size_no_one_can_tell_are_not_weighed(tmp_path):
    def collate(rows):
        more = rows[0]["labels"] > 0  # in some batches there is one node a graph, which then looks like a row each
        nodes = [row["x"].repeat(1 + more * row["labels"], 1) for row in rows]
        graph = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(each) for each in nodes]))
        return {"nodes": torch.cat(nodes), "graph": graph, "y": torch.tensor([row["labels"] for row in rows])}

    settings = {"data_collator": collate, "gradient_accumulation_steps": 2, "remove_unused_columns": False}
    assert_stock(Trainer, tmp_path, Graphs(), toy_examples(24), **settings)


class Friends(Toy):
    """Has an argument of its own that is called companion."""

    def forward(self, x, companion, labels=None):
        return super().forward(x + companion["y"], labels)


@pytest.mark.parametrize("companion", ["memory", "sample"])
def test_a_column_called_companion(companion, tmp_path):
    data = [{**row, "companion": {"y": torch.ones(DIM)}} for row in toy_examples(24)]

    def collate(rows):
        batch = {key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in ("x", "labels")}
        return {**batch, "companion": {"y": torch.stack([row["companion"]["y"] for row in rows])}}

    trainer = assert_stock(Trainer, tmp_path, Friends(), data, data_collator=collate, companion=companion)
    assert lines(trainer)[-1] > 0
