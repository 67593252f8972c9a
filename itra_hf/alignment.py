"""The aligned loss: the task loss plus the weighted matching loss, over one process or over all of them."""

from functools import partial
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from .config import AlignmentArguments
from .config_checks import Companion, build_matching_loss
from .gathering import average, gather_counts, gather_rows
from .known_gradient import with_gradient
from .label_kinds import LabelKind, alignment_for
from .matching import MatchingLoss
from .matching_batches import FeatureBatch, Match, match_batches, match_halves
from .memory import FeatureMemory
from .mmd import Alignment
from .weighting import MatchingWeight, depends_on, watch_pulls


class AlignedLoss(NamedTuple):
    """What one step's alignment gave.

    Attributes:
        total: the task loss plus the weighted matching loss, a scalar in the model's graph.
        matching_loss: a scalar without gradient; `None` where there is no companion yet.
        weight: a scalar without gradient.
        features: `[rows, dim]`, all features that this step's batches have, without gradient.
    """

    total: Tensor
    matching_loss: Tensor | None
    weight: Tensor
    features: Tensor


class Aligner:
    """Adds the matching loss to the task loss; one object a training run, for the weight has a memory.

    The matching loss and its gradient are computed apart from the model's graph, on the features alone. The
    gradient is then attached to the features, so that the one backward pass of the step carries it through the
    model. That needs no collective with a gradient and no second pass through the classifier.

    Args:
        matching_loss: of features and labels.
        matching_weight: of each step.
        accelerator: knows the processes.
        gather: whether to align the batches of all processes together.
        companion: where the companion batch comes from.
        every: how many optimizer steps there are to each that aligns, which gets as many times the weight.
        memory: past features, for companion `"memory"`.
        decides: whether the first labelled batch decides the alignment; until then it is marginal.
        companion_learns: whether gradients flow through a second batch.
        strict: whether a task loss that does not depend on the features is an error; else it waits for one that does.

    Attributes:
        alignment: as it was set or decided; `None` until it is.

    Raises:
        ValueError: `gather` where some processes share their batch (tensor, context or sequence parallelism).
    """

    def __init__(
        self,
        matching_loss: MatchingLoss,
        matching_weight: MatchingWeight,
        accelerator: Accelerator,
        gather: bool,
        companion: Companion = "sample",
        every: int = 1,
        memory: FeatureMemory | None = None,
        decides: bool = False,
        strict: bool = True,
        companion_learns: bool = True,
    ) -> None:
        self.matching_loss = matching_loss
        self.matching_weight = matching_weight
        self.accelerator = accelerator
        self.gather = gather and accelerator.num_processes > 1
        self.companion = companion
        self.every = every
        self.memory = memory
        self.decides, self.strict, self.companion_learns = decides, strict, companion_learns
        self.alignment: Alignment | None = None if decides else matching_loss.alignment
        self._checked = False
        self._width: torch.Size | None = None  # of targets
        parallelism = getattr(accelerator, "parallelism_config", None)
        if self.gather and parallelism is not None and parallelism.non_data_parallel_size > 1:
            raise ValueError(
                "gather_features=True needs a batch of its own on every process, but some share theirs "
                f"({parallelism}): set gather_features=False."
            )

    @classmethod
    def from_arguments(cls, args: AlignmentArguments, companion: Companion, accelerator: Accelerator) -> "Aligner":
        """For a training run with these settings, of which `companion` has been decided."""
        matching_weight = MatchingWeight(
            args.matching_weight,
            args.weight_mode,
            args.matching_warmup_ratio,
            accelerator.device,
            partial(average, accelerator),
        )
        memory = None
        if companion == "memory":
            memory = FeatureMemory(args.memory_size, args.memory_warmup_steps)
        return cls(
            build_matching_loss(args),
            matching_weight,
            accelerator,
            args.gather_features,
            companion,
            args.companion_every,
            memory,
            decides=args.alignment == "auto",
            strict=args.feature != "auto",
            companion_learns=args.companion_decay == 0,
        )

    def is_due(self, step: int) -> bool:
        """Whether an optimizer step is one that aligns."""
        return step % self.every == 0

    def can_align(self, kind: LabelKind, labels: Tensor | None, rows: int) -> bool:
        """Whether a batch is one to align by its labels; the first labelled one decides how.

        Labels that don't go with an alignment that was set are an error later on; where it was decided, the batch is
        left out.

        Args:
            kind: of its labels.
            labels: `[batch, ...]`, or `None`.
            rows: how many features there are.
        """
        if not self.decides:
            return True
        if labels is not None and (labels.dim() == 0 or len(labels) != rows):  # the model made more or fewer of them
            kind = min(kind, LabelKind.OTHER)
        found = alignment_for(kind, self.matching_loss.matching_loss)
        if self.alignment is None and kind != LabelKind.NONE:
            self.decide(found)
        if self.alignment == "joint" and labels is not None:
            self._width = labels.shape[1:] if self._width is None else self._width
            if labels.shape[1:] != self._width:
                return False
        return self.alignment in (None, "marginal", found)

    def decide(self, alignment: Alignment) -> None:
        """Sets an alignment that was left open, as far as the distance has it; empties the memory of no labels."""
        if alignment == "joint" and self.matching_loss.matching_loss != "mmd":
            alignment = "marginal"
        self.alignment = self.matching_loss.alignment = alignment
        if self.memory is not None:
            self.memory = FeatureMemory(self.memory.size, self.memory.warmup_steps)

    def __call__(
        self, task_loss: Tensor, batch: FeatureBatch, captured: Tensor, step: int, total_steps: int
    ) -> AlignedLoss:
        """Aligns one batch.

        Args:
            task_loss: a scalar.
            batch: this process's.
            captured: the features as tapped, see `watch_pulls`; features that need no gradient get weight 0.
            step: optimizer steps done so far.
            total_steps: optimizer steps in all.

        Raises:
            ValueError: the task loss does not depend on the features, so that the pulls can't be balanced; shapes
                or labels that the matching loss can't use.
        """
        everything, counts = self._gather(batch)
        match = self._match(everything, step)
        weight = self.matching_weight(step, total_steps) * self.every
        self.matching_weight.note_loss(task_loss)
        halves = (everything.features, everything.companion_features)
        seen = torch.cat([half.detach() for half in halves if half is not None])
        if match is None:
            return AlignedLoss(task_loss, None, torch.zeros_like(weight), seen)
        if not captured.requires_grad:
            return AlignedLoss(task_loss, match.value, torch.zeros_like(weight), seen)
        if counts is not None:
            match = self._own(match, counts)
        attached = with_gradient(match.value, batch.features, match.gradient)
        if batch.companion_features is not None and match.companion_gradient is not None:
            attached = with_gradient(attached, batch.companion_features, match.companion_gradient)
        total = task_loss + weight * attached
        if self.matching_weight.weight_mode != "constant" and total.requires_grad:
            self._watch(task_loss, total, captured, batch.features, match.gradient, weight)
        return AlignedLoss(total, match.value, weight, seen)

    def _match(self, batch: FeatureBatch, step: int) -> Match | None:
        """Matches a batch with its companion; `None` while there is none."""
        if self.companion == "split":
            return match_halves(self.matching_loss, batch)
        if self.memory is None:
            return match_batches(self.matching_loss, batch, self.companion_learns)
        # At once, not when the memory is full.
        self.matching_loss.check(batch.features, batch.labels, batch.features, batch.labels)
        recalled = self.memory.recall(step)
        self.memory.take_in(batch.features.detach(), batch.labels)
        if recalled is None:
            return None
        paired = FeatureBatch(batch.features, batch.labels, *recalled)
        return match_batches(self.matching_loss, paired, companion_learns=False)

    def _gather(self, batch: FeatureBatch) -> tuple[FeatureBatch, tuple[list[int], list[int]] | None]:
        if not self.gather:
            return batch, None
        companions = 0 if batch.companion_features is None else len(batch.companion_features)
        counts, companion_counts = gather_counts(self.accelerator, len(batch.features), companions)
        rows = (counts, counts, companion_counts, companion_counts)
        gathered = (
            None if tensor is None else gather_rows(self.accelerator, tensor, count)
            for tensor, count in zip(batch, rows, strict=True)
        )
        return FeatureBatch(*gathered), (counts, companion_counts)  # type: ignore[arg-type]

    def _own(self, match: Match, counts: tuple[list[int], list[int]]) -> Match:
        """This process's rows of the gradients."""
        # Every process holds the whole matching loss, and the mean over processes is what backward gives.
        gradients = (
            None if gradient is None else gradient.split(rows)[self.accelerator.process_index] * len(rows)
            for gradient, rows in zip(match[1:], counts, strict=True)
        )
        return Match(match.value, *gradients)  # type: ignore[arg-type]

    def _watch(
        self, task_loss: Tensor, total: Tensor, captured: Tensor, features: Tensor, gradient: Tensor, weight: Tensor
    ) -> None:
        if not self._checked and not depends_on(task_loss, captured):
            if not self.strict:  # as long as the head is not used, nothing pulls on its features
                return
            raise ValueError(
                "The task loss does not depend on the tapped features, so its pull on them can't be balanced with the "
                "matching loss's: choose a feature that the classifier uses, or weight_mode='constant'."
            )
        self._checked = True
        size = gradient.abs().max().clamp(min=torch.finfo(gradient.dtype).tiny)  # else float16 could underflow
        unit = (gradient / size).to(features.dtype)
        (pull,) = torch.autograd.grad(features, captured, unit, retain_graph=True)
        watch_pulls(total, captured, pull[: len(features)].float() * size, weight, self.matching_weight.note)
