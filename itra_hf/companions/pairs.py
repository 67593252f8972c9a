"""Companion sampling: item `i` of the training set becomes the pair (example `i`, its companion).

Pairing happens inside the dataset, so shuffling, sharding, batching, workers and resuming stay the stock
data loader's. Which example is the companion of `i` depends on `(seed, epoch, i)` and on nothing else.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset

from ..batches import COMPANION, CollatedApart, FeatureBatch
from ..losses.matching import MatchingLoss
from ..losses.mmd import Match
from ..randomness import untouched_randomness

LABEL_COLUMNS = ("labels", "label", "label_ids")  # the names that transformers' collators take for labels


class SecondBatch:
    """The source of companions `"sample"` and `"class_matched"`: a second batch that ran through a model.

    Args:
        learns: whether gradients flow through it.
    """

    def __init__(self, learns: bool) -> None:
        self.learns = learns

    def match(self, matching_loss: MatchingLoss, batch: FeatureBatch) -> Match:
        """Matches a batch with its companion.

        Args:
            matching_loss: of features and labels.
            batch: with companion features.
        """
        features, labels, companion_features, companion_labels = batch
        assert companion_features is not None
        return matching_loss.match(features, labels, companion_features, companion_labels, self.learns)


class CompanionSampler:
    """Draws every example's companion, uniformly from all examples but itself.

    The draws of an epoch are made together when the first of them is asked for, and kept until the next epoch.

    Args:
        size: how many examples there are.
        seed: of the draws.
        class_ids: `[size]` integers, to draw from the example's own class; `None` to draw from all. An example
            that is the only one of its class is its own companion.

    Raises:
        ValueError: fewer than two examples.
    """

    def __init__(self, size: int, seed: int, class_ids: np.ndarray | None = None) -> None:
        check_size(size)
        self.size = size
        self.seed = seed % 2**64
        self._dtype = np.int32 if size < 2**31 else np.int64
        self._by_class: np.ndarray | None = None
        self._drawn: tuple[int, np.ndarray] | None = None
        if class_ids is not None:
            classes = _small_ids(class_ids)
            self._by_class = np.argsort(classes, kind="stable").astype(self._dtype)
            ordered = classes[self._by_class]
            self._counts = np.diff(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, prepend=0, append=size)

    def __call__(self, index: int, epoch: int) -> int:
        """The companion of example `index` in `epoch`."""
        return int(self.companions(epoch)[index])

    def companions(self, epoch: int) -> np.ndarray:
        """The companions of all examples in `epoch`, `[size]` indices."""
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = None  # frees the last epoch's first
            self._drawn = (epoch, self._draw(np.random.default_rng([self.seed, epoch])))
        return self._drawn[1]

    def _draw(self, random: np.random.Generator) -> np.ndarray:
        rows: np.ndarray = np.arange(self.size, dtype=self._dtype)
        if self._by_class is None:
            others: np.ndarray = random.integers(self.size - 1, size=self.size, dtype=self._dtype)
            others += others >= rows
            return others
        counts: np.ndarray = self._counts.astype(self._dtype)
        starts: np.ndarray = np.repeat(np.cumsum(counts, dtype=self._dtype) - counts, counts)
        highs = np.repeat(np.maximum(counts - 1, 1), counts)
        others = random.integers(highs, dtype=self._dtype)
        others += (others >= rows - starts) & (np.repeat(counts, counts) > 1)
        companions = rows  # its values are used up
        companions[self._by_class] = self._by_class[starts + others]
        return companions


def check_size(size: int) -> None:
    """Checks that a training set has an example and a companion to give.

    Raises:
        ValueError: it has fewer than two.
    """
    if size < 2:
        raise ValueError(f"The training set has {size} example(s); a companion batch needs at least two.")


def _small_ids(class_ids: np.ndarray) -> np.ndarray:
    """The same classes as 16-bit integers where they fit, which sort by radix and so much faster."""
    least = class_ids.min()
    return (class_ids - least).astype(np.uint16) if int(class_ids.max()) - int(least) < 2**16 else class_ids


class PairedDataset(Dataset):
    """A map-style dataset of pairs `(example, companion example)`.

    Args:
        dataset: any map-style dataset.
        sampler: draws the companions.
    """

    def __init__(self, dataset: Any, sampler: CompanionSampler) -> None:
        self.dataset = dataset
        self.sampler = sampler
        # Shared memory, because persistent workers keep their copy of the dataset from epoch to epoch.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch's companions to draw."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.dataset[index], self.dataset[self.sampler(index, int(self._epoch))]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Any]]:
        """The pairs of a whole batch, in one look-up where the dataset offers that.

        Raises:
            ValueError: a sampler that gives no numbers.
        """
        if not all(isinstance(index, (int, np.integer, torch.Tensor)) for index in indices):
            raise ValueError(
                f"The sampler gives {indices[0]!r}, and companions are drawn by number: set companion='memory' in an "
                "ITRAConfig."
            )
        wanted = [*indices, *self.sampler.companions(int(self._epoch))[indices].tolist()]
        if hasattr(self.dataset, "__getitems__"):
            items = self.dataset.__getitems__(wanted)
        else:
            items = [self.dataset[index] for index in wanted]
        return list(zip(items[: len(indices)], items[len(indices) :], strict=True))


class PairCollator:
    """Collates pairs into one batch `{primary batch..., "itra_companion": {companion batch...}}`.

    Both halves go through the wrapped collator together, hence share one padding. Where it can't take them
    together (a batch of one, unpadded), or its result can't be cut in two (not every value has one entry an example),
    it is called once a half. It is also called once with the primary batch alone where its result has a value that no
    example has: one that is as long for half of the examples, such as weights of the classes, is no column.

    Args:
        collator: the collator of single examples.
    """

    def __init__(self, collator: Callable[[list[Any]], Any]) -> None:
        self.collator = collator
        self._added: dict[str, bool] = {}  # by the name of a value that no example has, whether it is a column

    def __call__(self, pairs: Sequence[tuple[Any, Any]]) -> Any:
        """Collates pairs `(example, companion example)`; the result has the wrapped collator's type.

        What is no mapping, such as a tuple, has no place for a companion, and is the primary batch alone.
        """
        primary, companion = map(list, zip(*pairs, strict=True))
        rows = len(pairs)
        kept = _fresh([primary, companion])  # a collator may change its examples
        try:
            both = self.collator(primary + companion)
        except Exception:  # whatever it is, where each half fails alone too, that is the error to show
            both = None
        if isinstance(both, Mapping) and self._in_columns(both, kept[0]):
            first = {key: value[:rows] for key, value in both.items()}
            second = {key: value[rows:] for key, value in both.items()}
        else:
            both = self.collator(kept[0])
            if not isinstance(both, Mapping):
                return both
            first, second = dict(both), CollatedApart(self.collator(kept[1]))
        # The Trainer rebuilds batches the same way, so a BatchEncoding stays one.
        return type(both)({**first, COMPANION: second})  # type: ignore[call-arg]

    def _in_columns(self, both: Mapping[str, Any], primary: list[Any]) -> bool:
        """Whether every value of both batches together has one entry an example."""
        rows = len(primary)
        if not all(_has_rows(value, 2 * rows) for value in both.values()):
            return False
        given = primary[0] if isinstance(primary[0], Mapping) else {}
        added = [name for name in both if not (name in given or name in LABEL_COLUMNS or name in self._added)]
        if added:
            with untouched_randomness():
                alone = self.collator(_fresh(primary))
            self._added |= {name: _has_rows(alone.get(name), rows) for name in added}
        return all(self._added.get(name, True) for name in both)


def _fresh(value: Any) -> Any:
    """Copies of dicts and lists, however deep; what they hold is shared, for a tensor may be a row of a large one."""
    if type(value) is dict:
        return {key: _fresh(each) for key, each in value.items()}
    if type(value) in (list, tuple) and value and isinstance(value[0], (Mapping, list, tuple)):
        return type(value)(map(_fresh, value))
    return copy.copy(value) if isinstance(value, (list, Mapping)) else value


def _has_rows(value: Any, rows: int) -> bool:
    if isinstance(value, torch.Tensor):
        return value.dim() > 0 and len(value) == rows
    return isinstance(value, (list, tuple, np.ndarray)) and len(value) == rows


def read_class_ids(dataset: Any, label_names: Sequence[str]) -> np.ndarray:
    """The class ids of a training set, in one pass over its label column.

    A `datasets.Dataset` gives the column as an array; any other dataset is read item by item.

    Args:
        dataset: a map-style dataset of dicts.
        label_names: the model's label arguments, tried before `LABEL_COLUMNS`.

    Returns:
        `[size]` integers.

    Raises:
        ValueError: there is no label column, or the labels are not one integer an example.
    """
    column = find_label_column(dataset, label_names)
    if isinstance(dataset, datasets.Dataset):
        labels = dataset.data.column(column).to_numpy()
        chosen = getattr(dataset, "_indices", None)  # of the rows that select(), shuffle() and the like have left
        labels = labels if chosen is None else labels[chosen.column(0).to_numpy()]
    else:
        labels = np.asarray([np.asarray(dataset[index][column]) for index in range(len(dataset))])
    if labels.dtype == object and len(labels) and {np.shape(each) for each in labels} == {(1,)}:
        labels = np.stack(labels)  # a list of one, which is a class id too
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"companion='class_matched' needs one class id an example, but {column!r} holds values of dtype "
            f"{labels.dtype} and shape {list(labels.shape[1:])}; companion='sample' works with any labels, and so do "
            "alignment='joint' and alignment='marginal'."
        )
    return labels


def find_label_column(dataset: Any, label_names: Sequence[str]) -> str:
    """The name of the label column of a dataset of dicts.

    Args:
        dataset: a map-style dataset of dicts.
        label_names: the model's label arguments, tried before the names that transformers' collators take.

    Raises:
        ValueError: there is none; the message lists the columns.
    """
    columns = dataset.column_names if isinstance(dataset, datasets.Dataset) else dataset[0]
    names = list(dict.fromkeys([*label_names, *LABEL_COLUMNS]))
    for name in names:
        if name in columns:
            return name
    raise ValueError(
        f"The training set has no labels column (looked for {', '.join(names)}); it has: "
        f"{', '.join(map(str, columns))}."
    )
