"""How far remembered features are from those that the model would give today, under each correction of the memory.

    python -m examples.benchmarks memory_drift --corpus reuters-r8 --learning_rate 5e-5

A plain training run fills one memory a correction with the features of its batches. At intervals, the examples in it
are run through today's model, without dropout. The error is the mean squared distance of remembered and fresh features
over the spread of the fresh ones: 0 is perfect. The floor is the error of features of the same moment with dropout,
such as every batch has.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import get_args

import torch
from transformers import DataCollatorWithPadding, get_linear_schedule_with_warmup
from transformers.utils import logging

from itra_hf.memory import Correction, FeatureMemory

sys.path.insert(0, str(Path(__file__).parent.parent))
from packaged import CORPORA, load_classifier, load_tokenizer, read_split, sample_rows, to_dataset


class Run:
    """A model in training, and the features that it gives."""

    def __init__(self, options) -> None:
        torch.manual_seed(options.seed)
        labels = sorted(set(read_split(options.corpus, "train").Category))
        tokenizer = load_tokenizer()
        table = sample_rows(read_split(options.corpus, "train"), options.train_samples, 0)
        self.data = to_dataset(table, labels, tokenizer, options.max_length)
        self.collate = DataCollatorWithPadding(tokenizer)
        self.model = load_classifier(labels).train()
        self.model.classifier.register_forward_pre_hook(lambda module, inputs: setattr(self, "tapped", inputs[0]))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=options.learning_rate)
        self.schedule = get_linear_schedule_with_warmup(self.optimizer, 0, options.steps)

    def features(self, rows: torch.Tensor, dropout: bool) -> torch.Tensor:
        """`[rows, dim]`, today's, without gradient."""
        self.model.train(dropout)
        parts = []
        with torch.no_grad():
            for part in rows.split(64):
                self.model(**self.collate([self.data[int(row)] for row in part]))
                parts.append(self.tapped)
        self.model.train()
        return torch.cat(parts)

    def step(self, rows: torch.Tensor) -> torch.Tensor:
        """Takes an optimizer step, and gives the features that it used."""
        self.model(**self.collate([self.data[int(row)] for row in rows])).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return self.tapped.detach()


def measure(run: Run, options) -> dict[str, list[float]]:
    """The errors of each correction, and the floor, at every measurement."""
    memories = {name: FeatureMemory(options.memory_size, 0, name) for name in get_args(Correction)}
    errors: dict[str, list[float]] = {name: [] for name in (*memories, "floor")}
    generator = torch.Generator().manual_seed(options.seed)
    order = torch.cat([torch.randperm(len(run.data), generator=generator) for _ in range(options.epochs)])
    for step, rows in enumerate(order.split(options.batch_size)[: options.steps]):
        stored = memories["none"].labels
        due = stored is not None and len(stored) == options.memory_size and step % options.every == 0
        fresh = run.features(stored, dropout=False) if due else None
        again = run.features(stored, dropout=True) if due else None
        batch = run.step(rows)
        for name, memory in memories.items():
            recalled = memory.recall(batch, step)
            memory.take_in(batch, rows)  # the labels that it keeps are the examples' numbers here
            if fresh is not None:
                errors[name].append(relative_error(recalled[0], fresh))
        if fresh is not None:
            errors["floor"].append(relative_error(again, fresh))
    return errors


def relative_error(features: torch.Tensor, fresh: torch.Tensor) -> float:
    spread = (fresh - fresh.mean(dim=0)).square().sum(1).mean()
    return float((features - fresh).square().sum(1).mean() / spread)


def main(arguments: list[str] | None = None) -> dict[str, list[float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", choices=CORPORA, default="reuters-r8")
    parser.add_argument("--learning_rate", type=float, default=5e-5)
    parser.add_argument("--memory_size", type=int, default=256)
    parser.add_argument("--train_samples", type=int, default=2000)
    parser.add_argument("--max_length", type=int, default=48)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--every", type=int, default=10, help="steps from one measurement to the next")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.set_verbosity_error()
    run = Run(options)
    options.epochs = -(-options.steps * options.batch_size // len(run.data))
    errors = measure(run, options)
    third = max(len(errors["floor"]) // 3, 1)
    print(f"{options.corpus}, learning rate {options.learning_rate:g}: error in the mean, and over thirds of the run")
    for name, values in errors.items():
        means = (values, values[:third], values[third:-third], values[-third:])
        print(f"{name:10}", *(f"{statistics.mean(part or [float('nan')]):8.3f}" for part in means))
    return errors


if __name__ == "__main__":
    main()
