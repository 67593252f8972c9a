"""From a training set to a loader of pairs: what the Trainer layer needs around the stock data loader."""

from collections.abc import Callable
from functools import partial
from typing import Any

import datasets
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainerCallback

from ..config import AlignmentArguments
from ..config_checks import PAIRED_COMPANIONS, Companion
from ..mixins import TrainerBase
from .choice import choose_companion
from .pairs import CompanionSampler, PairCollator, PairedDataset, check_size, read_class_ids
from .streams import PairedStream


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


class PairedLoadingMixin(TrainerBase):
    """The part of `ITRAMixin` that loads the training set as pairs, where the companion is a second batch of it."""

    _itra_companion: Companion | None  # until the constructor ends
    _itra_companion_epoch: CompanionEpoch

    def _itra_callbacks_of_run(self) -> list[TrainerCallback]:
        return [*super()._itra_callbacks_of_run(), self._itra_companion_epoch]

    def _get_dataloader(  # type: ignore[override]
        self,
        dataset: Any,
        description: str,
        batch_size: int,
        sampler_fn: Callable[[Any], Any] | None = None,
        is_training: bool = False,
        **kwargs: Any,
    ) -> DataLoader:
        # The public get_train_dataloader takes no data set, and a subclass may have one of its own.
        if is_training:
            self._itra_companion_epoch.paired = None
        if is_training and self._itra_pairs_examples():
            original = dataset
            dataset = self._itra_pair(dataset, description)
            # Samplers that look into the data, such as length grouping, must see single examples.
            sampler_fn = None if sampler_fn is None else partial(_call_with, sampler_fn, original)
        return super()._get_dataloader(dataset, description, batch_size, sampler_fn, is_training, **kwargs)

    def _get_collator_with_removed_columns(self, data_collator: Callable, description: str | None = None) -> Callable:
        # What drops columns from examples has to be wrapped for pairs of them, and is made nowhere else.
        paired = self._itra_companion_epoch.paired
        if description != "Training" or paired is None:
            return super()._get_collator_with_removed_columns(data_collator, description=description)
        if isinstance(paired.dataset, datasets.Dataset):
            return PairCollator(data_collator)  # its columns are gone already
        return PairCollator(super()._get_collator_with_removed_columns(data_collator, description=description))

    def _itra_pair(self, dataset: Any, description: str) -> PairedDataset | PairedStream:
        drop = partial(self._remove_unused_columns, description=description)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        paired = pair_examples(
            dataset, self.alignment_args, seed, self.label_names, drop if self.args.remove_unused_columns else None
        )
        self._itra_companion_epoch.paired = paired
        return paired

    def _itra_pairs_examples(self) -> bool:
        args, companion = self.alignment_args, self._itra_companion
        companion = companion or choose_companion(args, self.accelerator, self.model, self.train_dataset)[0]
        return args.matching_weight > 0 and companion in PAIRED_COMPANIONS


def _call_with(function: Callable[[Any], Any], argument: Any, _paired: Any) -> Any:
    return function(argument)
