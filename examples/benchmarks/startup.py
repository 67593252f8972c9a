"""What pairing costs before and between the steps: start-up time, memory a row, and the data loader's time.

    python -m examples.benchmarks startup [--rows N] [--rounds N] [--length TOKENS] [--plain] [--shuffled]

Everything is measured beside the plain Trainer, in turns and in one process. The training set is a `datasets.Dataset`
of short rows in memory, and the collator the one that a tokenizer brings, or with --plain the stock one, which is
so fast that pairing weighs most.

- Start-up: seconds of `get_train_dataloader()`, the median over rounds, beside one pass over the label column.
- Memory: what `get_train_dataloader()` and its first batch add and leave, in Python, NumPy and Arrow, over the number
  of rows. The stock shuffle's list of rows is in it, so subtract the first line.
- Loader: the paired loader at batch B against the plain one at batch 2 B, which look up, at random, and collate as
  many examples; open loaders take turns of a few batches. The row `Trainer, again` shows what the noise is.
"""

import argparse
import gc
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Iterator

import datasets
import numpy as np
import pyarrow as pa
import torch
from tokenizers import Tokenizer, models
from torch import nn
from transformers import PreTrainedTokenizerFast, Trainer
from transformers.utils import logging

from itra_hf import ITRAConfig, ITRATrainer

VARIANTS = {
    "Trainer": (Trainer, {"matching_weight": 0.0}),
    "matching_weight=0": (ITRATrainer, {"matching_weight": 0.0}),
    "companion='sample'": (ITRATrainer, {"companion": "sample"}),
    "companion='class_matched'": (ITRATrainer, {"companion": "class_matched"}),
}
PAIRED = ("companion='sample'", "companion='class_matched'")


class Model(nn.Module):
    """Names the columns that it takes, which is all that a data loader asks of it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, input_ids, attention_mask=None, labels=None):
        """Never called."""


def build_dataset(rows: int, length: int, classes: int) -> datasets.Dataset:
    generator = np.random.default_rng(0)
    tokens = pa.array(generator.integers(0, 30000, rows * length))
    columns = {
        "input_ids": pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * length), tokens),
        "labels": pa.array(generator.integers(0, classes, rows)),
    }
    return datasets.Dataset(pa.table(columns))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Knows only how to pad."""
    words = models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="[PAD]")


def build_trainer(name: str, dataset: datasets.Dataset, batch_size: int, options, folder: str) -> Trainer:
    trainer_class, settings = VARIANTS[name]
    tokenizer = None if options.plain else build_tokenizer()
    args = ITRAConfig(
        output_dir=folder, per_device_train_batch_size=batch_size, report_to="none", use_cpu=True, **settings
    )
    return trainer_class(model=Model(), args=args, train_dataset=dataset, processing_class=tokenizer)


def seconds_of(function) -> float:
    gc.collect()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure_startup(trainers: dict[str, Trainer], dataset: datasets.Dataset, rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant, a round after the other, and of one pass over the label column."""
    seconds: dict[str, list[float]] = {name: [] for name in (*trainers, "one pass over the labels")}
    for index in range(rounds + 1):
        taken = {name: seconds_of(trainer.get_train_dataloader) for name, trainer in trainers.items()}
        taken["one pass over the labels"] = seconds_of(lambda: dataset.with_format("numpy")["labels"][:])
        if index > 0:  # the first round warms up
            for name, value in taken.items():
                seconds[name].append(value)
    return seconds


def bytes_added(trainer: Trainer) -> tuple[int, int]:
    """What stays, and the most there was at one time."""
    pool = pa.default_memory_pool()
    gc.collect()
    arrow, arrow_peak = pool.bytes_allocated(), pool.max_memory()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    batches = iter(trainer.get_train_dataloader())
    next(batches)
    gc.collect()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del batches
    return kept - before + pool.bytes_allocated() - arrow, peak - before + pool.max_memory() - arrow_peak


def batches_of(trainer: Trainer) -> Iterator:
    while True:
        yield from trainer.get_train_dataloader()


def seconds_of_batches(batches: Iterator, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return time.perf_counter() - start


def measure_loader(dataset: datasets.Dataset, options, folder: str) -> dict[str, tuple[list[float], list[float]]]:
    """For each paired variant: microseconds an example, and ratios to the plain loader, a round each."""
    names = ("Trainer", "Trainer, again", *PAIRED)
    batches = {}
    for name in names:
        size = options.batch_size if name in PAIRED else 2 * options.batch_size
        batches[name] = batches_of(build_trainer(name.split(",")[0], dataset, size, options, folder))
        seconds_of_batches(batches[name], 5)  # the shuffle of all rows is the first batch's
    results: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    for _ in range(options.rounds):
        turns: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(options.turns):
            for name in names if turn % 2 else reversed(names):
                turns[name].append(seconds_of_batches(batches[name], options.batches))
        for name in names:
            # Ratios turn by turn, so that neither a slow spell of the machine nor an interrupted turn counts.
            ratios = [own / plain for own, plain in zip(turns[name], turns["Trainer"], strict=True)]
            microseconds = statistics.median(turns[name]) / (options.batches * 2 * options.batch_size) * 1e6
            results[name][0].append(microseconds)
            results[name][1].append(statistics.median(ratios))
    return results


def print_tables(startup, memory, loader, rows: int) -> None:
    print(f"{rows:,} rows\n{'':27} {'start-up, ms':>12} {'spread':>7} {'bytes a row':>12} {'peak':>6}")
    for name, seconds in startup.items():
        kept, peak = (f"{value / rows:.1f}" for value in memory[name]) if name in memory else ("-", "-")
        spread = max(seconds) - min(seconds)
        print(f"{name:27} {statistics.median(seconds) * 1e3:12.1f} {spread * 1e3:7.1f} {kept:>12} {peak:>6}")
    print(f"{'':27} {'loader, us an example':>21} {'ratio to Trainer':>17} {'spread':>7}")
    for name, (times, ratios) in loader.items():
        spread = max(ratios) - min(ratios)
        print(f"{name:27} {statistics.median(times):21.2f} {statistics.median(ratios):17.3f} {spread:7.3f}")


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--length", type=int, default=64, help="tokens a row")
    parser.add_argument("--plain", action="store_true", help="no tokenizer, hence the stock collator")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=32, help="of the paired loader")
    parser.add_argument("--batches", type=int, default=5, help="of a loader's turn")
    parser.add_argument("--turns", type=int, default=40, help="of each loader in a round")
    parser.add_argument("--shuffled", action="store_true", help="a dataset after shuffle(), whose rows are looked up")
    options = parser.parse_args(arguments)
    logging.set_verbosity_error()  # a tokenizer's advice on how to pad
    dataset = build_dataset(options.rows, options.length, options.classes)
    if options.shuffled:
        dataset = dataset.shuffle(seed=0)
    with tempfile.TemporaryDirectory() as folder:
        trainers = {name: build_trainer(name, dataset, options.batch_size, options, folder) for name in VARIANTS}
        startup = measure_startup(trainers, dataset, options.rounds)
        memory = {name: bytes_added(trainer) for name, trainer in trainers.items()}
        loader = measure_loader(dataset, options, folder)
    print_tables(startup, memory, loader, options.rows)
    return startup, memory, loader


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
