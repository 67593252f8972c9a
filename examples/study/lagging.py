"""Companions that only the study of the mechanism needs: plain snapshots of the weights, and batches of other sizes."""

from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from weights import FollowingTrainer

from itra_hf.batches import COMPANION
from itra_hf.features.averages import AveragedWeights
from itra_hf.features.models import unwrap


class Snapshot(AveragedWeights):
    """The weights as they were some optimizer steps ago; before that, the first ones."""

    def __init__(self, age: int) -> None:
        super().__init__(0.0)
        self.kept: deque[dict[str, Tensor]] = deque(maxlen=age + 1)

    @torch.no_grad()
    def follow(self, model: nn.Module, step: int, steps: int) -> None:
        """Keeps a copy of the weights, once an optimizer step."""
        if step != self._step:
            self._step = step
            self.kept.append({name: each.clone() for name, each in model.named_parameters() if each.requires_grad})
            self.weights = self.kept[0]


class LaggingTrainer(FollowingTrainer):
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

    def _itra_set_companion(self, *args: Any) -> None:
        super()._itra_set_companion(*args)
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


class ProbingTrainer(LaggingTrainer):
    """Logs in every tenth step how well the companion estimates the gradient that the whole training set would give.

    `cosine_then` is the cosine between the matching gradients at the primary features from the companion and from all
    training examples through the same weights, `cosine_now` from all training examples through today's weights. (A
    memory has no weights of its own: `cosine_then` is `cosine_now` there.)
    """

    def _itra_can_align(self, run: Any, kind: Any, labels: Any) -> bool:
        can_align = super()._itra_can_align(run, kind, labels)
        memory = self._itra_aligner.memory
        others = run.companion_features, None if run.companion is None else run.companion["labels"]
        if memory is not None:
            others = memory.features, memory.labels
        if can_align and self.state.global_step % 10 == 0 and others[0] is not None:
            found = self._matching_gradient(run.features, labels, *others)
            averaged = self._itra_average or AveragedWeights(0.0)
            entry: dict[str, float] = {"step": self.state.global_step}
            for name, weights in (("cosine_then", averaged), ("cosine_now", AveragedWeights(0.0))):
                whole = self._matching_gradient(run.features, labels, *self._all_features(weights))
                entry[name] = float(torch.cosine_similarity(found.flatten(), whole.flatten(), dim=0))
            self.state.log_history.append(entry)
        return can_align

    def _matching_gradient(self, features: Tensor, labels: Tensor, others: Tensor, other_labels: Any) -> Tensor:
        return self._itra_aligner.matching_loss.match(features, labels, others, other_labels).gradient

    def _all_features(self, weights: AveragedWeights) -> tuple[Tensor, Tensor]:
        """`[all, dim]` features of the training set through these weights, and its labels."""
        model, data = unwrap(self.model), self.train_dataset
        with weights.running(model):
            tap, _ = self._itra_tap.place("auto", self.model, model, bool, {})
            features, labels = [], []
            for start in range(0, len(data), 64):
                batch = self.data_collator([data[row] for row in range(start, min(start + 64, len(data)))])
                labels.append(batch.pop("labels"))
                with tap.recording():
                    model(**{name: value for name, value in batch.items() if name in ("input_ids", "attention_mask")})
                features.append(tap.features(batch))
        return torch.cat(features), torch.cat(labels)
