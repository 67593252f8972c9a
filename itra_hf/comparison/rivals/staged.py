"""Training in stages, each on twice the examples of the one before."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import has_length

from ...features.models import unwrap
from ...processes import holds_shards
from .ranges import COUNT, NOT_NEGATIVE, Range, check_ranges, refuse
from .task_loss import TaskLossTrainer

STAGES = 2


class StagewiseTrainer(TaskLossTrainer):
    """After *Pairwise Learning via Stagewise Training in Proximal Setting* (2022): the training set doubles by stages.

    The epochs are divided into stages. The last one trains on all examples, the one before on a random half, and so
    on. Every epoch has as many steps as a plain one, so a smaller stage sees its examples more often. Each stage is
    held near where it started by half the squared distance of the weights times `proximity`. With two classes a
    pairwise loss is added: the mean, over the pairs of an example of each class in a batch, of the squared hinge of the
    difference of their scores, which stands for the area under the ROC curve. Numbers of epochs in place of bounds of
    stability, and uniform draws in place of importance sampling, are details of ours. Its sampler stands in for the
    Trainer's. A resumed run is held near the checkpoint's weights until the next stage.

    Args:
        *args: of `Trainer`.
        stages: how many, >= 1, at most as many as epochs.
        proximity: >= 0.
        pairwise: what the pairwise loss counts, >= 0; without effect on more than two classes.
        **kwargs: of `Trainer`.

    Raises:
        ValueError: a wrong value, fewer epochs than stages, a training set without length, or weights in parts on
            several processes; when training begins, `max_steps` of fewer epochs than stages.
    """

    ranges: Mapping[str, Range] = {"stages": COUNT, "proximity": NOT_NEGATIVE, "pairwise": NOT_NEGATIVE}

    def __init__(
        self, *args: Any, stages: int = STAGES, proximity: float = 1e-3, pairwise: float = 1.0, **kwargs: Any
    ) -> None:
        check_ranges(self.ranges, {"stages": stages, "proximity": proximity, "pairwise": pairwise})
        super().__init__(*args, **kwargs)
        refuse(self, self.args, stages=stages)
        if self.train_dataset is not None and not has_length(self.train_dataset):
            raise ValueError("StagewiseTrainer takes parts of the training set, which has no length.")
        if proximity and holds_shards(self.accelerator, self.model):
            raise ValueError("proximity above 0 looks at all weights, which lie in parts on several processes.")
        self.stages, self.proximity, self.pairwise = stages, proximity, pairwise
        self.sampler: StageSampler | None = None
        self.start: dict[str, Tensor] = {}  # the weights at the start of the stage
        self.add_callback(Stages(self))

    @staticmethod
    def refusal(args: TrainingArguments, stages: int = STAGES, **settings: Any) -> str | None:
        """Fewer epochs than stages."""
        if args.max_steps > 0 or args.num_train_epochs >= stages:
            return None
        return f"stages={stages} needs as many epochs, but num_train_epochs={args.num_train_epochs!r}."

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        # No public method gives a training loader another sampler and leaves the rest of it to the Trainer.
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self.sampler = StageSampler(len(dataset), self.stages, seed)
        return self.sampler

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
    """Begins the stages, each with an epoch."""

    def __init__(self, trainer: StagewiseTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        """Counts the epochs.

        Raises:
            ValueError: fewer epochs than stages, or a training loader that is not the Trainer's.
        """
        if self.trainer.sampler is None:
            raise ValueError(
                "StagewiseTrainer draws the training examples itself; leave get_train_dataloader as it is."
            )
        steps = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
        if state.max_steps < self.trainer.stages * steps:
            raise ValueError(
                f"stages={self.trainer.stages} needs as many epochs, but this run has {state.max_steps} steps of "
                f"{steps} an epoch."
            )

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Begins the stage that is due."""
        trainer, epoch = self.trainer, math.floor(state.epoch or 0)
        assert trainer.sampler is not None
        stage = min(trainer.stages - 1, trainer.stages * epoch // max(1, state.num_train_epochs))
        if trainer.proximity and (stage != trainer.sampler.stage or not trainer.start):
            trainer.start = {
                name: weight.detach().clone()
                for name, weight in unwrap(model).named_parameters()
                if weight.requires_grad
            }
        trainer.sampler.stage, trainer.sampler.epoch = stage, epoch

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Frees the weights."""
        self.trainer.start = {}


class StageSampler(Sampler):
    """Draws as many rows as a training set has from a part of it that doubles with each stage.

    Args:
        size: how many rows there are.
        stages: how many.
        seed: of the parts and of the order.

    Attributes:
        stage: the current one, from 0.
        epoch: the current one, which gives the order.
    """

    def __init__(self, size: int, stages: int, seed: int) -> None:
        self.size, self.stages, self.seed = size, stages, seed
        self.stage = self.epoch = 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        part = max(1, self.size // 2 ** (self.stages - 1 - self.stage))
        rows = np.random.default_rng(self.seed).permutation(self.size)[:part]
        random = np.random.default_rng([self.seed, self.epoch])
        order = np.concatenate([random.permutation(rows) for _ in range(math.ceil(self.size / part))])
        return iter(order[: self.size].tolist())


def pairwise_hinge(scores: Tensor, labels: Tensor) -> Tensor:
    """The mean of `max(0, 1 - difference) ** 2` over the pairs of an example of class 1 and one of class 0; else 0.

    Args:
        scores: `[n]`, of class 1.
        labels: `[n]` class ids, 0 or 1.
    """
    gaps = scores[labels == 1][:, None] - scores[labels == 0]
    return torch.relu(1 - gaps).square().mean() if gaps.numel() else 0.0 * scores.sum()
