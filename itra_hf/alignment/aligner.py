"""The matching loss of a step, over one process or over all of them."""

from typing import NamedTuple, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from ..batches import FeatureBatch, LabelKind
from ..companions.halves import Halves
from ..companions.memory import FeatureMemory
from ..companions.pairs import SecondBatch
from ..config import AlignmentArguments
from ..config_checks import Companion, build_matching_loss
from ..losses.known_gradient import with_gradient
from ..losses.matching import MatchingLoss
from ..losses.mmd import Alignment, Match
from ..processes import gather_counts, gather_rows


class Companions(Protocol):
    """A source of companions."""

    def match(self, matching_loss: MatchingLoss, batch: FeatureBatch) -> Match | None:
        """Matches a batch with its companion; `None` where there is none yet."""


class Aligned(NamedTuple):
    """What one step's alignment gave.

    Attributes:
        value: the matching loss, a scalar in the graph of this process's features; `None` without a companion yet.
        gradient: `[n, dim]`, its gradient at this process's primary features; `None` likewise.
        features: `[rows, dim]`, all features that this step's batches have, without gradient.
    """

    value: Tensor | None
    gradient: Tensor | None
    features: Tensor


class Aligner:
    """Matches each batch with its companion; one object a training run, for a memory is a part of it.

    The matching loss and its gradient are computed apart from the model's graph, on the features alone. The
    gradient is then attached to the features, so that the one backward pass of the step carries it through the
    model. That needs no collective with a gradient and no second pass through the classifier.

    Args:
        matching_loss: of features and labels.
        companions: where companions come from.
        accelerator: knows the processes.
        gather: whether to align the batches of all processes together.
        decides: whether the first labelled batch decides the alignment; until then it is marginal.

    Attributes:
        alignment: as it was set or decided; `None` until it is.

    Raises:
        ValueError: `gather` where some processes share their batch (tensor, context or sequence parallelism).
    """

    def __init__(
        self,
        matching_loss: MatchingLoss,
        companions: Companions,
        accelerator: Accelerator,
        gather: bool,
        decides: bool = False,
    ) -> None:
        self.matching_loss = matching_loss
        self.companions = companions
        self.accelerator = accelerator
        self.gather = gather and accelerator.num_processes > 1
        self.decides = decides
        self.alignment: Alignment | None = None if decides else matching_loss.alignment
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
        companions: Companions
        if companion == "memory":
            companions = FeatureMemory(args.memory_size)
        else:
            companions = Halves() if companion == "split" else SecondBatch(learns=args.companion_decay == 0)
        decides = args.alignment == "auto"
        return cls(build_matching_loss(args), companions, accelerator, args.gather_features, decides)

    @property
    def memory(self) -> FeatureMemory | None:
        """Past features, where these are the companions."""
        return self.companions if isinstance(self.companions, FeatureMemory) else None

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
        found = self._alignment_for(kind)
        if self.alignment is None and kind != LabelKind.NONE:
            self.decide(found)
        if self.alignment == "joint" and labels is not None:
            self._width = labels.shape[1:] if self._width is None else self._width
            if labels.shape[1:] != self._width:
                return False
        return self.alignment in (None, "marginal", found)

    def decide(self, alignment: Alignment) -> None:
        """Sets an alignment that was left open, as far as the distance has it; empties the memory of no labels."""
        if alignment == "joint" and self.matching_loss.distance is not None:
            alignment = "marginal"
        self.alignment = self.matching_loss.alignment = alignment
        if self.memory is not None:
            self.companions = FeatureMemory(self.memory.size)

    def __call__(self, batch: FeatureBatch) -> Aligned:
        """The matching loss of a batch and its companion.

        Args:
            batch: this process's; its features that need a gradient get it.

        Raises:
            ValueError: shapes or labels that the matching loss can't use.
        """
        if self.matching_loss.alignment == "marginal":  # labels of tokens may differ in width from batch to batch
            batch = batch._replace(labels=None, companion_labels=None)
        everything, counts = self._gather(batch)
        halves = (everything.features, everything.companion_features)
        seen = torch.cat([half.detach() for half in halves if half is not None])
        match = self.companions.match(self.matching_loss, everything)
        if match is None:
            return Aligned(None, None, seen)
        value, gradient = match.value, self._own(match.gradient, counts and counts[0])
        if batch.features.requires_grad:
            value = with_gradient(value, batch.features, gradient)
        if batch.companion_features is not None and batch.companion_features.requires_grad:
            companion_gradient = self._own(match.companion_gradient, counts and counts[1])
            value = with_gradient(value, batch.companion_features, companion_gradient)
        return Aligned(value, gradient, seen)

    def _own(self, gradient: Tensor, counts: list[int] | None) -> Tensor:
        """This process's rows of a gradient over all processes, which have `counts` rows."""
        if counts is None:
            return gradient
        # Every process holds the whole matching loss, and the mean over processes is what backward gives.
        return gradient.split(counts)[self.accelerator.process_index] * len(counts)

    def _alignment_for(self, kind: LabelKind) -> Alignment:
        """What `alignment='auto'` means for labels of a kind; the MMD alone has a joint form."""
        if kind == LabelKind.CLASS_IDS:
            return "conditional"
        return "joint" if kind == LabelKind.TARGETS and self.matching_loss.distance is None else "marginal"

    def _gather(self, batch: FeatureBatch) -> tuple[FeatureBatch, tuple[list[int], list[int]] | None]:
        if not self.gather:
            return batch, None
        companions = 0 if batch.companion_features is None else len(batch.companion_features)
        width = 0 if batch.labels is None else batch.labels.shape[1:].numel()
        counts, companion_counts, widths = gather_counts(self.accelerator, len(batch.features), companions, width)
        if len(set(widths)) > 1:  # said on all processes, for the others would wait for ever
            raise ValueError(
                f"The processes' batches have {' and '.join(map(str, widths))} targets an example, which "
                f"{self.alignment} alignment can't compare: pad them to one width, or set alignment='marginal' or "
                "gather_features=False."
            )
        rows = (counts, counts, companion_counts, companion_counts)
        gathered = (
            None if tensor is None else gather_rows(self.accelerator, tensor, count)
            for tensor, count in zip(batch, rows, strict=True)
        )
        return FeatureBatch(*gathered), (counts, companion_counts)  # type: ignore[arg-type]
