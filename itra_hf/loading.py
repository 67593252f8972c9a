"""From a training set to a loader of pairs: what the Trainer layer needs around the stock data loader."""

from collections.abc import Callable
from typing import Any

import datasets
from torch.utils.data import IterableDataset
from transformers import TrainerCallback

from .config import AlignmentArguments
from .sampling import CompanionSampler, PairedDataset, check_size, read_class_ids
from .streaming import PairedStream


def pair_examples(
    dataset: Any,
    args: AlignmentArguments,
    seed: int,
    label_names: list[str],
    drop_columns: Callable[[datasets.Dataset], datasets.Dataset] | None,
) -> PairedDataset | PairedStream:
    """Makes a training set one of pairs `(example, companion example)`.

    Args:
        dataset: map-style or streaming.
        args: the method's settings.
        seed: of the companions.
        label_names: the model's label arguments.
        drop_columns: takes the columns off that the model doesn't know; `None` to keep all.

    Raises:
        ValueError: too few examples, or companions of the same class without class ids.
    """
    by_class = args.companion == "class_matched"
    if isinstance(dataset, (IterableDataset, datasets.IterableDataset)):
        return PairedStream(dataset, seed, args.companion_buffer_size, label_names if by_class else None)
    check_size(len(dataset))
    class_ids = read_class_ids(dataset, label_names) if by_class else None
    if isinstance(dataset, datasets.Dataset) and drop_columns is not None:
        dataset = drop_columns(dataset)
    return PairedDataset(dataset, CompanionSampler(len(dataset), seed, class_ids))


class CompanionEpoch(TrainerCallback):
    """Tells the paired training set the epoch; Accelerate's loaders reach only the sampler in some set-ups."""

    def __init__(self) -> None:
        self.paired: PairedDataset | PairedStream | None = None
        self.epoch = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts at the epoch of the checkpoint, where one is resumed."""
        self.epoch = int(state.epoch or 0)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sets the epoch, before the loader's workers start."""
        if self.paired is not None:
            self.paired.set_epoch(self.epoch)
        self.epoch += 1


class ShortenedLoader:
    """A data loader that says it is shorter than it is."""

    def __init__(self, dataloader: Any, length: int) -> None:
        self._dataloader = dataloader
        self._length = length

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataloader, name)

    def __len__(self) -> int:
        return self._length
