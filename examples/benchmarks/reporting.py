"""What the reports cost: compactness in evaluation, and a measurement of the gradient's noise.

    python -m examples.benchmarks reporting [--model FOLDER|minilm|bert-base]

Both runs of a pair take turns in one process. The first ratio is the median over rounds of an evaluation pass with
compactness over one without; the second is what a measurement adds to a training step, in plain steps.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from transformers import Trainer

from itra_hf import ITRATrainer

sys.path.insert(0, str(Path(__file__).parent))
from step_time import build_trainer, examples, seconds_per_step


def evaluation_ratios(options, folder: str) -> list[float]:
    """For each round, the time of an evaluation pass with compactness over the time of one without."""
    trainers = []
    for asked in (True, False):
        trainer = build_trainer(ITRATrainer, options, {"eval_compactness": asked}, folder)
        trainer.eval_dataset = examples(options.eval_rows, options.length, options.classes)
        trainers.append(trainer)
    ratios = []
    for _ in range(options.rounds + 1):
        seconds = []
        for trainer in trainers:
            start = time.perf_counter()
            trainer.evaluate()
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    return ratios[1:]  # the first round warms up


def noise_steps(options, folder: str) -> list[float]:
    """For each round, how many plain steps a measurement of the gradient's noise takes."""
    measured = build_trainer(ITRATrainer, options, {"matching_weight": 0.0, "gradient_noise_steps": 1}, folder)
    plain = build_trainer(Trainer, options, {"matching_weight": 0.0}, folder)
    ratios = [seconds_per_step(measured) / seconds_per_step(plain) - 1 for _ in range(options.rounds + 1)]
    return ratios[1:]


def main(arguments: list[str] | None = None) -> dict[str, list[float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm", help="a folder, or a size: minilm, bert-base")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--eval_rows", type=int, default=512)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    options.bf16 = False
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "evaluation with compactness / without": evaluation_ratios(options, folder),
            "measurement of the gradient's noise / plain step": noise_steps(options, folder),
        }
    for name, values in results.items():
        print(f"{name:50} {statistics.median(values):.3f}  spread {max(values) - min(values):.3f}")
    return results


if __name__ == "__main__":
    main()
