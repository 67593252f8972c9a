"""A training script that tests start in several processes, as a user would start one of theirs.

Usage: accelerate launch [...] tests/launched.py RUNS.json
"""

import json
import os
import sys

import datasets
import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from families import LABELS, build, examples
from torch.utils.data import IterableDataset
from trainers import config
from transformers import TrainerCallback

from itra_hf import ITRATrainer

WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LOGGED = ("loss", "task_loss", "matching_loss", "matching_weight")


class Recorder(TrainerCallback):
    """Keeps the losses in full precision, as the Trainer logs them."""

    def __init__(self):
        self.steps = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.steps.append({key: logs[key] for key in LOGGED if key in logs})


class PlainStream(IterableDataset):
    """An iterable dataset of torch."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def training_set(kind, count):
    """The rows as a list, or as one of the two kinds of streams."""
    rows = examples("Bert", count)
    if kind == "stream":
        shards = datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=3)
        return shards.shuffle(seed=3, buffer_size=16)
    if kind == "plain stream":
        return PlainStream(rows)
    if kind == "floats":
        return [{**row, "labels": float(row["labels"])} for row in rows]
    return rows


def summed_loss(outputs, labels, num_items_in_batch=None):
    """A `compute_loss_func` that divides by the number of items itself."""
    return torch.nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch


class Reordered:
    """Puts the training examples into an order that the stock samplers do not have."""

    def __init__(self, order):
        self.order = order

    def __iter__(self):
        return iter(self.order)

    def __len__(self):
        return len(self.order)


def shard_on_cpu():
    """Accelerate shards models on accelerators only; told that these processes are such, its code runs here too."""
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def count_passes(model):
    """Counts the model's forward passes in training mode, in a list that fills up."""
    passes = []
    model.register_forward_pre_hook(lambda module, args: passes.append(1) if module.training else None)
    return passes


def train(folder, arguments, kind="rows", count=61, order=None, summed=False, resume=None):
    """Trains and returns the logged steps, the parameters, the number of forward passes and that of processes."""
    os.makedirs(folder, exist_ok=True)
    args = config(folder, **{"optim": "sgd", "learning_rate": 0.1, "max_steps": 20, **arguments})
    if args.fsdp and args.world_size > 1:
        shard_on_cpu()
    model = build("Bert", **WITHOUT_DROPOUT, num_labels=1 if kind == "floats" else LABELS)
    passes = count_passes(model)
    recorder = Recorder()
    trainer = ITRATrainer(
        model,
        args,
        train_dataset=training_set(kind, count),
        callbacks=[recorder],
        compute_loss_func=summed_loss if summed else None,
    )
    if order is not None:
        trainer._get_train_sampler = lambda *ignored: Reordered(order)
    trainer.train(resume_from_checkpoint=resume)
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # under FSDP only the first process gets it
    return {
        "steps": recorder.steps,
        "parameters": {name: value.detach().cpu().tolist() for name, value in weights.items()},
        "passes": len(passes),
        "processes": trainer.accelerator.num_processes,
    }


def main(path):
    """Does the runs that a file lists, and writes what each process saw next to it."""
    with open(path, encoding="utf-8") as file:
        runs = json.load(file)
    for name, settings in runs.items():
        result = train(folder=os.path.join(os.path.dirname(path), name), **settings)
        rank = os.environ.get("RANK", "0")
        with open(f"{path}.{name}.{rank}", "w", encoding="utf-8") as file:
            json.dump(result, file)


if __name__ == "__main__":
    main(sys.argv[1])
