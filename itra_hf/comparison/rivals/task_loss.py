"""What most rivals share: a training loss of logits, class ids and, where wanted, features."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from ...batches import UNLABELLED, count_rows, drop_column, find_labels, is_class_ids
from ...features.models import logits_of, unwrap, unwrap_adapter
from ...features.placing import ModelTap
from ...processes import agree
from .ranges import Range


class TaskLossTrainer(Trainer):
    """A Trainer whose training loss is `loss_of` the batch, a mean over its examples; evaluation is the stock one.

    It runs any sequence classifier of two or more classes with any collator, under accumulation, mixed precision and
    several processes, and as the base of `class Mine(ITRAMixin, ...)`.

    Attributes:
        uses_features: whether `loss_of` wants features.
        copies: how many times a training batch runs, one behind the other in one pass.
        ranges: of the rival's own settings.

    Raises:
        ValueError: a wrong value, labels that are not one class id an example, or a loss function beside the rival's
            own.
    """

    uses_features = False
    copies = 1
    ranges: Mapping[str, Range] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The loss is a mean: the Trainer divides by the accumulation steps. Older ones know the second switch alone.
        self.loss_is_scaled_for_ga, self.model_accepts_loss_kwargs = False, False
        if self.compute_loss_func is not None:
            raise ValueError(f"{type(self).__name__} has a loss of its own, so compute_loss_func must be left out.")
        config = getattr(unwrap_adapter(unwrap(self.model)), "config", None)
        problem, name = getattr(config, "problem_type", None), type(self).__name__
        if problem not in (None, "single_label_classification") or getattr(config, "num_labels", 2) < 2:
            raise ValueError(f"{name} needs one class id an example and two classes or more; the model's are others.")
        self._tap = ModelTap(self.label_names)
        self.add_callback(_RunStart(self))

    def start_run(self) -> None:
        """Forgets what an earlier run has left; called when training begins."""

    def prepare(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> None:
        """Looks at a batch before `loss_of` does, on all processes alike, also where no example has a label."""

    def loss_of(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> Tensor:
        """The loss of the labelled examples of a batch.

        Args:
            logits: `[n, classes]` float32.
            labels: `[n]` class ids.
            features: `[n, dim]` inputs of the head where `uses_features` says so.

        Returns:
            A scalar, a mean over the examples.
        """
        raise NotImplementedError

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """`loss_of` a training batch; else the stock loss.

        Raises:
            ValueError: labels that are not one class id an example.
        """
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.copies > 1:
            rows = count_rows(inputs, self.label_names)
            inputs = {name: _repeated(value, self.copies, rows) for name, value in inputs.items()}
        labels = drop_column(find_labels(inputs, self.label_names))
        if not (isinstance(labels, Tensor) and is_class_ids(labels)):
            raise ValueError(f"{type(self).__name__} needs one class id an example in each training batch.")
        outputs, features = self._run(model, {k: v for k, v in inputs.items() if k not in self.label_names})
        logits, kept = self._logits_of(outputs), labels != UNLABELLED
        batch = logits[kept].float(), labels[kept], None if features is None else features[kept]
        self.prepare(*batch)
        loss = self.loss_of(*batch) if kept.any() else 0.0 * logits.sum()
        return (loss, outputs) if return_outputs else loss

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy of each example, `[n]`, smoothed as the arguments say."""
        smoothing = 0.0 if self.label_smoother is None else self.label_smoother.epsilon
        return nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)

    def summed(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes, without gradient."""
        values = values.detach()
        return self.accelerator.reduce(values, reduction="sum") if self.accelerator.num_processes > 1 else values

    def _logits_of(self, outputs: Any) -> Tensor:
        logits = logits_of(outputs)
        if logits is None:
            raise ValueError(f"{type(self).__name__} needs logits, but {type(unwrap(self.model)).__name__} gives none.")
        return logits

    def _run(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Any, Tensor | None]:
        if not self.uses_features:
            return model(**inputs), None
        tap, _ = self._tap.place("auto", self.model, model, lambda flag: agree(self.accelerator, flag), inputs)
        with tap.recording():
            outputs = model(**inputs)
        logits, captured = self._logits_of(outputs), tap.taken()
        if len(captured) > len(logits) and captured.dim() > 2:
            raise ValueError(
                f"{type(self).__name__} can't tell its features from the companion's where both run in one pass and "
                "the model scores every token; companion_decay above 0 gives the companion a pass of its own."
            )
        tap.captured = captured[: len(logits)]  # a companion's come last
        features = tap.features(inputs)
        tap.captured = None
        return outputs, features


class _RunStart(TrainerCallback):
    """Tells a trainer that training begins."""

    def __init__(self, trainer: TaskLossTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.start_run()


def _repeated(value: Any, times: int, rows: int) -> Any:
    """What holds a row an example, several times one behind the other; anything else as it is."""
    if isinstance(value, Tensor):
        return torch.cat([value] * times) if value.dim() and len(value) == rows else value
    return value * times if isinstance(value, (list, tuple)) and len(value) == rows else value
