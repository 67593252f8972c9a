"""A training script that tests start in several processes, as a user would start one of theirs, and `launch`.

Usage: accelerate launch [...] tests/launched.py RUNS.json
"""

import inspect
import itertools
import json
import os
import subprocess
import sys

import datasets
import pytest
import torch
import transformers
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from families import LABELS, PAD, build, examples
from places import ROOT, TESTS
from torch.utils.data import IterableDataset
from trainers import config
from transformers import TrainerCallback, trainer_pt_utils
from transformers.distributed import DistributedConfig

from itra_hf import ITRAMixin, ITRATrainer
from itra_hf.comparison import rivals

WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SHARDS_AT_LOAD = "fsdp_size" in inspect.signature(DistributedConfig).parameters
REBALANCES = hasattr(trainer_pt_utils, "BatchRebalanceSampler")
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


class OwnLoss(transformers.BertForSequenceClassification):
    """A model whose loss is never replaced, so both batches run through it one after the other."""


class Numbers(transformers.BertForSequenceClassification):
    """Predicts the mean of however many numbers an example has."""

    def forward(self, input_ids, attention_mask, labels=None):
        outputs = super().forward(input_ids, attention_mask)
        outputs["loss"] = (outputs.logits.mean(1) - labels.mean(1)).square().mean()
        return outputs


class Reporter(TrainerCallback):
    """Logs from the first process alone."""

    trainer = None

    def on_step_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.trainer.log({"loss": 0.5})


def collate_with_length(rows):
    """Pads to the longest and returns its length, which is no row of the batch."""
    tokens = [torch.tensor(row["input_ids"])[: sum(row["attention_mask"])] for row in rows]
    padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=PAD)
    labels = torch.tensor([row["labels"] for row in rows])
    mask = (padded != PAD).long()
    return {"input_ids": padded, "attention_mask": mask, "labels": labels, "longest": padded.shape[1]}


def collate_together_at_times(rows):
    """Collates examples, but refuses some that are more than a process's batch, as if they had no common shape."""
    if len(rows) > 8 // PartialState().num_processes and sum(rows[0]["input_ids"]) % 2:
        raise ValueError("These examples have different lengths.")
    return transformers.default_data_collator(rows)


def collate_numbers(rows):
    """Gives each batch three or five numbers an example, whichever process it is of."""
    batch = transformers.default_data_collator(rows)
    width = 3 + 2 * (sum(rows[0]["input_ids"]) % 2)
    return {**batch, "labels": batch["labels"][:, None].float().expand(-1, width).contiguous()}


COLLATORS = {
    "collated apart": collate_with_length,
    "collated apart at times": collate_together_at_times,
    "numbers of two widths": collate_numbers,
}
OWN_CLASSES = {"own loss": OwnLoss, "numbers of two widths": Numbers}


def training_set(kind, count):
    """The rows as a list, or as one of the two kinds of streams."""
    rows = examples("Bert", count)
    if kind == "stream":
        shards = datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=3)
        return shards.shuffle(seed=3, buffer_size=16)
    if kind == "plain stream":
        return PlainStream(rows)
    if kind == "uneven stream":
        return PlainStream(rows[: count - 24 * torch.distributed.get_rank()])
    if kind == "unlabelled at times":  # all four rows of a process's batch, and none of the other's
        return [{**row, "labels": -100 if place % 8 < 4 else row["labels"]} for place, row in enumerate(rows)]
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
    PartialState._prepare_backend = lambda *ignored: ("gloo", DistributedType.MULTI_GPU)
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"


def count_passes(model):
    """Counts the model's forward passes in training mode, in a list that fills up."""
    passes = []
    model.register_forward_pre_hook(lambda module, args: passes.append(1) if module.training else None)
    return passes


def build_model(folder, family, kind, sharded_at_load):
    """A small model, in pieces where transformers itself is to shard it while it is loaded."""
    labels = 1 if kind == "floats" else LABELS
    without_dropout = WITHOUT_DROPOUT if family == "Bert" else {}
    model = build(family, **without_dropout, num_labels=labels)
    if kind in OWN_CLASSES:
        model.__class__ = OWN_CLASSES[kind]
    if not sharded_at_load:
        return model
    saved = os.path.join(folder, "model")
    model.save_pretrained(saved)
    torch.distributed.barrier()  # only the first process writes
    spread = DistributedConfig(fsdp_size=torch.distributed.get_world_size())
    return type(model).from_pretrained(saved, distributed_config=spread)


def whole_weights(trainer):
    """The parameters as lists; where they are gathered for saving, only the first process may have them."""
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) or {}
    tensors = {name: getattr(value, "full_tensor", lambda value=value: value)() for name, value in weights.items()}
    return {name: value.detach().cpu().tolist() for name, value in tensors.items()}


def remembered(trainer):
    """The memory of past features by name; empty where there is none."""
    memory = trainer._itra_aligner.memory
    return {} if memory is None else {name: tensor.tolist() for name, tensor in memory.state_dict().items()}


def train(
    folder,
    arguments,
    kind="rows",
    count=61,
    order=None,
    summed=False,
    resume=None,
    family="Bert",
    sharded_at_load=False,
    evaluated=0,
    rival=None,
):
    """Trains and returns the logged steps, parameters, memory, the number of forward passes and that of processes.

    With examples to be `evaluated`, also what evaluation before training and after it gives. A `rival`'s task loss is
    aligned in place of the model's.
    """
    os.makedirs(folder, exist_ok=True)
    sharded = [os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ("FSDP", "DEEPSPEED")]
    if any(sharded) and not torch.cuda.is_available():
        shard_on_cpu()
    defaults = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 20, "use_cpu": not any(sharded)}
    args = config(folder, **{**defaults, **arguments})
    model = build_model(folder, family, kind, sharded_at_load and args.world_size > 1)
    passes = count_passes(model)
    recorder = Recorder()
    trainer_class = ITRATrainer if rival is None else type("Mine", (ITRAMixin, getattr(rivals, rival)), {})
    trainer = trainer_class(
        model,
        args,
        train_dataset=training_set(kind, count),
        eval_dataset=examples("Bert", evaluated, seed=1) if evaluated else None,
        callbacks=[recorder],
        compute_loss_func=summed_loss if summed else None,
        data_collator=COLLATORS.get(kind),
    )
    if kind == "reported by one":
        Reporter.trainer = trainer
        trainer.add_callback(Reporter)
    if order is not None:
        trainer._get_train_sampler = lambda *ignored: Reordered(order)
    trainer.train(resume_from_checkpoint=resume)
    return {
        "steps": recorder.steps,
        "parameters": whole_weights(trainer),
        "memory": remembered(trainer),
        "passes": len(passes),
        "processes": trainer.accelerator.num_processes,
        "evaluations": [trainer.state.log_history[0], trainer.evaluate()] if evaluated else [],
    }


def launch(folder, runs, processes, *options, timeout=300):
    """Does runs in several processes.

    Args:
        folder: where to.
        runs: arguments of `train` by name.
        processes: how many.
        options: of `accelerate launch`; without, plain data parallelism.
        timeout: seconds until the processes count as hanging.

    Returns:
        Each process's results by name.
    """
    path = os.path.join(folder, f"runs{processes}.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(runs, file)
    command = [sys.executable, "-m", "accelerate.commands.launch", *(options or ["--multi_gpu", "--num_machines", "1"])]
    command += ["--num_processes", str(processes), "--main_process_port", "0", str(TESTS / "launched.py"), path]
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    if not torch.cuda.is_available():
        environment["DS_ACCELERATOR"] = "cpu"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    results = {name: [] for name in runs}
    for name, rank in itertools.product(runs, range(processes)):
        with open(f"{path}.{name}.{rank}", encoding="utf-8") as file:
            results[name].append(json.load(file))
    return results


def assert_same(ranks, reference):
    """Compares what each process saw with what one process saw, within float32 rounding."""
    for rank in ranks:
        assert rank["processes"] == len(ranks)
        assert rank["passes"] == reference["passes"]
        assert [set(step) for step in rank["steps"]] == [set(step) for step in reference["steps"]] != []
        for key in LOGGED:
            got, expected = ([step[key] for step in run["steps"] if key in step] for run in (rank, reference))
            assert got == pytest.approx(expected, rel=2e-5, abs=2e-6), key
        for name, value in rank["parameters"].items():
            expected = torch.tensor(reference["parameters"][name])
            torch.testing.assert_close(torch.tensor(value), expected, rtol=1e-5, atol=1e-6, msg=name)
    assert ranks[0]["parameters"].keys() == reference["parameters"].keys()


def main(path):
    """Does the runs that a file lists, and writes what each process saw next to it."""
    with open(path, encoding="utf-8") as file:
        runs = json.load(file)
    for name, settings in runs.items():
        result = train(folder=os.path.join(os.path.dirname(path), name), **settings)
        rank = os.environ.get("RANK", "0")
        with open(f"{path}.{name}.{rank}", "w", encoding="utf-8") as file:
            json.dump(result, file)
    PartialState().destroy_process_group()  # else its threads may abort the process that ends


if __name__ == "__main__":
    main(sys.argv[1])
