"""Heads that are no sequence classifiers: what aligns, what the advice says, whose loss counts its items."""

import importlib
import inspect
import re

import pytest
import torch
from families import FAMILIES, PAD, build, examples
from heads import HEADS, build_head, head_examples
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.testing import assert_close
from trainers import Toy, config
from transformers import Trainer, default_data_collator
from transformers.loss.loss_utils import fixed_cross_entropy

from itra_hf import ITRATrainer
from itra_hf.features.head import POOLINGS
from itra_hf.features.item_counts import computes_with_item_count, takes_item_count

ADVICE = re.compile(r"What works for this model: feature=(.*?), or the name")


def trained(kind, folder, model, data, **settings):
    trainer = kind(model, config(folder, **settings), train_dataset=data, data_collator=default_data_collator)
    trainer.train()
    return trainer


def advised(folder, name, feature):
    """The settings that the error names, `None` where there is no error."""
    try:
        trained(ITRATrainer, folder, build_head(name), head_examples(name, 8), feature=feature, companion="split")
    except ValueError as error:
        found = ADVICE.search(str(error))
        return re.findall(r"'(\w+)'", found.group(1)) if found else [] if "matching_weight=0" in str(error) else ["?"]
    return None


@pytest.mark.parametrize("name", HEADS)
def test_the_advice_on_features_is_what_works(name, tmp_path):
    results = {feature: advised(tmp_path, name, feature) for feature in ("auto", *POOLINGS)}
    works = [feature for feature, advice in results.items() if advice is None]
    assert results["auto"] is not None
    assert all(advice == works for advice in results.values() if advice is not None)
    assert works == ([] if name in ("BertForMultipleChoice", "T5ForConditionalGeneration") else list(POOLINGS))


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "BertForTokenClassification", "BertForQuestionAnswering"])
@pytest.mark.parametrize("companion", ["memory", "sample"])
def test_what_the_advice_says_aligns(name, companion, tmp_path):
    data = head_examples(name, 12)
    trainer = trained(ITRATrainer, tmp_path, build_head(name), data, feature="mean", companion=companion, max_steps=13)
    assert trainer._itra_aligner.alignment == "marginal"
    assert trainer.state.log_history[-2]["matching_weight"] > 0


@pytest.mark.parametrize("companion", ["memory", "split", "sample"])
def test_batches_padded_to_other_lengths_align_by_features_alone(companion, tmp_path):
    name = "BertForTokenClassification"
    rows = [
        {key: value[: 3 + index % 5] for key, value in row.items()} for index, row in enumerate(head_examples(name, 12))
    ]

    def collate(picked):
        longest = max(len(row["input_ids"]) for row in picked)
        fill = {"input_ids": PAD, "attention_mask": 0, "labels": -100}
        return {
            key: torch.tensor([row[key] + [fill[key]] * (longest - len(row[key])) for row in picked]) for key in fill
        }

    args = config(tmp_path, feature="mean", companion=companion, max_steps=4, per_device_train_batch_size=2)
    trainer = ITRATrainer(build_head(name), args, train_dataset=rows, data_collator=collate)
    trainer.train()
    assert trainer._itra_aligner.alignment == "marginal"
    assert any(entry.get("matching_loss") for entry in trainer.state.log_history)


@pytest.mark.parametrize("name", HEADS)
def test_without_alignment_every_head_trains(name, tmp_path):
    data = head_examples(name, 12)
    trainers = [trained(kind, tmp_path, build_head(name), data, matching_weight=0.0) for kind in (Trainer, ITRATrainer)]
    for one, other in zip(*(trainer.model.parameters() for trainer in trainers), strict=True):
        assert_close(one, other, rtol=0, atol=0)


# ---- Losses that count their items ----


def counts_items(model, row):
    """Whether the model's own loss really changes with the count."""
    batch = default_data_collator([row, row])
    model.eval()
    with torch.no_grad():
        losses = [float(model(**batch, num_items_in_batch=torch.tensor(count)).loss) for count in (3, 300)]
    return losses[0] != pytest.approx(losses[1])


@pytest.mark.parametrize("name", HEADS)
def test_what_is_read_from_the_source_is_what_the_loss_does(name):
    model = build_head(name)
    if any(kind.kind is kind.VAR_KEYWORD for kind in inspect.signature(model.forward).parameters.values()):
        assert takes_item_count(model) == counts_items(model, head_examples(name, 3)[0])
    else:
        assert not takes_item_count(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_sequence_classifier_counts_items(family):
    assert not takes_item_count(build(family))


class TakesCount(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = build_head("LlamaForCausalLM")

    def forward(self, input_ids, labels=None, **kwargs):
        return self.inner(input_ids, labels=labels, **kwargs)


class TakesCountByName(Toy):
    def forward(self, x, labels=None, **kwargs):
        count = kwargs.get("num_items_in_batch")
        outputs = super().forward(x, labels)
        return {**outputs, "loss": outputs["loss"] if count is None else outputs["loss"] * len(x) / count}


class IgnoresCount(Toy):
    def forward(self, x, labels=None, **kwargs):
        return super().forward(x, labels)


class HandsCountToItsBody(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = build("Bert").bert, nn.Linear(16, 3)

    def forward(self, input_ids, labels=None, **kwargs):
        logits = self.head(self.body(input_ids, **kwargs).pooler_output)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class HelpsItself(Toy):
    """Hands the count to a loss whose name says so otherwise."""

    def forward(self, x, labels=None, **kwargs):
        logits = self.head(self.body(x))
        return {"loss": fixed_cross_entropy(logits, labels, **kwargs), "logits": logits}


class Keeps(nn.Module):
    """Reaches the model inside by ways of its own."""

    def __init__(self, way):
        super().__init__()
        self.way, self.inner, self.models = way, build_head("LlamaForCausalLM"), nn.ModuleDict()
        self.models["one"], self.holder = self.inner, nn.Sequential(self.inner)
        self.holder.inner = self.inner

    def forward(self, input_ids, labels=None, **kwargs):
        if self.way == "attribute":
            return self.holder.inner(input_ids, labels=labels, **kwargs)
        if self.way == "item":
            return self.models["one"](input_ids, labels=labels, **kwargs)
        inner = self.inner
        return inner(input_ids, **{"labels": labels, **kwargs})


class Declares(IgnoresCount):
    accepts_loss_kwargs = True


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (TakesCount(), True),
        (TakesCountByName(), True),
        (Declares(), True),
        (HelpsItself(), True),
        (Keeps("attribute"), True),
        (Keeps("item"), True),
        (Keeps("variable"), True),
        (IgnoresCount(), False),
        (HandsCountToItsBody(), False),
        (get_peft_model(build_head("LlamaForCausalLM"), LoraConfig(target_modules=["q_proj"])), True),
        (get_peft_model(build("Llama"), LoraConfig(target_modules=["q_proj"], task_type="SEQ_CLS")), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_models_of_a_users_own(model, expected):
    assert takes_item_count(model) is expected


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_a_loss_that_counts_its_items_is_left_to_the_stock_trainer(name, tmp_path):
    data = head_examples(name, 22)  # the last batch is a smaller one
    settings = {"gradient_accumulation_steps": 2, "max_steps": 6, "optim": "sgd", "matching_weight": 0.0}
    trainers = [trained(kind, tmp_path, build_head(name), data, **settings) for kind in (Trainer, ITRATrainer)]
    for one, other in zip(*(trainer.model.parameters() for trainer in trainers), strict=True):
        assert_close(one, other, rtol=0, atol=0)


def test_a_users_module_may_have_a_name_that_begins_like_the_package(tmp_path, monkeypatch):
    source = """
from transformers import Trainer


class Counting(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return model(**inputs).loss / num_items_in_batch
"""
    for module in ("itra_hf_mine", "transformers_mine"):
        (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        assert computes_with_item_count(importlib.import_module(module).Counting)


@pytest.mark.parametrize("weight", [0.0, 1e-9])
def test_accumulation_counts_tokens_where_the_loss_does(weight, tmp_path):
    """Two micro-batches of four are one batch of eight, whatever number of tokens each has a label for."""
    data, results = head_examples("LlamaForCausalLM", 24), []
    for size, steps in ((8, 1), (4, 2)):
        trainer = trained(
            ITRATrainer,
            tmp_path,
            build_head("LlamaForCausalLM"),
            data,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            optim="sgd",
            matching_weight=weight,
            weight_mode="constant",
            feature="mean",
            companion="split",
        )
        results.append(
            (
                list(trainer.model.parameters()),
                [line["task_loss"] for line in trainer.state.log_history[:-1]] if weight else [],
            )
        )
    assert_close(results[0][0], results[1][0], rtol=1e-4, atol=1e-6)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4)


def test_classifiers_divide_by_the_accumulation_steps(tmp_path):
    data, results = examples("Bert", 24), []
    for size, steps in ((8, 1), (4, 2)):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "optim": "sgd"}
        model = build("Bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        trainer = trained(ITRATrainer, tmp_path, model, data, matching_weight=0.0, **settings)
        results.append(list(trainer.model.parameters()))
    assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)
