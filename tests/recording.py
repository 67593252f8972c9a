"""Runs of one trainer class or another, and what is kept of them."""

import copy

import torch
from datasets import Dataset
from families import build, examples
from torch import nn
from trainers import config
from transformers import TrainerCallback

from itra_hf import ITRATrainer


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


def pad_to_eight(rows):
    return {key: torch.tensor([row[key] for row in rows]) for key in ("input_ids", "attention_mask", "labels")}


def cross_entropy(outputs, labels):
    return nn.functional.cross_entropy(outputs["logits"], labels)


SERIES = ("loss", "task_loss", "matching_loss", "matching_weight")
SGD = {"optim": "sgd", "learning_rate": 0.5}  # Adam would blow rounding errors of vanishing gradients up


def plain(family="Bert"):
    """A classifier without dropout."""
    model = build(family)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def train(folder, model, data=None, callbacks=None, **settings):
    family = type(getattr(model, "base_model", model)).__name__.removesuffix("Model")
    data = data or Dataset.from_list(examples(family if family == "GPT2" else "Bert", 26))
    trainer = ITRATrainer(model, config(folder, **settings), train_dataset=data, callbacks=callbacks)
    trainer.train()
    return trainer


def logged(trainer):
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == trainer.args.max_steps
    return {key: [line[key] for line in lines] for key in SERIES}
