"""Runs of a study whose figures are kept in one small file each, so that it goes on anywhere where it stopped."""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from itra_hf.comparison.measures import Measure, PairedDifference, paired_difference, show
from itra_hf.comparison.plan import Run
from itra_hf.comparison.run import ERROR, RESULT, execute, write_atomically
from itra_hf.comparison.schedule import process_context

PLAIN = "plain"
SHARED = ("seconds", "peak_memory")  # not a run's own where several share a GPU
TITLES = {"accuracy": "accuracy, points", "calibration_error": "calibration error, points"}

Figures = dict[str, dict[str, dict[int, float]]]  # by variant, measure and seed


Measuring = Callable[[Run, Path], Sequence[Mapping[str, Any]]]


def finish(run: Run, kept: Path, scratch: Path, measuring: Measuring | None = None, gives: Sequence[str] = ()) -> None:
    """Runs what has no figures yet and is not being run, on one thread; what went wrong is printed.

    Args:
        run: what to do.
        kept: the folder of the condition's figures, a file a run.
        scratch: the folder of what is only there while it runs.
        measuring: trains once, and gives the results of several variants; `None` for the run's own.
        gives: the names of these variants.
    """
    name = f"{run.variant}-{run.seed}"
    paths, folder = [kept / f"{each}-{run.seed}.json" for each in gives or (run.variant,)], scratch / name
    if all(path.is_file() for path in paths):
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            if not all(path.is_file() for path in paths):  # since
                print(kept.name, name, _run(run, paths, folder, measuring), flush=True)
    except Timeout:
        print(kept.name, name, "is being run", flush=True)


def _run(run: Run, paths: Sequence[Path], folder: Path, measuring: Measuring | None) -> str:
    process = process_context().Process(target=execute, args=(run, folder, 1, None, measuring))
    process.start()
    process.join()
    result, error = folder / RESULT, folder / ERROR
    if not result.is_file():
        return f"failed: {error.read_text(encoding='utf-8').strip()}" if error.is_file() else "was killed"
    results = json.loads(result.read_text(encoding="utf-8"))
    for path, each in zip(paths, results if measuring else [results], strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, small(each, device_of(run)))
    shutil.rmtree(folder)
    return "done"


def device_of(run: Run) -> str | None:
    """The name of the GPU that a run trains on; `None` for a CPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() and not run.fields.get("use_cpu") else None


def small(result: Mapping[str, Any], device: str | None = None) -> str:
    """A run's figures to five digits, and the loss and the matching weight over training, in one short file."""
    losses, weights = (
        [float(f"{entry[name]:.3g}") for entry in result["log"] if name in entry]
        for name in ("loss", "matching_weight")
    )
    kept = {name: result[name] for name in ("variant", "seed", "steps", "trained", "tested")}
    for name in ("cosine_then", "cosine_now"):
        if found := [float(f"{entry[name]:.4g}") for entry in result["log"] if name in entry]:
            kept[name] = found
    figures = {name: float(f"{value:.5g}") for name, value in result["metrics"].items() if value is not None}
    if device is not None:
        kept["device"] = device
        figures = {name: value for name, value in figures.items() if name not in SHARED}
    return json.dumps({**kept, "figures": figures, "losses": losses, "matching_weights": weights}) + "\n"


def read_figures(folder: Path) -> Figures:
    """The figures of a condition's runs."""
    found: Figures = {}
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        for name, value in run["figures"].items():
            found.setdefault(run["variant"], {}).setdefault(name, {})[run["seed"]] = value
    return found


def difference(figures: Figures, variant: str, measure: Measure, baseline: str = PLAIN) -> PairedDifference:
    """A variant minus another, paired by seed."""
    return paired_difference(figures[variant][measure.name], figures[baseline][measure.name], measure.better)


def means_by_seed(group: Sequence[Figures], variant: str, measure: str, also: str) -> dict[int, float]:
    """A variant's means over conditions, for the seeds that all of them have of it and of another one."""
    seeds = set.intersection(*(set(each[part][measure]) for each in group for part in (variant, also)))
    return {seed: float(np.mean([each[variant][measure][seed] for each in group])) for seed in sorted(seeds)}


def together(group: Sequence[Figures], variant: str, measure: Measure, baseline: str = PLAIN) -> PairedDifference:
    """A variant minus another, each seed's mean over conditions counting once."""
    own = means_by_seed(group, variant, measure.name, also=baseline)
    return paired_difference(own, means_by_seed(group, baseline, measure.name, also=variant), measure.better)


def cell(found: PairedDifference, measure: Measure) -> str:
    """A difference with half its interval; bold where the interval leaves 0 out."""
    text = show(measure, found.mean, signed=True)
    if math.isfinite(found.low):
        text += f" ± {show(measure, (found.high - found.low) / 2, signed=True)[1:]}"
    return f"**{text}**" if found.verdict in ("better", "worse") else text
