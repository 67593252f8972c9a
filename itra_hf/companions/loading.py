"""From a training set to a loader of pairs: what the Trainer layer needs around the stock data loader."""

from collections.abc import Callable, Mapping
from typing import Any

import datasets
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainerCallback

from ..batches import COMPANION, unpair
from ..config_checks import PAIRED_COMPANIONS, Companion
from ..mixins import TrainerBase
from .choice import choose_companion
from .pairs import CompanionSampler, PairCollator, PairedDataset, check_size, read_class_ids
from .streams import PairedStream


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
        callbacks = super()._itra_callbacks_of_run()
        return [*callbacks, self._itra_companion_epoch] if self._itra_pairs_examples() else callbacks

    def _get_dataloader(  # type: ignore[override]
        self,
        dataset: Any,
        description: str,
        batch_size: int,
        sampler_fn: Callable[[Any], Any] | None = None,
        is_training: bool = False,
        **kwargs: Any,
    ) -> DataLoader:
        # The public get_train_dataloader would have to hand on pairs, which samplers and collators don't know.
        load = super()._get_dataloader
        if is_training:
            self._itra_companion_epoch.paired = None
        if not is_training or not self._itra_pairs_examples():
            return load(dataset, description, batch_size, sampler_fn, is_training, **kwargs)
        self._itra_companion_epoch.paired = paired = self._itra_pair(dataset, description)
        single = collator = self.data_collator
        if not isinstance(paired.dataset, datasets.Dataset):  # else its columns are gone already
            single = self._get_collator_with_removed_columns(collator, description=description)
        # Samplers that look into the data, such as length grouping, must see single examples.
        sample = None if sampler_fn is None else (lambda _paired: sampler_fn(dataset))
        self.data_collator = PairCollator(single)
        try:
            return load(paired, description, batch_size, sample, is_training, **kwargs)
        finally:
            self.data_collator = collator

    def _prepare_inputs(self, inputs: Any) -> Any:
        # Each batch by itself, for a Trainer below may do more to one than move it.
        primary, companion = unpair(inputs)
        prepare: Any = super()._prepare_inputs
        prepared = prepare(primary)
        if companion is None or not isinstance(prepared, Mapping):
            return prepared
        kind: Any = type(prepared)
        return kind({**prepared, COMPANION: prepare(companion)})

    def _itra_pair(self, dataset: Any, description: str) -> PairedDataset | PairedStream:
        """Makes a training set, map-style or streaming, one of pairs `(example, companion example)`."""
        args, label_names = self.alignment_args, self.label_names
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        by_class = args.companion == "class_matched"
        if isinstance(dataset, (IterableDataset, datasets.IterableDataset)):
            return PairedStream(dataset, seed, args.companion_buffer_size, label_names if by_class else None)
        check_size(len(dataset))
        class_ids = read_class_ids(dataset, label_names) if by_class else None
        if isinstance(dataset, datasets.Dataset):
            dataset = self._remove_unused_columns(dataset, description=description)
        return PairedDataset(dataset, CompanionSampler(len(dataset), seed, class_ids))

    def _itra_pairs_examples(self) -> bool:
        args, companion = self.alignment_args, self._itra_companion
        companion = companion or choose_companion(args, self.accelerator, self.model, self.train_dataset)[0]
        return args.matching_weight > 0 and companion in PAIRED_COMPANIONS
