"""A second stage for long tails: the head is trained anew on frozen features."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import has_length

from ...batches import UNLABELLED
from ...features.extract import tapped_batches
from ...features.models import unwrap
from ...processes import holds_shards
from ...randomness import untouched_randomness
from .ranges import NOT_NEGATIVE, SHARE, Range, check_ranges
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
        ValueError: a wrong value, a training set without length, or weights that lie in parts on several processes;
            when training begins, a head that is no linear layer of its own or does not learn.
    """

    ranges: Mapping[str, Range] = {"negative": SHARE, "penalty": NOT_NEGATIVE}

    def __init__(self, *args: Any, negative: float = 0.9, penalty: float = 1e-4, **kwargs: Any) -> None:
        check_ranges(self.ranges, {"negative": negative, "penalty": penalty})
        super().__init__(*args, **kwargs)
        if self.train_dataset is not None:
            check_length(self.train_dataset)
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
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Looks whether there is a head that can be fitted.

        Raises:
            ValueError: there is none, or no training set.
        """
        check_length(self.trainer.train_dataset)
        loader = all_batches(self.trainer)
        # Accelerate would take a loader that is begun and not ended for the one that is trained on.
        with untouched_randomness():  # a loader draws a seed for its workers
            head, *_ = next(tapped(self.trainer, getattr(loader, "base_dataloader", loader)))
        linear_head(head)

    @torch.no_grad()
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Fits the head, on all processes alike."""
        head, features, labels = training_features(self.trainer)
        weight, bias = fit_head(features, labels, len(head.weight), self.negative, self.penalty, head.bias is not None)
        head.weight.copy_(weight)
        if bias is not None:
            head.bias.copy_(bias)


def check_length(data: Any) -> None:
    """Checks that a training set can be gone through once more.

    Raises:
        ValueError: it has no length.
    """
    if not has_length(data):
        raise ValueError("RetargetedTrainer goes through the training set once more, which has no length.")


def linear_head(module: nn.Module) -> nn.Linear:
    """The linear layer that a head is, also inside peft's wrapper of modules that are trained and saved whole.

    Raises:
        ValueError: it is none, or it does not learn, so that a saved adapter would lack it.
    """
    saved: Any = getattr(module, "modules_to_save", None)
    module = module if saved is None else saved[module.active_adapter]
    if type(module) is not nn.Linear or not module.weight.requires_grad:
        kind = "an adapter's layer" if hasattr(module, "base_layer") else f"a {type(module).__name__}"
        raise ValueError(
            f"RetargetedTrainer needs a linear layer that is trained as head; this one is {kind}"
            f"{' that is frozen' if type(module) is nn.Linear else ''}. With LoRA, name it in modules_to_save."
        )
    return module


def all_batches(trainer: Trainer) -> Any:
    """A loader of the whole training set, in order; on several processes each has its own batches."""
    drops, trainer.args.dataloader_drop_last = trainer.args.dataloader_drop_last, False  # that is of training alone
    try:
        return trainer.get_test_dataloader(trainer.train_dataset)  # type: ignore[arg-type]
    finally:
        trainer.args.dataloader_drop_last = drops


def tapped(trainer: Trainer, batches: Iterable[Any]) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
    """The head of the model, with the features `[batch, dim]`, without dropout, and class ids of each batch."""
    prepared = (trainer._prepare_inputs(batch) for batch in batches)
    context = trainer.compute_loss_context_manager
    return tapped_batches(unwrap(trainer.model), prepared, trainer.label_names, context=context)


def training_features(trainer: Trainer) -> tuple[nn.Linear, Tensor, Tensor]:
    """The head, and the features `[n, dim]` and class ids of the labelled training examples of all processes.

    Raises:
        ValueError: see `linear_head`.
    """
    found = [
        (head, *trainer.accelerator.gather_for_metrics((rows, ids)))
        for head, rows, ids in tapped(trainer, all_batches(trainer))
    ]
    features, labels = (torch.cat([each[place] for each in found]) for place in (1, 2))
    kept = labels != UNLABELLED
    return linear_head(found[0][0]), features[kept], labels[kept]


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
    rows, labels = features.cpu().double(), labels.cpu()  # some devices have no float64
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
    return weight.detach().to(features), bias.detach().to(features) if biased else None
