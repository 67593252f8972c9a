"""One run of a comparison, in a process of its own: trains, tests, and leaves its figures in a file."""

import json
import math
import multiprocessing
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import version
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import datasets
import psutil
import torch
from threadpoolctl import threadpool_limits
from transformers import Trainer, set_seed

from ..features.item_counts import have_losses_divided
from ..text.data import Task, tokenize
from ..text.metrics import compute_metrics_for
from ..text.models import fitting_length, load_model
from ..text.train import read_data
from .assessment import assess
from .measures import BY_NAME
from .plan import Run
from .spoiling import HELD_OUT, UNKNOWN, spoil
from .variants import load_trainer

RESULT, ERROR, LOG = "result.json", "error.txt", "log.txt"


def execute(
    run: Run, folder: Path, threads: int, device: str | None = None, measuring: Callable[[Run, Path], Any] | None = None
) -> None:
    """Runs, and writes `result.json` at once and whole, or `error.txt`; what is printed goes to `log.txt`.

    Args:
        run: what to do.
        folder: the run's own.
        threads: for this process.
        device: the one GPU that it may see; `None`: as they are.
        measuring: trains and gives what is written; `None` for `measure`.

    Raises:
        SystemExit: with status 1, after an error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ERROR).unlink(missing_ok=True)
    _end_with_parent()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    with open(folder / LOG, "w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        torch.set_num_threads(threads)
        try:
            with threadpool_limits(threads):
                result = (measuring or measure)(run, folder)
        except Exception as error:
            traceback.print_exc()
            sys.stderr.flush()
            (folder / ERROR).write_text(f"{type(error).__name__}: {error}\n", encoding="utf-8")
            raise SystemExit(1) from error
        write_atomically(folder / RESULT, json.dumps(result, indent=1))


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however that ended: another may do the run again."""
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(process: BaseProcess) -> None:
    process.join()
    os._exit(1)


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def measure(run: Run, folder: Path) -> dict[str, Any]:
    """Trains and tests; the folder keeps the features of the tested examples, and not the trainer's own files.

    Returns:
        The figures of `MEASURES` that apply, `None` where one is not finite, the training's log and what was run.

    Raises:
        FloatingPointError: the run diverged.
        ValueError: no step was made.
    """
    trainer, tested, task, others = build(run, folder)
    seconds = trainer.train().metrics["train_runtime"]
    if trainer.state.global_step == 0:
        args, rows = trainer.args, len(trainer.train_dataset)  # type: ignore[arg-type]
        raise ValueError(
            f"nothing was trained: no step is made of {rows} training examples in batches of {args.train_batch_size}, "
            f"with num_train_epochs={args.num_train_epochs:g} and dataloader_drop_last={args.dataloader_drop_last}."
        )
    result = report(run, folder, trainer, tested, task, others, seconds)
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    return result


def report(
    run: Run,
    folder: Path,
    trainer: Trainer,
    tested: datasets.Dataset,
    task: Task,
    others: Mapping[str, datasets.Dataset],
    seconds: float,
) -> dict[str, Any]:
    """What `measure` returns, of a trained model.

    Args:
        run: what was done.
        folder: the run's own.
        trainer: after training.
        tested: as from `build`, like the next two.
        task: of the known classes.
        others: what was left out of training.
        seconds: that training took.
    """
    peak = peak_memory(trainer.args.device)
    trainer.args.dataloader_drop_last = False  # of the training set alone
    metrics = assess(trainer, tested, task, others, run.seed, folder) | {"seconds": seconds, "peak_memory": peak}
    found = {name: float(metrics[name]) for name in BY_NAME if metrics.get(name) is not None}
    return {
        "variant": run.variant,
        "seed": run.seed,
        "train_samples": run.train_samples,
        "metrics": {name: value if math.isfinite(value) else None for name, value in found.items()},
        "steps": trainer.state.global_step,
        "trained": len(trainer.train_dataset),  # type: ignore[arg-type]
        "tested": len(tested),
        "tested_on": "validation" if tested is trainer.eval_dataset else "test",
        "unknown": len(others[UNKNOWN]) if UNKNOWN in others else 0,
        "log": [
            {key: value for key, value in entry.items() if not isinstance(value, float) or math.isfinite(value)}
            for entry in trainer.state.log_history
        ],
        "versions": {name: version(name) for name in ("itra_hf", "torch", "transformers")},
    }


def build(run: Run, folder: Path) -> tuple[Trainer, datasets.Dataset, Task, dict[str, datasets.Dataset]]:
    """Reads and prepares the data, and makes the trainer.

    Returns:
        The trainer, the examples to test on, the task, and what `spoil` left out of training, by name.

    Raises:
        ValueError: settings, data and trainer that don't go together, or files that have changed.
    """
    model_args, data_args, args = run.arguments(folder / "trainer")
    run.check_sources()
    trainer_class = load_trainer(run.trainer)
    set_seed(run.seed)  # the new head starts from it, whatever the trainer's file did to the generators
    splits, task, tested = spoil(run, *read_data(data_args, args, model_args), data_args)
    model, tokenizer = load_model(model_args, task)
    longest = fitting_length(data_args.max_seq_length, model, tokenizer)
    for name, data in splits.items():
        splits[name] = tokenize(data, tokenizer, task, longest, data_args.preprocessing_num_workers)
    steps = count_steps(len(splits["train"]), args)
    if run.extra_compute == "batch":
        args.per_device_train_batch_size *= 2
        args.max_steps = steps
        if args.dataloader_drop_last and args.per_device_train_batch_size > len(splits["train"]):
            raise ValueError(
                f"twice the batch is {args.per_device_train_batch_size}, of which {len(splits['train'])} training "
                "examples fill none, and dataloader_drop_last=True drops what is not full; equal_compute: steps does "
                "without."
            )
    elif run.extra_compute == "steps":
        args.max_steps = 2 * steps
    trainer = trainer_class(
        model=model,
        args=args,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics_for(task.problem_type),
        **run.trainer_arguments,
    )
    have_losses_divided(trainer)  # as ITRATrainer does
    return trainer, splits[tested], task, {name: splits[name] for name in (UNKNOWN, HELD_OUT) if name in splits}


def count_steps(examples: int, args: Any) -> int:
    """The optimizer steps of a plain run, as the Trainer counts them in one process."""
    if args.max_steps > 0:
        return args.max_steps
    batches = examples / args.per_device_train_batch_size
    batches = math.floor(batches) if args.dataloader_drop_last else math.ceil(batches)
    return math.ceil(args.num_train_epochs * max(1, math.ceil(batches / args.gradient_accumulation_steps)))


def peak_memory(device: torch.device) -> float:
    """The most memory that this process has held so far, in MB: of the GPU where it trains on one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
