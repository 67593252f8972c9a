"""What alignment is meant to lower: the noise of the mini-batch gradient, and what a step does to other batches."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import has_length

from ..batches import find_labels
from ..features.head import find_head
from ..features.models import eval_mode, logits_of, run_in_eval_mode, unwrap
from ..randomness import untouched_randomness


class GradientNoiseCallback(TrainerCallback):
    """Measures the variance of the mini-batch gradient and the change of a held-out batch's loss in one step.

    Works with any `Trainer`, so that runs with and without alignment compare. Every `every` optimizer steps, at the
    parameters of that moment, in eval mode and without touching the random state or the gradients of training:

    - `gradient_variance`, `sum_k |g_k - g|^2 / (K - 1)` over the gradients `g_k` of the task loss on `K` random
      mini-batches of the training batch size, with their mean `g`: 0 and up, in squared units of the gradient.
    - `gradient_noise_to_signal`, that over an unbiased estimate of the squared norm of the full gradient: 0 and up,
      free of scale; left out where the noise drowns that estimate.
    - `held_out_loss_change`, the loss of a fixed batch after the optimizer step minus before: negative where the
      step, taken on another batch, helps it. The batch is drawn from the evaluation set (of several, the first), or
      where there is none with labels and a length, from the training set.

    A measurement costs `K` forward passes, the backward pass as far down as the parameters, and two forward passes
    of the held-out batch.

    Args:
        trainer: whose model, data, collator and loss to use, and which logs the series.
        every: optimizer steps from one measurement to the next, >= 1.
        batches: `K`, >= 2.
        parameters: a part of the names of the parameters whose gradient to take, such as `"classifier"` or
            `"encoder.layer.11."`; `None` takes the last linear layer's.

    Raises:
        ValueError: a value out of range, sharded parameters (FSDP, DeepSpeed), a training set without length, or at
            the start of training no trainable parameter of that name.

    Example:
        ```python
        trainer = Trainer(model, args, train_dataset=train)
        trainer.add_callback(GradientNoiseCallback(trainer, every=100))
        ```
    """

    def __init__(self, trainer: Trainer, every: int = 100, batches: int = 8, parameters: str | None = None) -> None:
        for name, value, least in (("every", every, 1), ("batches", batches, 2)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r} must be an integer >= {least}.")
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError("The noise of the gradient can't be measured on parameters sharded by FSDP or DeepSpeed.")
        if trainer.train_dataset is not None and not has_length(trainer.train_dataset):
            raise ValueError("The noise of the gradient needs a training set with a length, to draw mini-batches from.")
        self.trainer, self.every, self.batches, self.parameters = trainer, every, batches, parameters
        self._chosen: list[nn.Parameter] = []
        self._held_out: Any = None
        self._pending: dict[str, float] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draws the held-out batch and finds the parameters."""
        data, self._pending = self.trainer.eval_dataset, None
        if isinstance(data, dict):
            data = next(iter(data.values()))
        with untouched_randomness():
            self._held_out = next(self._draw(data, 1, step=-1)) if has_length(data) and len(data) else {}
            if find_labels(self._held_out, self.trainer.label_names) is None:
                self._held_out = next(self._draw(self.trainer.train_dataset, 1, step=-1))
            self._chosen = self._find_parameters()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures the gradients, and the held-out loss before the step."""
        if state.global_step % self.every == 0:
            with untouched_randomness():
                self._pending = self._measure_gradients(state.global_step)
                self._pending["held_out_loss_change"] = -self._held_out_loss()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Completes the measurement and logs it."""
        if self._pending is None:
            return
        with untouched_randomness():
            self._pending["held_out_loss_change"] += self._held_out_loss()
        due = control.should_log
        self.trainer.log(self._pending)
        control.should_log = due  # which logging takes back, and the Trainer's own line comes after this
        self._pending = None

    def _draw(self, data: Any, count: int, step: int) -> Iterator[Any]:
        """Random mini-batches on the device: a function of seed and step, so that resumed runs draw the same."""
        trainer = self.trainer
        collate = trainer._get_collator_with_removed_columns(trainer.data_collator)
        generator = np.random.default_rng([trainer.args.seed, step + 1])
        size = min(trainer.args.per_device_train_batch_size, len(data))
        for _ in range(count):
            rows = generator.choice(len(data), size, replace=False)
            yield trainer._prepare_inputs(collate([data[int(row)] for row in rows]))

    def _find_parameters(self) -> list[nn.Parameter]:
        model = unwrap(self.trainer.model)
        trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if self.parameters is None:
            head = find_head(model, self._trial_pass, getattr(getattr(model, "config", None), "pad_token_id", None))
            chosen = [parameter for parameter in head.parameters() if parameter.requires_grad]
        else:
            chosen = [parameter for name, parameter in trainable.items() if self.parameters in name]
        if not chosen:
            raise ValueError(
                f"parameters={self.parameters!r} names no trainable parameter; there are "
                f"{', '.join([*trainable][-8:])} and others before them."
            )
        return chosen

    def _trial_pass(self) -> tuple[Tensor | None, Any]:
        with self.trainer.compute_loss_context_manager():
            outputs = run_in_eval_mode(unwrap(self.trainer.model), self._held_out)
        return logits_of(outputs), self._held_out

    def _loss(self, batch: Any) -> Tensor:
        trainer, model = self.trainer, unwrap(self.trainer.model)
        items = trainer._get_num_items_in_batch([batch], trainer.args.device)
        with eval_mode(model), trainer.compute_loss_context_manager():
            # A copy, for label smoothing takes the labels out.
            loss: Any = trainer.compute_loss(model, copy.copy(batch), num_items_in_batch=items)
        return loss

    def _measure_gradients(self, step: int) -> dict[str, float]:
        total, squares, count = torch.zeros(()), 0.0, self.batches
        for batch in self._draw(self.trainer.train_dataset, count, step):
            with torch.enable_grad():
                gradients = torch.autograd.grad(self._loss(batch), self._chosen, allow_unused=True)
            pairs = zip(gradients, self._chosen, strict=True)
            flat = torch.cat([(torch.zeros_like(p) if g is None else g).float().flatten() for g, p in pairs])
            total = total.to(flat.device) + flat
            squares += float(flat.square().sum())
        mean_square = float((total / count).square().sum())
        variance = max(squares - count * mean_square, 0.0) / (count - 1)
        signal = mean_square - variance / count
        return {"gradient_variance": variance} | ({"gradient_noise_to_signal": variance / signal} if signal > 0 else {})

    @torch.no_grad()
    def _held_out_loss(self) -> float:
        return float(self._loss(self._held_out))
