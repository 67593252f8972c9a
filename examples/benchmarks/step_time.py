"""Step time and peak memory of ITRATrainer as ratios to Trainer, and the matching loss's share of a step.

    python examples/benchmarks/step_time.py [MODEL_FOLDER]

Each variant trains on the same batches, in turns with the plain Trainer in one process, so that a machine whose
speed drifts slows both alike. A ratio is the median over rounds of (variant's median step / Trainer's median step in
the same round); the spread is the largest less the smallest. Without a folder the model is MiniLM-sized (6 layers,
384 wide) with random weights, which take as long.
"""

import argparse
import itertools
import statistics
import tempfile
import time

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

VARIANTS = {
    "weight 0": {"matching_weight": 0.0},
    "companion with gradient": {},
    "companion without gradient": {"companion_gradient": False},
    "class-matched companion": {"companion": "class_matched"},
    "companion's task loss too": {"companion_task_loss": True},
}


def build_model(folder: str | None, classes: int):
    if folder is not None:
        return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=classes)
    size = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    return BertForSequenceClassification(BertConfig(vocab_size=30522, num_labels=classes, **size))


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


def seconds_per_step(trainer: Trainer) -> float:
    """The median step of one run; its first step, which pays for the start, is left out."""
    times = StepTimes()
    trainer.add_callback(times)
    trainer.train()
    trainer.remove_callback(times)
    return statistics.median(b - a for a, b in itertools.pairwise(times.ends))


def peak_bytes() -> int | None:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def build_trainer(trainer_class, options, settings, folder: str) -> Trainer:
    args = ITRAConfig(
        output_dir=folder,
        per_device_train_batch_size=options.batch_size,
        max_steps=options.steps,
        bf16=options.bf16,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        **settings,
    )
    data = examples(options.batch_size * 16, options.length, options.classes)
    torch.manual_seed(0)
    trainer = trainer_class(model=build_model(options.model, options.classes), args=args, train_dataset=data)
    trainer.remove_callback(PrinterCallback)
    return trainer


def measure(options) -> list[tuple[str, float, float, float | None]]:
    """For each variant: name, median ratio, spread of the ratios, ratio of peak memory (GPU only)."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        plain = build_trainer(Trainer, options, {"matching_weight": 0.0}, folder)
        for name, settings in VARIANTS.items():
            trainer = build_trainer(ITRATrainer, options, settings, folder)
            ratios, memory = [], []
            for index in range(options.rounds + 1):
                seconds, peaks = [], []
                for one in (trainer, plain):
                    if torch.cuda.is_available():
                        torch.cuda.reset_peak_memory_stats()
                    seconds.append(seconds_per_step(one))
                    peaks.append(peak_bytes())
                if index > 0:  # the first round warms up
                    ratios.append(seconds[0] / seconds[1])
                    if peaks[0] and peaks[1]:
                        memory.append(peaks[0] / peaks[1])
            spread = max(ratios) - min(ratios)
            rows.append((name, statistics.median(ratios), spread, statistics.median(memory) if memory else None))
    return rows


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

    step = timed(lambda: model(**batch).loss.backward(), 5)
    labels = batch["labels"]
    return timed(lambda: loss(features[0], labels, features[1], labels).backward(), repeats) / step


def main(arguments: list[str] | None = None) -> list[tuple[str, float, float, float | None]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a model folder; default: MiniLM's size with random weights")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args(arguments)
    rows = measure(options)
    print(f"{'variant':30} {'time':>6} {'spread':>7} {'memory':>7}   (ratios to Trainer)")
    for name, ratio, spread, memory in rows:
        print(f"{name:30} {ratio:6.2f} {spread:7.2f} {'-' if memory is None else f'{memory:.2f}':>7}")
    print(f"matching loss, share of a plain step: {matching_share(options):.2%}")
    return rows


if __name__ == "__main__":
    main()
