"""Small models, data and trainers that several tests share."""

import torch
from torch import nn

from itra_hf import ITRAConfig

DIM, CLASSES = 6, 3


class Toy(nn.Module):
    """A two-layer classifier that is no transformers model."""

    def __init__(self, seed: int = 0, dropout: float = 0.0, outputs: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(DIM, 16), nn.Tanh(), nn.Dropout(dropout))
        self.head = nn.Linear(16, outputs)

    def forward(self, x, labels=None):
        logits = self.head(self.body(x))
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def toy_examples(count: int, seed: int = 0, noise: float = 1.0) -> list[dict]:
    """Separable classes: class `c` lies around unit vector `c`."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for index in range(count):
        label = index % CLASSES
        centre = torch.eye(DIM)[label] * 3
        rows.append({"x": centre + noise * torch.randn(DIM, generator=generator), "labels": label})
    return rows


# A second batch and a weight that starts with the second step: most tests have too few steps to fill a memory.
PAIRED = {
    "companion": "sample",
    "companion_decay": 0.0,
    "weight_mode": "balanced",
    "matching_weight": 0.1,
}
AVERAGED = {"companion_decay": 0.9}
SPLIT = {name: value for name, value in PAIRED.items() if name != "companion_decay"} | {"companion": "split"}


def config(folder, **settings) -> ITRAConfig:
    """A quiet configuration that logs every step, of a second batch and a balanced weight unless told otherwise."""
    defaults = {
        **PAIRED,
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    if settings.get("companion", "sample") not in ("sample", "class_matched"):
        del defaults["companion_decay"]
    return ITRAConfig(output_dir=str(folder), **{**defaults, **settings})
