"""From a training set to a loader of pairs: what the Trainer layer needs around the stock data loader."""

from collections.abc import Callable
from functools import partial
from typing import Any

import datasets
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainerCallback
from transformers.trainer_utils import has_length

from .alignment import Aligner
from .averages import AveragedWeights
from .checkpoints import saved_companion
from .companion_choice import RESUMED, average_for, choose_companion
from .config import AlignmentArguments
from .config_checks import PAIRED_COMPANIONS, Companion
from .gathering import gather_counts
from .reporting import ReportingMixin
from .sampling import CompanionSampler, PairCollator, PairedDataset, check_size, read_class_ids
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


class PairedLoadingMixin(ReportingMixin):
    """The part of `ITRAMixin` that loads the training set as pairs, where the companion is a second batch of it."""

    _itra_companion: Companion | None  # until the constructor ends
    _itra_companion_epoch: CompanionEpoch
    _itra_memory_because: str | None
    _itra_settled: bool
    _itra_aligner: Aligner
    _itra_average: AveragedWeights | None

    def _itra_set_companion(self, companion: Companion, memory_because: str | None) -> None:
        """Makes what depends on where the companion comes from; `memory_because` says why `auto` is a memory."""
        args = self.alignment_args
        self._itra_companion, self._itra_memory_because = companion, memory_because
        self._itra_aligner = Aligner.from_arguments(args, companion, self.accelerator)
        self._itra_average = average_for(args, companion, self.accelerator, self.model)
        self._itra_companion_epoch.paired = None
        self._itra_settled = False

    def _itra_falls_back(self, because: str) -> bool:
        """Takes a memory as companion, if the settings leave it open and no step has been aligned yet."""
        if self.alignment_args.companion != "auto" or self._itra_settled:
            return False
        self._itra_set_companion("memory", because)
        self._itra_tell_companion()
        return True

    def _itra_tell_companion(self, checkpoint: str | None = None) -> None:
        if checkpoint is not None and saved_companion(checkpoint) == "memory" and self._itra_falls_back(RESUMED):
            return
        if self._itra_memory_because is not None and self.alignment_args.matching_weight > 0:
            self._itra_warn_once(f"companion='auto' is 'memory' in this run: {self._itra_memory_because}.")

    def _itra_callbacks_of_run(self) -> list[TrainerCallback]:
        return [
            *super()._itra_callbacks_of_run(),
            *([self._itra_companion_epoch] if self._itra_pairs_examples() else []),
        ]

    def _get_dataloader(  # type: ignore[override]
        self,
        dataset: Any,
        description: str,
        batch_size: int,
        sampler_fn: Callable[[Any], Any] | None = None,
        is_training: bool = False,
        **kwargs: Any,
    ) -> DataLoader:
        if is_training:
            self._itra_companion_epoch.paired = None
        if is_training and self._itra_pairs_examples():
            original = dataset
            dataset = self._itra_pair(dataset, description)
            # Samplers that look into the data, such as length grouping, must see single examples.
            sampler_fn = None if sampler_fn is None else partial(_call_with, sampler_fn, original)
        return super()._get_dataloader(dataset, description, batch_size, sampler_fn, is_training, **kwargs)

    def _get_collator_with_removed_columns(self, data_collator: Callable, description: str | None = None) -> Callable:
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

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        """The stock values, for the least number of batches that any process has."""
        if self.accelerator.num_processes > 1 and has_length(dataloader):
            (batches,) = gather_counts(self.accelerator, len(dataloader))
            if min(batches) < max(batches):
                self._itra_warn_once(
                    f"The processes have {batches} batches an epoch; each stops after {min(batches)}, for all of them "
                    "have to take each step together."
                )
                dataloader = ShortenedLoader(dataloader, min(batches))
        return super().set_initial_training_values(args, dataloader)

    def _itra_pairs_examples(self) -> bool:
        args, companion = self.alignment_args, self._itra_companion
        companion = companion or choose_companion(args, self.accelerator, self.model, self.train_dataset)[0]
        return args.matching_weight > 0 and companion in PAIRED_COMPANIONS


def _call_with(function: Callable[[Any], Any], argument: Any, _paired: Any) -> Any:
    return function(argument)
