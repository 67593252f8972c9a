"""Regularisers: R-Drop, supervised contrast, and averaged weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from ...features.averages import AveragedWeights
from ...features.models import unwrap, unwrap_adapter
from ...processes import holds_shards
from ...trainer import ITRAMixin
from .ranges import ABOVE_ZERO, NOT_NEGATIVE, PART, SHARE, Range, check_ranges, refuse
from .task_loss import TaskLossTrainer

logger = logging.get_logger(__name__)


class RDropTrainer(TaskLossTrainer):
    """R-Drop (Liang et al., NeurIPS 2021): two passes with other dropout, whose predictions should agree.

    Args:
        *args: of `Trainer`.
        strength: what the divergence of the two predictions counts.
        **kwargs: of `Trainer`.

    Raises:
        ValueError: together with `ITRAMixin`: a batch that runs twice in one pass can't be aligned.
    """

    copies = 2
    ranges: Mapping[str, Range] = {"strength": NOT_NEGATIVE}

    def __init__(self, *args: Any, strength: float = 0.3, **kwargs: Any) -> None:
        check_ranges(self.ranges, {"strength": strength})
        if isinstance(self, ITRAMixin):
            raise ValueError("RDropTrainer runs a batch twice in one pass, which can't be aligned; take ITRAMixin off.")
        super().__init__(*args, **kwargs)
        self.strength = strength
        if not drops_out(self.model):
            logger.warning("The model has no dropout, so RDropTrainer's two passes are the same, and it does nothing.")

    def loss_of(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> Tensor:
        """The mean cross-entropy of both passes plus the symmetric divergence between them."""
        first, second = logits.chunk(2)
        return self.cross_entropy(logits, labels).mean() + self.strength * symmetric_divergence(first, second)


class SupConTrainer(TaskLossTrainer):
    """Cross-entropy with a supervised contrastive loss of the features (Gunel et al., ICLR 2021).

    Args:
        *args: of `Trainer`.
        weight: the share of the contrastive loss, 0 to 1; the cross-entropy has the rest.
        temperature: divides the cosine similarities.
        **kwargs: of `Trainer`.
    """

    uses_features = True
    ranges: Mapping[str, Range] = {"weight": PART, "temperature": ABOVE_ZERO}

    def __init__(self, *args: Any, weight: float = 0.1, temperature: float = 0.3, **kwargs: Any) -> None:
        check_ranges(self.ranges, {"weight": weight, "temperature": temperature})
        super().__init__(*args, **kwargs)
        self.weight, self.temperature = weight, temperature

    def loss_of(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> Tensor:
        """The weighted sum of the two losses."""
        assert features is not None
        contrast = supervised_contrast(features, labels, self.temperature)
        return (1 - self.weight) * self.cross_entropy(logits, labels).mean() + self.weight * contrast


class AveragedTrainer(Trainer):
    """Leaves the model with an exponential running average of its weights, in place of the last ones.

    Checkpoints and evaluations on the way are of the weights themselves. A resumed run starts its average anew.

    Args:
        *args: of `Trainer`.
        decay: of the average, an optimizer step; 0.97 looks back 32 steps.
        **kwargs: of `Trainer`.

    Raises:
        ValueError: a wrong decay, weights that lie in parts on several processes, or `load_best_model_at_end`, whose
            model the average would replace.
    """

    ranges: Mapping[str, Range] = {"decay": SHARE}

    def __init__(self, *args: Any, decay: float = 0.97, **kwargs: Any) -> None:
        check_ranges(self.ranges, {"decay": decay})
        super().__init__(*args, **kwargs)
        refuse(self, self.args)
        if holds_shards(self.accelerator, self.model):
            raise ValueError("AveragedTrainer averages the weights, which lie in parts on several processes.")
        self.add_callback(WeightAverage(decay))

    @staticmethod
    def refusal(args: TrainingArguments, **settings: Any) -> str | None:
        """The best model, at the end."""
        if not args.load_best_model_at_end:
            return None
        return "load_best_model_at_end=True: AveragedTrainer would put its average in the best's place."


class WeightAverage(TrainerCallback):
    """Averages the trained weights of a run, and puts the average into the model at its end."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average = AveragedWeights(decay)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts anew."""
        self.average = AveragedWeights(self.decay)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Takes a step's weights in; the first step's are the average's first."""
        self.average.follow(unwrap(model), state.global_step, state.max_steps)

    @torch.no_grad()
    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Puts the average into the model."""
        for name, weight in unwrap(model).named_parameters():
            if name in self.average.weights:
                weight.copy_(self.average.weights[name])
        self.average.weights = {}


def drops_out(model: Any) -> bool:
    """Whether a model in training mode has dropout, as a module or by its config, which some read in `forward`."""
    config = getattr(unwrap_adapter(unwrap(model)), "config", None)
    shares = [value for name, value in vars(config).items() if "drop" in name] if config is not None else []
    shares += [getattr(module, "p", 0) for module in model.modules() if "Dropout" in type(module).__name__]
    return any(isinstance(share, (int, float)) and share > 0 for share in shares)


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
    own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    shares = similarity.log_softmax(dim=-1).masked_fill(own, 0)
    same = (labels[:, None] == labels).float().fill_diagonal_(0)
    anchors = same.sum(dim=1) > 0
    if not anchors.any():
        return 0.0 * features.sum()
    return -((same * shares).sum(dim=1)[anchors] / same.sum(dim=1)[anchors]).mean()
