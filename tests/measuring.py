"""Trainers that measure, and training runs with and without measurements side by side."""

import copy
import gc
import random

import numpy as np
import pytest
import torch
from families import build, examples
from trainers import config
from transformers import Trainer, TrainerCallback

from itra_hf import ITRATrainer
from itra_hf.features import extract_features
from itra_hf.hub.publishing import ReportingMixin
from itra_hf.reports.compactness import compactness

gc.freeze()  # a Trainer collects garbage before it trains, which takes half a second with all that is imported

KEYWORDS = ("model", "model_init", "train_dataset", "eval_dataset", "compute_metrics", "compute_loss_func", "callbacks")
SERIES = ("loss", "grad_norm", "task_loss", "matching_loss", "matching_weight", "eval_loss")
TEST = examples("Bert", 11, seed=1)  # two batches of 4 and one of 3
UNLABELLED = [{key: row[key] for key in ("input_ids", "attention_mask")} for row in TEST]
EVALUATED = {"eval_strategy": "steps", "eval_steps": 1}


class PlainTrainer(ReportingMixin, Trainer):
    """Trains without alignment, and reports."""


BOTH = pytest.mark.parametrize("kind", [ITRATrainer, PlainTrainer])


def trainer_of(kind, folder, **settings):
    """A trainer with dropout and small sets; `settings` are its arguments and those of its config."""
    keywords = {key: settings.pop(key) for key in KEYWORDS if key in settings}
    if "model_init" not in keywords:
        keywords.setdefault("model", build("Bert"))
    keywords = {"train_dataset": examples("Bert", 24), "eval_dataset": TEST, **keywords}
    return kind(args=config(folder, **{"per_device_eval_batch_size": 4, **settings}), **keywords)


def measuring_trainer(kind, folder, **settings):
    """A trainer that measures compactness in evaluation."""
    return trainer_of(kind, folder, eval_compactness=True, **settings)


class Noisy(torch.utils.data.Dataset):
    """Replaces a word at random, by the generators of Python and NumPy."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = copy.deepcopy(self.rows[index])
        row["input_ids"][random.randrange(2)] = 3 + np.random.randint(40)
        return row


class Parameters(TrainerCallback):
    """Keeps the parameters after every step."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.steps.append(torch.cat([p.detach().flatten() for p in model.parameters()]).clone())


def trained(kind, folder, **settings):
    """The lines that a run logs, without what is measured, and its parameters after every step."""
    record = Parameters()
    trainer = trainer_of(kind, folder, callbacks=[record], **copy.deepcopy(settings))
    trainer.train()
    lines = [{key: line[key] for key in SERIES if key in line} for line in trainer.state.log_history]
    return [line for line in lines if line], torch.stack(record.steps)


def assert_unnoticed(kind, folder, measuring, **settings):
    """Compares runs with and without `measuring`, which are settings too, bit for bit."""
    lines, steps = trained(kind, folder, **settings)
    measured_lines, measured_steps = trained(kind, folder, **settings, **measuring)
    assert lines == measured_lines
    assert torch.equal(steps, measured_steps)
    assert not torch.equal(steps[0], steps[-1])


def hook_count(model):
    """How many hooks are on the model."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def count_passes(model):
    """Whether each forward pass from here on is one of training."""
    passes = []
    model.register_forward_pre_hook(lambda module, args: passes.append(module.training))
    return passes


def measured(metrics, prefix="eval"):
    """The compactness figures among metrics, by their own names."""
    start = f"{prefix}_compactness_"
    return {key.removeprefix(start): value for key, value in metrics.items() if key.startswith(start)}


def expected_of(trainer, rows=TEST, feature="auto", model=None):
    """What the documented functions give for the trainer's model and its batches."""
    features, labels = extract_features(model or trainer.model, trainer.get_test_dataloader(rows), feature)
    return pytest.approx(compactness(features[labels >= 0], labels[labels >= 0]), rel=1e-6)


def figures_logged(trainer):
    """The steps at which figures were logged."""
    return [line["step"] for line in trainer.state.log_history if "eval_compactness_scatter_ratio" in line]
