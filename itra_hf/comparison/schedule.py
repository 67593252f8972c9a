"""Runs what a plan lacks, each run in a process of its own, as many at one time as memory allows."""

import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm.auto import tqdm

from .plan import Run
from .run import ERROR, LOG, RESULT, execute

POLL = 0.1  # seconds between looks at the processes
SETTLED = 20  # looks without growth until the second run may start, while none has ended yet
SPARE = 1.2  # times the largest run seen so far has to be free before another starts


def run_missing(runs: Sequence[Run], folder: Path, processes: int) -> dict[str, str]:
    """Runs those whose results are not there, with a progress bar; what went wrong, by the keys of those that failed.

    A run that fails does not stop the others. An interrupt ends those in progress; what is finished stays.

    Args:
        runs: all runs of a study.
        folder: has a folder for each run, by its key.
        processes: the most at one time; they share the threads of this process, and the GPUs in turn.
    """
    unique = {run.key: run for run in runs}  # without those that do the same under another name
    waiting = [run for key, run in unique.items() if not (folder / key / RESULT).is_file()]
    failed: dict[str, str] = {}
    started: dict[int, tuple[Run, BaseProcess]] = {}  # by a number below `processes`, which chooses the GPU
    # By all runs, not those that wait: the last to be done again compare with those that shared the threads.
    threads = max(1, torch.get_num_threads() // max(1, min(processes, len(unique))))
    context = process_context()
    largest = quiet = 0
    try:
        with tqdm(total=len(waiting), desc="runs", unit="run", smoothing=0, disable=not waiting) as bar:
            while waiting or started:
                held = [_memory(process) for _, process in started.values()]
                quiet = 0 if max(held, default=0) > largest else quiet + 1
                largest = max([largest, *held])
                known = bar.n or quiet >= SETTLED  # how much a run needs
                if waiting and (not started or (len(started) < processes and known and _fits(largest, held))):
                    run, slot = waiting.pop(0), min(set(range(processes)) - set(started))
                    process = context.Process(target=execute, args=(run, folder / run.key, threads, _device(slot)))
                    process.start()
                    started[slot] = run, process
                    bar.set_postfix_str(", ".join(_title(each) for each, _ in started.values()))
                    continue
                time.sleep(POLL)
                for slot in [slot for slot, (_, process) in started.items() if not process.is_alive()]:
                    run, process = started.pop(slot)
                    if (error := problem(folder / run.key, process.exitcode)) is not None:
                        failed[run.key] = error
                        bar.write(f"{_title(run)} failed: {error}")
                    bar.update()
    finally:
        for _, process in started.values():
            process.terminate()
        for _, process in started.values():
            process.join()
    return failed


def problem(folder: Path, exit_code: int | None) -> str | None:
    """Why a run left no result, in one line; `None` if it left one."""
    if (folder / RESULT).is_file():
        return None
    error = folder / ERROR
    if error.is_file():
        return " ".join(error.read_text(encoding="utf-8").split())
    code = exit_code or 0
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with {exit_code}"
    return f"the process {ended}, perhaps for want of memory; see {folder / LOG}"


def process_context() -> Any:
    """Starts processes from one that has imported everything and trained nothing, where the system can."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["itra_hf.comparison.run"])
    return context


def _fits(largest: int, held: Sequence[int]) -> bool:
    # Those that have just started will take as much as the others.
    promised = sum(largest - each for each in held)
    return largest > 0 and psutil.virtual_memory().available - promised > SPARE * largest


def _memory(process: BaseProcess) -> int:
    try:
        return psutil.Process(process.pid).memory_info().rss
    except psutil.Error:  # it has just ended
        return 0


def _device(slot: int) -> str | None:
    gpus = torch.cuda.device_count()
    visible = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return None if gpus < 2 else (visible if len(visible) == gpus else [*map(str, range(gpus))])[slot % gpus]


def _title(run: Run) -> str:
    return f"{run.variant}, seed {run.seed}" + ("" if run.train_samples is None else f", {run.train_samples} examples")
