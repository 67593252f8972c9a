"""What a run's companion is where the settings leave it open."""

from typing import Any

import datasets
from accelerate import Accelerator
from torch import nn
from torch.utils.data import IterableDataset
from transformers.trainer_utils import has_length

from ..config import AlignmentArguments
from ..config_checks import Companion
from ..processes import holds_shards

NO_COMPANIONS = "a data loader or collator of your own brings no second batch"
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
RESUMED = "the checkpoint is of a run with a memory"


def choose_companion(
    args: AlignmentArguments, accelerator: Accelerator, model: Any, dataset: Any
) -> tuple[Companion, str | None]:
    """The companion of a run, which `auto` leaves open: a second batch, or a memory where there can't be one.

    Args:
        args: the method's settings.
        accelerator: knows the processes.
        model: to be trained.
        dataset: the training set; `None` where a loader of the user's knows it.

    Returns:
        The companion, and why it is a memory, if that was decided here.
    """
    if args.companion != "auto":
        return args.companion, None
    why = None
    if args.companion_decay != 0 and holds_shards(accelerator, model):
        why = "weights that lie in parts on several processes can't be averaged"
    elif args.companion_decay != 0 and mixes_examples(model):
        why = "batch normalisation would treat a second batch, which runs in eval mode, unlike the first"
    elif isinstance(dataset, IterableDataset) and not isinstance(dataset, datasets.IterableDataset):
        why = "a stream of this kind may be one that can't be read twice"
    elif has_length(dataset) and len(dataset) < 2:
        why = f"there is no second batch in {len(dataset)} example(s)"
    return ("sample" if why is None else "memory"), why


def mixes_examples(model: Any) -> bool:
    """Whether a model has batch normalisation."""
    return isinstance(model, nn.Module) and any(isinstance(each, BATCH_NORMS) for each in model.modules())
