"""What a checkpoint keeps of the alignment, so that a resumed run is bit for bit the undisturbed one's."""

import json
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_file, save_file
from transformers.utils import logging

from ..config_checks import Companion
from ..features.averages import AveragedWeights
from ..processes import mean_over_processes
from .aligner import Aligner
from .log import TrainingWatch
from .weight import MatchingWeight

STATE_NAME = "itra_state.json"
AVERAGE_NAME = "itra_average.safetensors"

logger = logging.get_logger(__name__)


class RunState(NamedTuple):
    """What a run's alignment remembers from step to step.

    Attributes:
        companion: where companions come from, as it was decided.
        feature: the setting.
        aligner: with the memory, if that is where they come from.
        weight: of the matching loss.
        watch: running figures.
        average_weights: those that companions run through; `None` where these are the weights themselves.
    """

    companion: Companion
    feature: str
    aligner: Aligner
    weight: MatchingWeight
    watch: TrainingWatch
    average_weights: AveragedWeights | None


def save_alignment(folder: str, run: RunState, should_save: bool) -> None:
    """Writes weight, running figures, averaged weights and memory into a checkpoint; every process has to call it.

    Args:
        folder: the checkpoint's.
        run: the run.
        should_save: whether this process writes what all of them share.
    """
    weight, aligner = run.weight, run.aligner
    weight.settle()
    state = run.watch.state_dict(mean_over_processes(aligner.accelerator, run.watch.sums.clone()))
    if should_save:
        content = {
            "balance": weight.balance.tolist(),
            "peak": weight.peak.item(),
            "watch": state,
            "alignment": aligner.alignment,
            "companion": run.companion,
            "memory": _kind_of_memory(run),
        }
        (Path(folder) / STATE_NAME).write_text(json.dumps(content), encoding="utf-8")
        if run.average_weights is not None:  # the same on all processes
            save_file(run.average_weights.state_dict(), Path(folder) / AVERAGE_NAME)
    if aligner.memory is not None and (should_save or _is_own(aligner)):
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file(aligner.memory.state_dict(), _memory_path(folder, aligner))


def load_alignment(folder: str, run: RunState) -> None:
    """Restores what `save_alignment` wrote; a checkpoint of a plain run has none of it, and changes nothing.

    Args:
        folder: the checkpoint's.
        run: the run.
    """
    path = Path(folder) / STATE_NAME
    if not path.is_file():
        logger.warning(f"Alignment starts anew, for the checkpoint has no {STATE_NAME}.")
        return
    state = json.loads(path.read_text(encoding="utf-8"))
    weight, aligner = run.weight, run.aligner
    weight.balance = weight.balance.new_tensor(state["balance"])
    weight.peak = weight.balance.new_tensor(state.get("peak", state["balance"][0]))  # older ones lack it
    run.watch.load_state_dict(state["watch"])
    if aligner.decides and state.get("alignment") is not None:  # older ones lack it
        aligner.decide(state["alignment"])
    if run.average_weights is not None:
        _load_average(Path(folder) / AVERAGE_NAME, run.average_weights)
    if aligner.memory is not None:
        _load_memory(_memory_path(folder, aligner), _without_correction(state["memory"]), run)


def saved_companion(folder: str) -> str | None:
    """Where the companion came from in the run that wrote a checkpoint; `None` where it does not say."""
    path = Path(folder) / STATE_NAME
    state = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return state.get("companion", "memory" if state.get("memory") else None)  # older ones lack it


def _load_average(path: Path, average_weights: AveragedWeights) -> None:
    if path.is_file():
        average_weights.load_state_dict(load_file(path))
    else:
        logger.warning(f"The running average of the weights starts anew, for the checkpoint has no {path.name}.")


def _load_memory(path: Path, kept: dict[str, str | int], run: RunState) -> None:
    wanted, memory = _kind_of_memory(run), run.aligner.memory
    assert memory is not None
    if kept != wanted or not path.is_file():
        logger.warning(
            "This run starts with an empty memory of features, for the checkpoint's is incomplete or was kept with "
            f"other settings: {kept}, now {wanted}."
        )
        return
    device = run.aligner.accelerator.device
    memory.load_state_dict({name: tensor.to(device) for name, tensor in load_file(path).items()})


def _kind_of_memory(run: RunState) -> dict[str, str | int]:
    """The settings that stored features depend on, and how many memories there are; nothing without a memory."""
    aligner = run.aligner
    if aligner.memory is None:
        return {}
    return {
        "feature": run.feature,
        "alignment": aligner.matching_loss.alignment,
        "memories": aligner.accelerator.num_processes if _is_own(aligner) else 1,
    }


def _without_correction(kept: dict[str, str | int]) -> dict[str, str | int]:
    """What an older checkpoint says of its memory; features that were stored relative to a mean fit none now."""
    plain = kept.get("memory_correction", "none") == "none"
    return {name: value for name, value in kept.items() if not (plain and name == "memory_correction")}


def _memory_path(folder: str, aligner: Aligner) -> Path:
    """One file for all processes where they share the memory, else one each."""
    process = f"_{aligner.accelerator.process_index}" if _is_own(aligner) else ""
    return Path(folder) / f"itra_memory{process}.safetensors"


def _is_own(aligner: Aligner) -> bool:
    return aligner.accelerator.num_processes > 1 and not aligner.gather
