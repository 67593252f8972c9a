"""Companions for streaming training sets, which have no indices to draw from: a second stream and a buffer."""

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator
from itertools import chain, islice
from random import Random
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from .pairs import LABEL_COLUMNS

ONE_PASS = (
    "The training set ({}) can be iterated only once, so it can't give companions as well: let its __iter__ return a "
    "new iterator each time, or set companion='memory' in an ITRAConfig."
)


class CompanionBuffer:
    """A window that slides over a stream, and draws companions from it.

    Args:
        stream: the companions' stream, endless.
        size: how many examples the window holds.
        random: draws.
        class_of: the class of an example, to draw from the same class; `None` to draw from all.
    """

    def __init__(
        self, stream: Iterator[Any], size: int, random: Random, class_of: Callable[[Any], Hashable] | None = None
    ) -> None:
        self.stream = stream
        self.random = random
        self.class_of = class_of or (lambda example: None)
        self.window: deque[Hashable] = deque()  # the classes of its examples, the oldest first
        self.by_class: defaultdict[Hashable, deque[Any]] = defaultdict(deque)
        for example in islice(stream, size):
            self._add(example)

    def draw(self, example: Any) -> Any:
        """A companion for `example`, or the example itself where the window has none of its class."""
        candidates = self.by_class[self.class_of(example)]
        companion = candidates[self.random.randrange(len(candidates))] if candidates else example
        self._add(next(self.stream))
        self.by_class[self.window.popleft()].popleft()
        return companion

    def _add(self, example: Any) -> None:
        own_class = self.class_of(example)
        self.window.append(own_class)
        self.by_class[own_class].append(example)


class PairedStream(IterableDataset):
    """A stream of pairs `(example, companion example)`.

    The companions come from a second pass over the same data, which runs ahead of the first by the buffer and
    starts again when it ends. A stream of `datasets` gets its shards in another order. The examples themselves come
    in the order in which the stream gives them. Everything depends on `(seed, epoch)` and the stream alone, so a
    resumed run sees the same pairs.

    Args:
        dataset: a `datasets.IterableDataset`, or an iterable dataset of torch that can be iterated twice at a time.
        seed: of the draws.
        buffer_size: how many examples a companion is drawn from.
        label_names: the model's label arguments, to draw from an example's own class; `None` to draw from all.

    Raises:
        ValueError: (when iterated) the stream can be iterated only once, or its labels are no class ids.
    """

    def __init__(self, dataset: Any, seed: int, buffer_size: int, label_names: list[str] | None = None) -> None:
        self.dataset = dataset
        self.seed = seed
        self.buffer_size = buffer_size
        self.label_names = label_names
        # Shared memory, because persistent workers keep their copy of the dataset from epoch to epoch.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch's examples and companions to draw."""
        self._epoch.fill_(epoch)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        worker = get_worker_info()
        random = Random(f"{self.seed},{int(self._epoch)},{worker.id if worker else 0}")
        class_of = None if self.label_names is None else self._class_of
        primary = iter(self.dataset)
        first_pass = self._companion_pass(random)
        if first_pass is primary:
            raise ValueError(ONE_PASS.format(type(self.dataset).__name__))
        buffer = None
        for example in primary:
            if buffer is None:
                buffer = self._fill(first_pass, random, class_of)
            yield example, buffer.draw(example)

    def _fill(self, first_pass: Iterator[Any], random: Random, class_of: Any) -> CompanionBuffer:
        start = list(islice(first_pass, self.buffer_size))  # of one pass, so that no example is in it twice
        stream = chain(start, first_pass, self._further_passes(random))
        return CompanionBuffer(stream, len(start), random, class_of)

    def _further_passes(self, random: Random) -> Iterator[Any]:
        while True:
            empty = True
            for example in self._companion_pass(random):
                empty = False
                yield example
            if empty:
                raise ValueError(ONE_PASS.format(type(self.dataset).__name__))

    def _companion_pass(self, random: Random) -> Iterator[Any]:
        if isinstance(self.dataset, datasets.IterableDataset):
            return iter(self.dataset.shuffle(seed=random.randrange(2**32), buffer_size=1))
        return iter(self.dataset)

    def _class_of(self, example: Any) -> int:
        names = [name for name in (*(self.label_names or ()), *LABEL_COLUMNS) if name in example]
        if not names:
            raise ValueError(f"companion='class_matched' needs labels, but an example has only {', '.join(example)}.")
        label = np.asarray(example[names[0]])
        label = label[0] if label.shape == (1,) else label  # a list of one, which is a class id too
        if label.ndim != 0 or not np.issubdtype(label.dtype, np.integer):
            raise ValueError(
                f"companion='class_matched' needs one class id an example, but {names[0]!r} is {example[names[0]]!r}; "
                "companion='sample' works with any labels."
            )
        return int(label)
