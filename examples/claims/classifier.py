"""A small classifier of handwritten digits, trained with and without alignment for the pictures of this folder."""

import tempfile

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from examples.digits import read_digits
from itra_hf import GradientNoiseCallback, ITRAConfig, ITRATrainer

KINDS = (Trainer, ITRATrainer)
SEEDS = range(1, 11)


class Classifier(nn.Module):
    """Two hidden layers that make `dim` features of an image, and a linear head."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, dim)
        )
        self.head = nn.Linear(dim, classes)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Logits `[n, classes]` of images `[n, 1, 8, 8]`, with the cross-entropy where there are labels."""
        logits = self.head(self.body(pixel_values))
        return (
            {"logits": logits}
            if labels is None
            else {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}
        )


def train(
    kind: type[Trainer], seed: int, size: int, classes: int, dim: int, noise_every: int = 0, **settings
) -> Trainer:
    """A trainer after its run: same seed, same images, first weights and order of the data, whichever its kind.

    Args:
        kind: one of `KINDS`.
        seed: of everything.
        size: images to train on.
        classes: digits to tell apart.
        dim: of the features.
        noise_every: every how many steps to log the noise of the gradient; 0: never.
        **settings: of the `TrainingArguments`; the method's own are the defaults.
    """
    torch.set_num_threads(1)  # more would wait for each other
    train_set, test_set = read_digits(size, seed, classes)
    make = ITRAConfig if kind is ITRATrainer else TrainingArguments
    with tempfile.TemporaryDirectory() as folder:
        args = make(
            output_dir=folder,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=512,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
            **settings,
        )
        set_seed(seed)
        trainer = kind(Classifier(dim, classes), args, train_dataset=train_set, eval_dataset=test_set)
        trainer.remove_callback(PrinterCallback)
        if noise_every:
            trainer.add_callback(GradientNoiseCallback(trainer, noise_every))
        trainer.train()
    return trainer
