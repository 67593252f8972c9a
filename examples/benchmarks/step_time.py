"""Step time and peak memory of ITRATrainer over Trainer, for every companion source.

    python -m examples.benchmarks step_time [--model FOLDER|minilm|bert-base|narrow] [--batch_size 8 32]
        [--length 32 128] [--dtype float32 bfloat16] [--memory]

One table for each batch size, length and dtype. The variants train on the same batches, in turns with the plain Trainer
in one process, so that a machine whose speed drifts slows all alike. A time ratio is the median over rounds of
(variant's median step / Trainer's median step in the same round); the spread is the largest less the smallest. The
memory ratio compares peaks above what was there before training: on a GPU in the same runs, on a CPU (`--memory`) each
in a fresh process. Models named by size have random weights, which take as long.
"""

import argparse
import gc
import itertools
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
)

from itra_hf import ITRAConfig, ITRATrainer, MatchingLoss

sys.path.insert(0, str(Path(__file__).parent))
from _peak_memory import bytes_added

PLAIN = "Trainer"
LEARNING = {"companion_decay": 0.0}  # gradients flow through both batches
VARIANTS = {
    "matching_weight=0": {"matching_weight": 0.0},
    "sample": {"companion": "sample"},
    "class_matched": {"companion": "class_matched"},
    "sample, companion_decay=0": {"companion": "sample", **LEARNING},
    "class_matched, companion_decay=0": {"companion": "class_matched", **LEARNING},
    "split": {"companion": "split"},
    "memory": {"companion": "memory"},  # full from the start, see FullMemory
}
SIZES = {
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "bert-base": {},  # the default of its config
    # As many operations with next to nothing to do: what a GPU spends on a small step, which waits for Python.
    "narrow": {"hidden_size": 16, "num_hidden_layers": 12, "num_attention_heads": 2, "intermediate_size": 32},
}


def build_model(name: str, classes: int):
    if name not in SIZES:
        return AutoModelForSequenceClassification.from_pretrained(name, num_labels=classes)
    return BertForSequenceClassification(BertConfig(vocab_size=30522, num_labels=classes, **SIZES[name]))


def examples(count: int, length: int, classes: int) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1000, 30000, (count, length), generator=generator)
    return [
        {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": index % classes}
        for index, row in enumerate(tokens)
    ]


class StepTimes(TrainerCallback):
    """Collects the seconds from the end of one step to the end of the next, batch loading included."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Waits for the device, so that the step's work is counted where it belongs."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


class FullMemory(TrainerCallback):
    """Fills the memory before the first step, for a long run's is full in almost all steps."""

    def __init__(self, trainer: ITRATrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Takes in as many random features as fit."""
        memory = self.trainer._itra_aligner.memory
        features = torch.randn(memory.size, self.trainer.model.config.hidden_size, device=args.device)
        memory.take_in(features, torch.arange(memory.size, device=args.device) % self.trainer.model.config.num_labels)


def seconds_per_step(trainer: Trainer) -> float:
    """The median step of one run; its first, which pays the start, is out."""
    times = StepTimes()
    trainer.add_callback(times)
    trainer.train()
    trainer.remove_callback(times)
    trainer.optimizer = trainer.lr_scheduler = None  # or each variant would keep one,
    trainer.accelerator.free_memory()  # in two places
    steps = [b - a for a, b in itertools.pairwise(times.ends)]
    return statistics.median(steps)


def build_trainer(trainer_class, options, settings, folder: str, model=None) -> Trainer:
    args = ITRAConfig(
        output_dir=folder,
        per_device_train_batch_size=options.batch_size,
        max_steps=options.steps,
        bf16=options.bf16,
        use_cpu=not torch.cuda.is_available(),  # which bf16 on a CPU asks for
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        **settings,
    )
    data = examples(options.batch_size * 16, options.length, options.classes)
    torch.manual_seed(0)
    model = build_model(options.model, options.classes) if model is None else model
    trainer = trainer_class(model=model, args=args, train_dataset=data)
    trainer.remove_callback(PrinterCallback)
    if settings.get("companion") == "memory":
        trainer.add_callback(FullMemory(trainer))
    return trainer


def measure_times(options, folder: str) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """For each variant the ratios of its step time, and on a GPU of its peak memory, to Trainer's, a round each."""
    model = build_model(options.model, options.classes)
    trainers = {PLAIN: build_trainer(Trainer, options, {"matching_weight": 0.0}, folder, model)}
    for name in options.variants:
        trainers[name] = build_trainer(ITRATrainer, options, VARIANTS[name], folder, model)
    times: dict[str, list[float]] = {name: [] for name in trainers}
    peaks: dict[str, list[float]] = {name: [] for name in trainers}
    for index in range(options.rounds + options.warmup_rounds):
        for name in list(trainers) if index % 2 else reversed(trainers):
            gc.collect()
            before = 0
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            seconds = seconds_per_step(trainers[name])
            if index >= options.warmup_rounds:
                times[name].append(seconds)
                if torch.cuda.is_available():
                    peaks[name].append(torch.cuda.max_memory_allocated() - before)
    ratios = (
        {n: [a / b for a, b in zip(v, table[PLAIN], strict=True)] for n, v in table.items()} for table in (times, peaks)
    )
    print(f"Trainer: {statistics.median(times[PLAIN]):.3f} s a step")
    return tuple(ratios)


def peak_of_fresh_process(options, name: str) -> float:
    """Bytes that a short training run has at its peak, above what is there before it."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_in_process, (options, name))


def _peak_in_process(options, name: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        trainer_class = Trainer if name == PLAIN else ITRATrainer
        settings = {"matching_weight": 0.0} if name == PLAIN else VARIANTS[name]
        trainer = build_trainer(trainer_class, options, settings, folder)
        return bytes_added(trainer.train, "cpu")


def matching_share(options, repeats: int = 50) -> float:
    """Forward and backward of the matching loss over one whole training step of the plain model."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_model(options.model, options.classes).to(device).train()
    data = examples(options.batch_size, options.length, options.classes)
    batch = {key: torch.stack([torch.as_tensor(row[key]) for row in data]).to(device) for key in data[0]}
    features = torch.randn(2, options.batch_size, model.config.hidden_size, device=device, requires_grad=True)
    loss = MatchingLoss()

    def timed(function, count: int) -> float:
        times = []
        for _ in range(count):
            start = time.perf_counter()
            function()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    step = timed(lambda: model(**batch).loss.backward(), 3)
    labels = batch["labels"]
    return timed(lambda: loss(features[0], labels, features[1], labels).backward(), repeats) / step


def measure(options) -> list[tuple[str, float, float, float | None]]:
    """For each variant: name, median ratio of time, spread of the ratios, ratio of peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        ratios, memory = measure_times(options, folder)
    if options.memory and not torch.cuda.is_available():
        plain = peak_of_fresh_process(options, PLAIN)
        memory = {name: [peak_of_fresh_process(options, name) / plain] for name in options.variants}
    return [
        (
            name,
            statistics.median(ratios[name]),
            max(ratios[name]) - min(ratios[name]),
            statistics.median(memory[name]) if memory.get(name) else None,
        )
        for name in options.variants
    ]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm", help="a folder, or a size: minilm, bert-base")
    parser.add_argument("--batch_size", type=int, nargs="+", default=[16], dest="batch_sizes")
    parser.add_argument("--length", type=int, nargs="+", default=[64], dest="lengths")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], nargs="+", default=["float32"], dest="dtypes")
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=list(VARIANTS))
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--warmup_rounds", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="peak memory on a CPU too, a process each")
    return parser


def main(arguments: list[str] | None = None) -> list[tuple[str, float, float, float | None]]:
    options = build_parser().parse_args(arguments)
    rows = []
    for dtype, batch_size, length in itertools.product(options.dtypes, options.batch_sizes, options.lengths):
        options.bf16, options.batch_size, options.length = dtype == "bfloat16", batch_size, length
        print(f"\n{options.model}, batch {batch_size} x {length} tokens, {dtype}")
        table = measure(options)
        print(f"{'':30} {'time':>6} {'spread':>7} {'memory':>7}   (ratios to Trainer)")
        for name, ratio, spread, memory in table:
            print(f"{name:30} {ratio:6.3f} {spread:7.3f} {'-' if memory is None else f'{memory:.2f}':>7}", flush=True)
        print(f"matching loss of two batches alone: {matching_share(options):.2%} of a plain forward and backward pass")
        rows += table
    return rows


if __name__ == "__main__":
    main()
