"""Companions that only the study of the mechanism needs: plain snapshots of the weights, and batches of other sizes."""

from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from itra_hf import ITRATrainer
from itra_hf.averages import AveragedWeights
from itra_hf.sampling import COMPANION


class Snapshot(AveragedWeights):
    """The weights as they were some optimizer steps ago; before that, the first ones."""

    def __init__(self, age: int) -> None:
        super().__init__(0.0)
        self.kept: deque[dict[str, Tensor]] = deque(maxlen=age + 1)

    @torch.no_grad()
    def follow(self, model: nn.Module, step: int) -> None:
        """Keeps a copy of the weights, once an optimizer step."""
        if step != self._step:
            self._step = step
            self.kept.append({name: each.clone() for name, each in model.named_parameters() if each.requires_grad})
            self.weights = self.kept[0]


class LaggingTrainer(ITRATrainer):
    """Aligns with a companion that runs through a snapshot of the weights, or that has a size of its own.

    Args:
        snapshot_age: how many steps old the weights are; `None`: the running average that the settings ask for.
        companion_size: of the companion batch; `None`: the primary batch's.
    """

    def __init__(
        self, *args: Any, snapshot_age: int | None = None, companion_size: int | None = None, **kwargs: Any
    ) -> None:
        self.snapshot_age, self.companion_size = snapshot_age, companion_size
        super().__init__(*args, **kwargs)

    def _itra_start_run(self) -> None:
        super()._itra_start_run()
        if self.snapshot_age is not None:
            self._itra_average = Snapshot(self.snapshot_age)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """The stock micro-batches, with companions of the wanted size."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.companion_size is not None:
            for place, batch in enumerate(batches):
                batch[COMPANION] = self.draw(self.companion_size, [self.args.seed, self.state.global_step, place])
        return batches, items

    def draw(self, size: int, seed: list[int]) -> dict[str, Any]:
        """A batch of different training examples."""
        paired = self._itra_companion_epoch.paired
        assert paired is not None
        examples = paired.dataset
        rows = np.random.default_rng(seed).choice(len(examples), min(size, len(examples)), replace=False)
        batch = self.data_collator([examples[int(row)] for row in rows])
        return {name: value.to(self.args.device) for name, value in batch.items()}
