"""Alignment over a trainer of your own: one that weighs rare classes up.

Run it on a CSV file with the columns `text` and `label` (integers from 0):
    python examples/class_weights.py MODEL TRAIN.csv
"""

import sys

import torch
from datasets import load_dataset
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer

from itra_hf import ITRAConfig, ITRAMixin


class WeightedTrainer(Trainer):
    """A trainer as you may have it already: cross-entropy with a weight for each class."""

    def __init__(self, *args, class_weights: torch.Tensor, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.class_weights = class_weights

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The weighted cross-entropy of the batch."""
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(outputs.logits, labels, weight=self.class_weights.to(labels.device))
        return (loss, outputs) if return_outputs else loss


class WeightedITRATrainer(ITRAMixin, WeightedTrainer):
    """The same, with alignment: the mixin goes first, and nothing else changes."""


def main(model_name: str, train_file: str, **settings) -> WeightedITRATrainer:
    data = load_dataset("csv", data_files=train_file, split="train")
    counts = torch.bincount(torch.tensor(data["label"][:]))
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    data = data.map(lambda rows: tokenizer(rows["text"], truncation=True), batched=True)
    trainer = WeightedITRATrainer(
        model=AutoModelForSequenceClassification.from_pretrained(model_name, num_labels=len(counts)),
        args=ITRAConfig(**{"output_dir": "outputs/class_weights", "logging_steps": 10, **settings}),
        train_dataset=data,
        processing_class=tokenizer,
        class_weights=counts.sum() / (len(counts) * counts),
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
