"""What people try instead of alignment, as small `Trainer` subclasses, for `itra-hf compare`.

In the YAML file of a comparison:
    variants:
      R-Drop: {trainer: "examples/regularisers.py:RDropTrainer", twice_compute: true}
      SupCon: {trainer: "examples/regularisers.py:SupConTrainer", trainer_arguments: {weight: 0.5}}
      averaged weights: {trainer: "examples/regularisers.py:AveragedTrainer"}
"""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import Trainer, TrainerCallback

from itra_hf.features.head import build_tap
from itra_hf.features.models import eval_mode


class RDropTrainer(Trainer):
    """R-Drop (Liang et al., NeurIPS 2021): two passes with other dropout, whose predictions should agree.

    Args:
        *args: of `Trainer`.
        strength: what the divergence of the two predictions counts.
        **kwargs: of `Trainer`.
    """

    def __init__(self, *args, strength: float = 1.0, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.strength = strength

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The mean cross-entropy of both passes plus the symmetric divergence between them; in training only."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        rows = len(inputs["labels"])
        outputs = model(**{name: torch.cat([tensor, tensor]) for name, tensor in inputs.items()})
        divergence = symmetric_divergence(outputs.logits[:rows], outputs.logits[rows:])
        loss = task_loss(self, outputs, torch.cat([inputs["labels"]] * 2))
        loss = loss + self.strength * divergence
        return (loss, outputs) if return_outputs else loss


class SupConTrainer(Trainer):
    """Cross-entropy with a supervised contrastive loss of the features (Gunel et al., ICLR 2021).

    Args:
        *args: of `Trainer`.
        weight: the share of the contrastive loss, 0 to 1; the cross-entropy has the rest.
        temperature: divides the cosine similarities.
        **kwargs: of `Trainer`.
    """

    def __init__(self, *args, weight: float = 0.5, temperature: float = 0.3, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.weight, self.temperature, self.tap = weight, temperature, None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The weighted sum of the two losses; in training only."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.tap is None:
            with eval_mode(model), torch.no_grad():
                self.tap = build_tap(model, "auto", lambda: (model(**inputs).logits, inputs))
        with self.tap.recording():
            outputs = model(**inputs)
        contrast = supervised_contrast(self.tap.features(inputs), inputs["labels"], self.temperature)
        loss = (1 - self.weight) * task_loss(self, outputs, inputs["labels"]) + self.weight * contrast
        return (loss, outputs) if return_outputs else loss


class AveragedTrainer(Trainer):
    """Leaves the model with an exponential running average of its weights, in place of the last ones.

    Args:
        *args: of `Trainer`.
        decay: of the average, an optimizer step; 0.97 lags 32 steps behind.
        **kwargs: of `Trainer`.
    """

    def __init__(self, *args, decay: float = 0.97, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(WeightAverage(decay))


class WeightAverage(TrainerCallback):
    """Averages the weights of a run, and puts the average into the model at its end."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: AveragedModel | None = None

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        """Starts anew."""
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(self.decay))

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
        """Takes a step's weights in; the first step's are the average's first."""
        self.average.update_parameters(model)

    @torch.no_grad()
    def on_train_end(self, args, state, control, model=None, **kwargs) -> None:
        """Puts the average into the model."""
        for weight, averaged in zip(model.parameters(), self.average.module.parameters(), strict=True):
            weight.copy_(averaged)
        self.average = None


def task_loss(trainer: Trainer, outputs, labels: Tensor) -> Tensor:
    """The cross-entropy as the trainer's arguments want it, smoothed or not."""
    return outputs.loss if trainer.label_smoother is None else trainer.label_smoother(outputs, labels)


def symmetric_divergence(logits: Tensor, others: Tensor) -> Tensor:
    """The mean over examples of half the two Kullback-Leibler divergences between predictions `[n, classes]`."""
    first, second = (nn.functional.log_softmax(each.float(), dim=-1) for each in (logits, others))
    return ((first.exp() - second.exp()) * (first - second)).sum(dim=-1).mean() / 2


def supervised_contrast(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The supervised contrastive loss (Khosla et al., NeurIPS 2020) of `[n, dim]` features with `[n]` class ids.

    For each example, the mean over the others of its class of the negative logarithm of their share of its
    similarity to all others; examples without another of their class are left out.
    """
    normalised = nn.functional.normalize(features.float(), dim=-1)
    similarity = (normalised @ normalised.T / temperature).fill_diagonal_(float("-inf"))
    shares = similarity.log_softmax(dim=-1).masked_fill(
        torch.eye(len(labels), dtype=torch.bool, device=labels.device), 0
    )
    same = (labels[:, None] == labels).float().fill_diagonal_(0)
    anchors = same.sum(dim=1) > 0
    if not anchors.any():
        return 0.0 * features.sum()
    return -((same * shares).sum(dim=1)[anchors] / same.sum(dim=1)[anchors]).mean()
