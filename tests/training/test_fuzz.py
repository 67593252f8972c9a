"""Random data and random settings: a run either ends well, or is refused in words before its first step."""

import math
import os
import re
from typing import Any

import pytest
import torch
from families import ENCODER, TEXT
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from strategies import ALL_CHECKS, LABELS, draw_label
from torch import nn
from trainers import config
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, set_seed

from itra_hf import AlignmentArguments, ITRATrainer
from itra_hf.config_checks import MOST_WEIGHT

ALIGNMENTS = ("conditional", "joint", "marginal")  # that a matching loss has; a run may find out by itself
ESTIMATORS = ("biased", "unbiased")
KERNELS = ("gaussian", "laplacian", "inverse_multiquadric")
RUNS = 400 if os.environ.get("TEST_AT_LENGTH") else 60
LOGGED = ("loss", "task_loss", "matching_loss", "matching_weight")

# What each setting is drawn from: values that are fine, if seldom all together, and values that have to be refused.
GOOD = {
    "matching_weight": (0.0, 0.1, 1, 30.0, 100.0),
    "weight_mode": ("rising", "balanced", "constant"),
    "alignment": ("auto", *ALIGNMENTS),
    "class_weighting": ("size", "alike"),
    "matching_loss": ("mmd", "mmd", "mmd", "examples/distances.py:coral"),
    "estimator": ESTIMATORS,
    "kernel": KERNELS,
    "bandwidth": ("mean", "median", "0.5", 2, 1e-6, 1e12),
    "companion": ("auto", "sample", "class_matched", "split", "memory"),
    "companion_decay": (None, 0.0, 0, 0.97, 0.5),
    "memory_size": (2, 9, 256),
    "companion_buffer_size": (1, 1000),
    "gather_features": (True, False),
    "feature": ("auto",),
    "eval_compactness": (False, True),
    "gradient_noise_steps": (0, 2),
}
BAD = {
    "matching_weight": (-0.1, math.nan, math.inf, "much", None, True),
    "weight_mode": ("even", "fitted", None),
    "alignment": ("", "Joint"),
    "class_weighting": ("even", None),
    "estimator": ("v",),
    "kernel": ("linear", None),
    "bandwidth": (0, -1.0, "nan", math.inf, "wide", None, [1.0]),
    "matching_loss": ("wasserstein", None),
    "companion": ("random",),
    "companion_decay": (1, 1.0, -0.1, math.nan, "none", False),
    "memory_size": (1, 2.5, "all"),
    "companion_buffer_size": (0, 2.5),
    "feature": ("nowhere", "", "head.weight", 3),
    "eval_compactness": ("yes", 1),
    "gradient_noise_steps": (-1, 1.5, True),
}
# The last two are how the stock Trainer says that there is no example, and that no batch is full.
NAMED = re.compile("|".join([*GOOD, "training set", "label", "num_samples", "max_steps"]))


class Vectors(nn.Module):
    """A classifier or regressor of vectors, whose loss copes with a batch that has no labelled example."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(dim, 8), nn.Tanh())
        self.head = nn.Linear(8, outputs)

    def forward(self, x, labels):
        logits = self.head(self.body(x))
        if labels.is_floating_point():
            return {"loss": nn.functional.mse_loss(logits.reshape(labels.shape), labels), "logits": logits}
        total = nn.functional.cross_entropy(logits, labels, reduction="sum")
        return {"loss": total / (labels != -100).sum().clamp(min=1), "logits": logits}


@st.composite
def data_sets(draw) -> dict:
    """What a training set and its model are made from, in few words, so that a failure's report is short."""
    text = draw(st.booleans())
    kind = draw(st.sampled_from(LABELS[:1] + LABELS[2:] if text else LABELS))  # Bert's loss of no label is NaN
    classes, count = draw(st.integers(1, 5)), draw(st.integers(0, 20))
    labels = [draw_label(draw, kind, classes) for _ in range(count)]
    lengths = [draw(st.integers(1, 12)) for _ in range(count if text else 1)]
    scale = draw(st.sampled_from([0.0, 1e-6, 1.0, 1e4]))
    return {"text": text, "kind": kind, "classes": classes, "labels": labels, "lengths": lengths, "scale": scale}


def build(spec: dict) -> tuple[list[dict], nn.Module, Any]:
    """Examples, a model that fits them, and its collator (`None`: the stock one)."""
    set_seed(0)
    # transformers takes one output for a regression, so class ids get two outputs at least.
    outputs = {"floats": 1, "multi-hot": spec["classes"]}.get(spec["kind"], max(spec["classes"], 2))
    labels, lengths = spec["labels"], spec["lengths"]
    if not spec["text"]:
        rows = [{"x": spec["scale"] * torch.randn(lengths[0]), "labels": label} for label in labels]
        return rows, Vectors(lengths[0], outputs), None
    rows = [
        {"input_ids": torch.randint(3, TEXT["vocab_size"], (length,)), "labels": label}
        for length, label in zip(lengths, labels, strict=True)
    ]
    problem = {"floats": "regression", "multi-hot": "multi_label_classification"}.get(spec["kind"])
    model_config = BertConfig(**{**TEXT, **ENCODER, "num_labels": outputs, "problem_type": problem})
    return rows, BertForSequenceClassification(model_config), pad


def pad(rows: list[dict]) -> dict:
    ids = nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": torch.tensor([r["labels"] for r in rows])}


def find_clash(chosen: dict) -> str | None:
    """The name of a setting that does not go with the others, if any."""
    clashes = {
        "weight_mode": chosen["matching_weight"] > MOST_WEIGHT[chosen["weight_mode"]],
        "matching_loss": chosen["matching_loss"] != "mmd" and chosen["alignment"] == "joint",
    }
    if chosen["matching_weight"] > 0:
        clashes |= {name: chosen[name] != DEFAULT[name] for name in without_effect(chosen)}
    return next((name for name, clash in clashes.items() if clash), None)


def without_effect(chosen: dict) -> list[str]:
    """The settings that do nothing beside the others."""
    names = [] if chosen["companion"] == "memory" else ["memory_size"]
    if chosen["companion"] not in ("auto", "sample", "class_matched"):
        names += ["companion_decay", "companion_buffer_size"]
    if chosen["matching_loss"] != "mmd":
        names += OF_THE_MMD
    return names if chosen["alignment"] in ("auto", "conditional") else [*names, "class_weighting"]


OF_THE_MMD = ["kernel", "bandwidth", "estimator"]
DEFAULT = {
    "memory_size": 256,
    "companion_decay": None,
    "companion_buffer_size": 1000,
    "kernel": "gaussian",
    "bandwidth": "mean",
    "estimator": "biased",
    "class_weighting": "size",
}
HARMLESS = {**DEFAULT, "weight_mode": "balanced", "matching_loss": "mmd"}


@st.composite
def method_settings(draw):
    """Settings of the method, and the name of one that is bad or clashes with another, if any."""
    chosen = {name: draw(st.sampled_from(values)) for name, values in GOOD.items()}
    may_clash = draw(st.sampled_from((False, False, False, True)))
    while not may_clash and (clash := find_clash(chosen)) is not None:
        chosen[clash] = HARMLESS[clash]
    bad = draw(st.one_of(st.none(), st.none(), st.none(), st.sampled_from(list(BAD))))
    if bad is None:
        return chosen, find_clash(chosen)
    chosen[bad] = draw(st.sampled_from(BAD[bad]))
    return chosen, bad


trainer_settings = st.fixed_dictionaries(
    {
        "per_device_train_batch_size": st.integers(1, 9),
        "gradient_accumulation_steps": st.integers(1, 3),
        "dataloader_drop_last": st.booleans(),
        "seed": st.integers(0, 2),
    }
)


def must_be_refused(spec: dict, chosen: dict, bad: str | None, stock: dict) -> bool:
    """Whether the run has to be refused; else it has to end well."""
    count, kind = len(spec["labels"]), spec["kind"]
    no_batch = count < (stock["per_device_train_batch_size"] if stock["dataloader_drop_last"] else 1)
    if bad not in (None, "feature") or no_batch:
        return True
    if chosen["matching_weight"] == 0:
        return bad == "feature" and chosen["feature"] in ("", 3)
    class_ids = kind.startswith("ids")
    needs_class_ids = chosen["companion"] == "class_matched" or chosen["alignment"] == "conditional"
    too_few = count < 2 and chosen["companion"] in ("sample", "class_matched")
    return bad == "feature" or too_few or (needs_class_ids and not class_ids)


@settings(max_examples=RUNS, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=ALL_CHECKS)
@given(data_sets(), method_settings(), trainer_settings)
def test_a_run_ends_well_or_is_refused_before_its_first_step(tmp_path_factory, spec, method, stock):
    chosen, bad = method
    rows, model, collator = build(spec)
    trainer, error = None, None
    try:
        folder = tmp_path_factory.getbasetemp() / "fuzz"
        args = config(folder, max_steps=-1, num_train_epochs=1, **stock, **chosen)
        trainer = ITRATrainer(model=model, args=args, train_dataset=rows, data_collator=collator)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    except ValueError as caught:
        error = caught
    if must_be_refused(spec, chosen, bad, stock):
        assert error is not None, "accepted"
        assert NAMED.search(str(error)), f"does not say what is wrong: {error}"
        assert trainer is None or trainer.state.global_step == 0
        return
    assert error is None, f"refused: {error}"
    logged = [(name, line[name]) for line in trainer.state.log_history for name in LOGGED if name in line]
    assert all(math.isfinite(value) for _, value in logged), logged
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_every_setting_is_fuzzed():
    assert set(AlignmentArguments.__dataclass_fields__) == set(GOOD)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bandwidth", "1e-60"),  # 0 in float32
        ("matching_weight", 1e30),  # times a gradient, infinite in float32
        ("companion_decay", "slow"),
    ],
)
def test_values_of_another_type_or_range_are_refused_by_name(tmp_path, name, value):
    with pytest.raises(ValueError, match=name):
        config(tmp_path, **{name: value})


@pytest.mark.parametrize("companion", ["sample", "class_matched"])
@pytest.mark.parametrize("count", [0, 1])
def test_too_few_examples_are_refused_in_words(tmp_path, companion, count):
    rows = [{"x": torch.ones(2), "labels": 0}] * count
    trainer = ITRATrainer(model=Vectors(2, 2), args=config(tmp_path, companion=companion), train_dataset=rows)
    with pytest.raises(ValueError, match=f"training set has {count} example"):
        trainer.train()
