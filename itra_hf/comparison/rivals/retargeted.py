"""A second stage for long tails: the head is trained anew on frozen features."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from ...batches import find_labels
from ...companions.choice import holds_shards
from ...features.head import build_tap
from ...features.models import eval_mode, logits_of, unwrap
from ...losses.kernels import UNLABELLED
from .task_loss import TaskLossTrainer

STEPS = 200  # of L-BFGS, at most: the objective is convex


class RetargetedTrainer(TaskLossTrainer):
    """Logits retargeting (*Rethinking Classifier Re-Training in Long-Tailed Recognition*, 2024), as a second stage.

    Training is the stock one's. At its end the features of the training examples are taken without dropout, and the
    head is fitted to them anew, from zero. Its targets spread the share `negative` of each label evenly over all
    classes, so the label's own has little more than the others, and no class's logits grow large by its size. They
    need no class counts. That the fit is by L-BFGS, with a squared penalty, is a detail of ours. Probabilities
    come out nearly even: their order is meant, and a temperature makes them usable. Checkpoints saved in training
    have the first stage's head.

    Args:
        *args: of `Trainer`.
        negative: the share that is spread over the classes, 0 to below 1.
        penalty: of the head's squared weights.
        **kwargs: of `Trainer`.

    Raises:
        ValueError: weights that lie in parts on several processes, or a head that is no linear layer of its own.
    """

    def __init__(self, *args: Any, negative: float = 0.98, penalty: float = 1e-4, **kwargs: Any) -> None:
        if not 0 <= negative < 1:
            raise ValueError(f"negative={negative!r} must be from 0 to below 1.")
        if not penalty >= 0:
            raise ValueError(f"penalty={penalty!r} must be >= 0.")
        super().__init__(*args, **kwargs)
        if holds_shards(self.accelerator, self.model):
            raise ValueError("RetargetedTrainer fits the head as a whole, which lies in parts on several processes.")
        self.add_callback(HeadRetraining(self, negative, penalty))

    def loss_of(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> Tensor:
        """The first stage's: the stock cross-entropy."""
        return self.cross_entropy(logits, labels).mean()


class HeadRetraining(TrainerCallback):
    """The second stage, when training ends."""

    def __init__(self, trainer: Trainer, negative: float, penalty: float) -> None:
        self.trainer, self.negative, self.penalty = trainer, negative, penalty

    @torch.no_grad()
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Fits the head, on all processes alike."""
        head, features, labels = training_features(self.trainer)
        weight, bias = fit_head(features, labels, len(head.weight), self.negative, self.penalty, head.bias is not None)
        head.weight.copy_(weight)
        if bias is not None:
            head.bias.copy_(bias)


def training_features(trainer: Trainer) -> tuple[nn.Linear, Tensor, Tensor]:
    """The head, and the features `[n, dim]` and class ids of the labelled training examples of all processes.

    Raises:
        ValueError: the head is no linear layer.
    """
    model, features, labels = unwrap(trainer.model), [], []
    loader, tap = trainer.get_test_dataloader(trainer.train_dataset), None  # type: ignore[arg-type]
    with eval_mode(model):
        for batch in loader:
            inputs = trainer._prepare_inputs(batch)
            ids = find_labels(inputs, trainer.label_names)
            inputs = {name: value for name, value in inputs.items() if name not in trainer.label_names}

            def run(inputs: dict[str, Any] = inputs) -> tuple[Tensor | None, dict[str, Any]]:
                return logits_of(model(**inputs)), inputs

            with trainer.compute_loss_context_manager():
                tap = tap or build_tap(model, "auto", run)
                with tap.recording():
                    run()
            found = trainer.accelerator.gather_for_metrics((tap.features(inputs).float(), ids.flatten()))
            features.append(found[0])
            labels.append(found[1])
    assert tap is not None
    tap.remove()
    if not isinstance(tap.module, nn.Linear):
        raise ValueError(f"RetargetedTrainer needs a linear layer as head, not a {type(tap.module).__name__}.")
    together, ids = torch.cat(features), torch.cat(labels)
    return tap.module, together[ids != UNLABELLED], ids[ids != UNLABELLED]


@torch.enable_grad()
def fit_head(
    features: Tensor, labels: Tensor, classes: int, negative: float, penalty: float, biased: bool
) -> tuple[Tensor, Tensor | None]:
    """The linear head `[classes, dim]`, and its bias, that is best for targets of which a share is spread evenly.

    Args:
        features: `[n, dim]`.
        labels: `[n]` class ids.
        classes: how many.
        negative: see `RetargetedTrainer`.
        penalty: on half the squared weights, the bias's left out.
        biased: whether there is a bias.
    """
    rows = features.double()
    weight = rows.new_zeros(classes, rows.shape[1]).requires_grad_()
    bias = rows.new_zeros(classes).requires_grad_(biased)
    optimizer = torch.optim.LBFGS(
        [weight, bias] if biased else [weight], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-8
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        logits = rows @ weight.T + bias
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=negative)
        loss = loss + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    return weight.detach().to(features.dtype), bias.detach().to(features.dtype) if biased else None
