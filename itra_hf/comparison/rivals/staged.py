"""Training in stages, each on twice the examples of the one before."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import TrainerCallback
from transformers.trainer_utils import has_length

from ...companions.choice import holds_shards
from ...features.models import unwrap
from .task_loss import TaskLossTrainer


class StagewiseTrainer(TaskLossTrainer):
    """After *Pairwise Learning via Stagewise Training in Proximal Setting* (2022): the training set doubles by stages.

    The epochs are divided into stages of equal length. The last one trains on all examples, the one before on a random
    half, and so on. Every epoch has as many steps as a plain one, so a smaller stage sees its examples more often.
    Each stage is held near where it started by half the squared distance of the weights times `proximity`. With
    two classes a pairwise loss is added: the mean, over the pairs of an example of each class in a batch, of the
    squared hinge of the difference of their scores, which stands for the area under the ROC curve. Numbers of epochs in
    place of bounds of stability, and uniform draws in place of importance sampling, are details of ours.

    Args:
        *args: of `Trainer`.
        stages: how many, >= 1.
        proximity: >= 0.
        pairwise: what the pairwise loss counts, >= 0; without effect on more than two classes.
        **kwargs: of `Trainer`.

    Raises:
        ValueError: a wrong value, a training set without length, or weights in parts on several processes.
    """

    def __init__(
        self, *args: Any, stages: int = 3, proximity: float = 1e-3, pairwise: float = 1.0, **kwargs: Any
    ) -> None:
        values = {"proximity": proximity, "pairwise": pairwise}
        if type(stages) is not int or stages < 1:
            raise ValueError(f"stages={stages!r} must be an integer >= 1.")
        if wrong := next((name for name, value in values.items() if not value >= 0), None):
            raise ValueError(f"{wrong}={values[wrong]!r} must be >= 0.")
        super().__init__(*args, **kwargs)
        if not has_length(self.train_dataset):
            raise ValueError("StagewiseTrainer takes parts of the training set, which has no length.")
        if proximity and holds_shards(self.accelerator, self.model):
            raise ValueError("proximity above 0 looks at all weights, which lie in parts on several processes.")
        self.proximity, self.pairwise = proximity, pairwise
        self.growing = GrowingDataset(self.train_dataset, stages, self.args.seed)
        self.train_dataset = self.growing
        self.start: dict[str, Tensor] = {}  # the weights at the start of the stage
        self.add_callback(Stages(self))

    def loss_of(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> Tensor:
        """See the class."""
        loss = self.cross_entropy(logits, labels).mean()
        if logits.shape[1] == 2 and self.pairwise:
            loss = loss + self.pairwise * pairwise_hinge(logits[:, 1] - logits[:, 0], labels)
        for name, weight in unwrap(self.model).named_parameters() if self.start else ():
            if name in self.start:
                loss = loss + self.proximity / 2 * (weight - self.start[name]).square().sum()
        return loss


class Stages(TrainerCallback):
    """Begins the stages, before the loader's workers start."""

    def __init__(self, trainer: StagewiseTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begins the first."""
        self.trainer.growing.stage = -1

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Begins the one that is due."""
        growing = self.trainer.growing
        stage = min(growing.stages - 1, int(growing.stages * (state.epoch or 0) / max(1, state.num_train_epochs)))
        if stage > growing.stage and self.trainer.proximity:
            self.trainer.start = {
                name: weight.detach().clone()
                for name, weight in unwrap(model).named_parameters()
                if weight.requires_grad
            }
        growing.stage = stage

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Frees the weights, and leaves the whole training set."""
        self.trainer.start, self.trainer.growing.stage = {}, self.trainer.growing.stages - 1


class GrowingDataset(Dataset):
    """A training set of which a part, which doubles with each stage, stands for the whole.

    Args:
        dataset: with a length.
        stages: how many.
        seed: of the order in which examples come in.

    Attributes:
        stage: the current one, from 0; -1 is as 0.
    """

    def __init__(self, dataset: Any, stages: int, seed: int) -> None:
        self.dataset, self.stages, self.stage = dataset, stages, stages - 1
        self.order = np.random.default_rng(seed).permutation(len(dataset))

    @property
    def size(self) -> int:
        """How many examples the stage has, at least one."""
        return max(1, len(self.order) // 2 ** (self.stages - 1 - max(0, self.stage)))

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, item: int) -> Any:
        # In the last stage as they are, so that what looks at the whole set finds its order.
        return self.dataset[int(item if self.size == len(self) else self.order[item % self.size])]


def pairwise_hinge(scores: Tensor, labels: Tensor) -> Tensor:
    """The mean of `max(0, 1 - difference) ** 2` over the pairs of an example of class 1 and one of class 0; else 0.

    Args:
        scores: `[n]`, of class 1.
        labels: `[n]` class ids, 0 or 1.
    """
    gaps = scores[labels == 1][:, None] - scores[labels == 0]
    return torch.relu(1 - gaps).square().mean() if gaps.numel() else 0.0 * scores.sum()
