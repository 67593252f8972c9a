"""Time per example with one and with two processes, and what gathering the features costs.

    python -m examples.benchmarks scaling [--model FOLDER|minilm|bert-base] [--processes 1 2]

Starts the same measurement once for each number of processes, which share nothing but the network between them: on a
CPU one thread each, through gloo. In a run all variants take turns with the plain Trainer, so ratios within a column
compare well; those across columns are of different runs. The batch size is that of one process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import Trainer
from transformers.utils import logging

from itra_hf import ITRATrainer

sys.path.insert(0, str(Path(__file__).parent))
from step_time import PLAIN, build_model, build_trainer, seconds_per_step

VARIANTS = {
    "sample": {"companion": "sample", "companion_decay": 0.0},
    "sample, gather_features=False": {"companion": "sample", "companion_decay": 0.0, "gather_features": False},
    "split": {"companion": "split"},
    "split, gather_features=False": {"companion": "split", "gather_features": False},
    "memory": {"companion": "memory"},
    "memory, gather_features=False": {"companion": "memory", "gather_features": False},
}


def measure_in_process(options) -> dict[str, list[float]]:
    """Seconds a step of each variant, a round each, on this process."""
    logging.set_verbosity_error()
    model = build_model(options.model, options.classes)
    with tempfile.TemporaryDirectory() as folder:
        trainers = {PLAIN: build_trainer(Trainer, options, {"matching_weight": 0.0}, folder, model)}
        for name, settings in VARIANTS.items():
            trainers[name] = build_trainer(ITRATrainer, options, settings, folder, model)
        seconds: dict[str, list[float]] = {name: [] for name in trainers}
        for index in range(options.rounds + 1):
            for name in list(trainers) if index % 2 else reversed(trainers):
                value = seconds_per_step(trainers[name])
                if index > 0:  # the first round warms up
                    seconds[name].append(value)
    return seconds


def measure(options, processes: int) -> dict[str, list[float]]:
    """Seconds a step of each variant, a round each, with so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "seconds.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        settings = [
            f"--{name}={getattr(options, name)}" for name in ("model", "batch_size", "length", "steps", "rounds")
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, __file__, *settings, f"--write={result}"], check=True, env=environment)
        return json.loads(result.read_text())


def main(arguments: list[str] | None = None) -> dict[int, dict[str, list[float]]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm", help="a folder, or a size: minilm, bert-base")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--write", help=argparse.SUPPRESS)  # set in the processes that measure
    options = parser.parse_args(arguments)
    options.classes, options.bf16 = 8, False
    if options.write:
        seconds = measure_in_process(options)
        if int(os.environ["RANK"]) == 0:
            Path(options.write).write_text(json.dumps(seconds))
        return {}
    results = {count: measure(options, count) for count in options.processes}
    print(f"\n{'':32}" + "".join(f"{f'{count} process(es)':>34}" for count in results))
    print(f"{'':32}" + f"{'ms an example':>16}{'ratio':>9}{'spread':>9}" * len(results))
    for name in (PLAIN, *VARIANTS):
        line = f"{name:32}"
        for count, seconds in results.items():
            each = statistics.median(seconds[name]) / (options.batch_size * count) * 1e3
            ratios = [own / plain for own, plain in zip(seconds[name], seconds[PLAIN], strict=True)]
            line += f"{each:16.2f}{statistics.median(ratios):9.3f}{max(ratios) - min(ratios):9.3f}"
        print(line)
    return results


if __name__ == "__main__":
    if "LOCAL_RANK" in os.environ and not torch.cuda.is_available():
        torch.set_num_threads(1)
    main()
